"""Make or update the virtual environment `.venvs/NAME` from `requirements/NAME.txt`, with this checkout in it.

Needs nothing but Python's standard library. Everything that is downloaded is checked against the
hashes in the lock: first the installer (uv) by pip, then the packages by uv. pip's configuration
(index, mirror, find-links, certificates) is handed on to uv wherever uv has none of its own.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENVS = ROOT / ".venvs"
BOOTSTRAP = VENVS / "bootstrap"
OLDEST = (3, 11)

# Option of pip -> (variable of uv, separator). What pip merges from all its sources stays merged.
PIP_TO_UV = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "no-index": ("UV_NO_INDEX", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
}


def say(text: str) -> None:
    """One line of progress, at once."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def executable(environment: Path, name: str) -> Path:
    """Path of a program of a virtual environment."""
    if os.name == "nt":
        return environment / "Scripts" / f"{name}.exe"
    return environment / "bin" / name


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Run a command in the checkout; its output is shown only when it fails.

    Raises:
        SystemExit: the command failed.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}\nfailed ({done.returncode}): {' '.join(str(part) for part in command)}")


def pip_settings(listing: str) -> dict[str, str]:
    """What `pip config list` prints, by option; later sources win, as they do in pip.

    pip lists its sources from the weakest (global) to the strongest (the environment); of the sections
    only `global`, `install` and the environment apply to installing.
    """
    found: dict[str, str] = {}
    for line in listing.splitlines():
        match = re.fullmatch(r"(global|install|:env:)\.([a-z-]+)=(.*)", line)
        if match:
            found[match[2]] = str(ast.literal_eval(match[3]))
    return found


def uv_variables(settings: dict[str, str]) -> dict[str, str]:
    """Settings of pip as the variables of uv, less what is not there."""
    variables: dict[str, str] = {}
    for option, (variable, separator) in PIP_TO_UV.items():
        values = settings.get(option, "").split()
        if option == "find-links":
            values = [value for value in values if "://" in value or Path(value).is_dir()]
        if values:
            variables[variable] = separator.join(values)
    if "UV_INDEX" in variables:
        # pip takes a package from whichever index has the wanted version; the hash says which file is meant.
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return variables


def uv_environment() -> dict[str, str]:
    """The environment for uv: the caller's, completed from pip's configuration."""
    listing = subprocess.run(
        [executable(BOOTSTRAP, "python"), "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    env = {**uv_variables(pip_settings(listing)), **os.environ}
    env.pop("VIRTUAL_ENV", None)
    # Copies are made quietly where the cache is on another file system.
    env.setdefault("UV_LINK_MODE", "copy" if os.name == "nt" else "hardlink")
    return env


def bootstrap() -> None:
    """Make the environment that holds uv and the build backend, unless it is there."""
    lock = ROOT / "requirements" / "bootstrap.txt"
    stamp = BOOTSTRAP / "lock.txt"
    if stamp.exists() and stamp.read_bytes() == lock.read_bytes() and executable(BOOTSTRAP, "uv").exists():
        return
    say("setting up the installer (once)")
    shutil.rmtree(BOOTSTRAP, ignore_errors=True)
    run(sys.executable, "-m", "venv", BOOTSTRAP)
    pip = (executable(BOOTSTRAP, "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--require-hashes", "--only-binary=:all:", "--requirement", lock)
    stamp.write_bytes(lock.read_bytes())
    (BOOTSTRAP / "ready").touch()


def install(name: str) -> None:
    """Bring `.venvs/NAME` to exactly what its lock says."""
    lock = ROOT / "requirements" / f"{name}.txt"
    if not lock.exists():
        raise SystemExit(f"there is no requirements/{name}.txt")
    started = time.monotonic()
    bootstrap()
    if name == BOOTSTRAP.name:
        return
    environment = VENVS / name
    uv = executable(BOOTSTRAP, "uv")
    env = uv_environment()
    packages = len(re.findall(r"^[A-Za-z0-9]", lock.read_text("utf-8"), re.MULTILINE))
    say(f"installing into .venvs/{name}: {packages} locked packages at most")
    if not executable(environment, "python").exists():
        shutil.rmtree(environment, ignore_errors=True)
        run(uv, "venv", "--quiet", "--no-project", "--python", sys.executable, environment, env=env)
    target = ("--quiet", "--python", executable(environment, "python"))
    run(uv, "pip", "sync", *target, "--require-hashes", lock, env=env)
    wheels = environment / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    run(executable(BOOTSTRAP, "python"), "-m", "hatchling", "build", "--target", "wheel:editable", "-d", wheels)
    run(uv, "pip", "install", *target, "--no-deps", *wheels.glob("*.whl"), env=env)
    (environment / "ready").touch()
    say(f"ready in {time.monotonic() - started:.1f} s")


def main() -> int:
    if sys.version_info < OLDEST:
        raise SystemExit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    if len(sys.argv) != 2:
        raise SystemExit("usage: environment.py NAME   (a file requirements/NAME.txt)")
    install(sys.argv[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
