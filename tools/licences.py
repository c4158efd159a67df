"""Check that everything installed with `blindai[all]` is under a licence that Apache-2.0 can live with.

Reads the metadata of the installed packages, following the dependencies that apply on this platform.
A package whose metadata names its licence in other words than SPDX is listed in `NAMED` after it was looked at.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PERMISSIVE = {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "PSF-2.0", "Zlib"}

# Older metadata: the text of the field `License`, or a classifier, to SPDX.
NAMED = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "ISC License": "ISC",
    "License :: OSI Approved :: MIT License": "MIT",
    "MIT License": "MIT",
}

# Packages whose metadata name a family of licences; which of them it is stands at the top of their source.
READ = {"jinja2": "BSD-3-Clause", "nvidia-ml-py": "BSD-3-Clause", "pyasn1-modules": "BSD-2-Clause"}

# Not permissive, but a library that is used as it comes, loaded at run time, and only by who asks for its extra.
LIBRARIES = {"psycopg": "LGPL-3.0-only", "psycopg-binary": "LGPL-3.0-only"}

# Packages that the locks leave out, although others ask for them.
OVERRIDES = Path(__file__).parents[1] / "requirements" / "overrides.in"
LEFT_OUT = frozenset(
    canonicalize_name(Requirement(line).name)
    for line in OVERRIDES.read_text("utf-8").splitlines()
    if line and not line.startswith("#")
)


def installed(name: str, extras: frozenset[str], seen: dict[str, set[str]]) -> None:
    """Collect into `seen` the packages on which `name[extras]` depends here, itself included."""
    key = canonicalize_name(name)
    known = seen.setdefault(key, set())
    if known >= {"", *extras}:
        return
    known.update({"", *extras})
    for line in metadata.requires(name) or []:
        requirement = Requirement(line)
        if canonicalize_name(requirement.name) in LEFT_OUT:
            continue
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in known):
            installed(requirement.name, frozenset(requirement.extras), seen)


def licence(name: str) -> str:
    """The SPDX expression of an installed package, or whatever its metadata says instead."""
    fields = metadata.metadata(name)
    if "License-Expression" in fields:
        return str(fields["License-Expression"])
    text = str(fields["License"]) if "License" in fields else ""
    classifiers: list[str] = [c for c in fields.get_all("Classifier") or [] if c.startswith("License ::")]
    for said in (text, *classifiers):
        if said in NAMED or said in PERMISSIVE:
            return NAMED.get(said, said)
    if canonicalize_name(name) in READ:
        return READ[canonicalize_name(name)]
    return text.partition("\n")[0] or "; ".join(classifiers) or "none named"


def allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met with permissive licences alone."""
    # Of an OR one side is enough; parentheses do not occur in what is installed, and are refused.
    return any(
        all(part.strip() in PERMISSIVE for part in re.split(r"\s+AND\s+", side))
        for side in re.split(r"\s+OR\s+", expression)
    )


def main() -> int:
    seen: dict[str, set[str]] = {}
    installed("blindai", frozenset({"all"}), seen)
    refused = [
        f"{name}: {licence(name)}"
        for name in sorted(seen)
        if not allowed(licence(name)) and LIBRARIES.get(name) != licence(name)
    ]
    for line in refused:
        sys.stderr.write(f"licence not allowed: {line}\n")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
