"""Write requirements/*.txt from pyproject.toml (`make lock`), or check that they are up to date (`--check`).

Each file is a universal lock: exact versions with the hashes of all their files and markers for every
platform and Python that the project supports. A digest of the inputs stands in its first line, so that
the check needs no network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
OVERRIDES = REQUIREMENTS / "overrides.in"
MARK = "# inputs: sha256:"

# What builds the project, and npm for who has none: locked from a list of their own, requirements/NAME.in.
TOOLS = ("bootstrap", "node")

# Lock file -> extras of pyproject.toml. `dev` comes first: the others are held to its versions.
LOCKS: dict[str, tuple[str, ...]] = {
    "dev": ("dev",),
    "dev-tpm": ("dev", "tpm"),
    "client": (),
    "server": ("server", "text"),
    "custodian": ("server", "text", "custodian"),
    "cloud": ("server", "text", "cloud"),
    "bench": ("bench",),
    "fuzz": ("fuzz",),
    "docs": ("docs",),
}


def project() -> dict[str, object]:
    """The part of pyproject.toml on which the locks depend."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    fields = ("requires-python", "dependencies", "optional-dependencies")
    return {field: table["project"][field] for field in fields}


def digest(name: str) -> str:
    """Digest of the inputs of the lock `name`, hex."""
    if name in TOOLS:
        inputs: object = (REQUIREMENTS / f"{name}.in").read_text("utf-8").splitlines()
    else:
        inputs = [project(), OVERRIDES.read_text("utf-8").splitlines()]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def compile_lock(name: str, *, upgrade: bool) -> None:
    """Resolve and write one lock. Needs uv on the path and a package index."""
    target = REQUIREMENTS / f"{name}.txt"
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--generate-hashes"]
    command += ["--annotation-style=line", "--no-emit-index-url", "--no-header"]
    command += ["--output-file", f"requirements/{name}.txt"]
    if upgrade:
        command.append("--upgrade")
    if name in TOOLS:
        command.append(f"requirements/{name}.in")
    else:
        command.append("pyproject.toml")
        command += [f"--extra={extra}" for extra in LOCKS[name]]
        command += ["--override", f"requirements/{OVERRIDES.name}"]
        if name != "dev":
            command += ["--constraint", "requirements/dev.txt"]
    subprocess.run(command, cwd=ROOT, check=True)
    header = f"{MARK}{digest(name)}\n# Written by `make lock`; do not edit.\n"
    target.write_text(header + target.read_text("utf-8"), "utf-8")
    sys.stdout.write(f"requirements/{name}.txt\n")


def stale() -> list[str]:
    """Names of the locks that were not made from the present inputs."""
    found = []
    for name in (*TOOLS, *LOCKS):
        path = REQUIREMENTS / f"{name}.txt"
        first = path.read_text("utf-8").partition("\n")[0] if path.exists() else ""
        if first != MARK + digest(name):
            found.append(name)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only tell whether the locks are up to date")
    parser.add_argument("--upgrade", action="store_true", help="take newer versions where the floors allow it")
    options = parser.parse_args()
    if options.check:
        names = stale()
        for name in names:
            sys.stderr.write(f"requirements/{name}.txt was not made from the present pyproject.toml: run `make lock`\n")
        return 1 if names else 0
    os.environ.setdefault("UV_NO_PROGRESS", "1")
    for name in (*TOOLS, *LOCKS):
        compile_lock(name, upgrade=options.upgrade)
    return 0


if __name__ == "__main__":
    sys.exit(main())
