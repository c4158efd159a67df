"""Check every text file of the project for what must not be committed, and its Markdown for dead links.

Looked for: paths of somebody's machine, notes to do later, conflict marks, suppressed warnings
without a reason, white space at line ends, and links in Markdown files to files that are not there.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Generated files, the text of the licence, and the patterns below themselves.
SKIPPED = ("requirements/", "LICENSE", "tools/texts.py")

FORBIDDEN = {
    r"(?<![\w./-])/(?:home/(?!user\b)|root/|Users/|work/|tmp/\w+/)\w": "a path of one machine",
    r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b": "a note to do later: file an issue instead",
    r"^(?:<{7}|={7}|>{7})(?: |$)": "a conflict mark",
    r"[ \t]+$": "white space at the end of a line",
    r"# type: ignore(?!\[[\w, -]+\]\W+\w)": "a type error ignored without a code and a reason",
    r"# noqa(?!: [A-Z]+\d+(?:, [A-Z]+\d+)*\W+\w)": "a warning ignored without a code and a reason",
    r"# pragma: no cover(?! - \w)": "a line left out of coverage without a reason",
}
PATTERNS = {re.compile(pattern): meaning for pattern, meaning in FORBIDDEN.items()}
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s#]+)")


def files() -> Iterator[Path]:
    """All text files that are, or are about to be, under version control."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in sorted(set(listing.decode().split("\0")) - {""}):
        path = ROOT / name
        if not name.startswith(SKIPPED) and path.is_file():
            yield path


def findings(path: Path) -> Iterator[str]:
    """What is wrong with one file, as `path:line: what`."""
    name = path.relative_to(ROOT)
    data = path.read_bytes()
    if b"\0" in data or path.suffix in {".onnx", ".npz"}:
        return
    text = data.decode("utf-8")
    if text and (not text.endswith("\n") or text.endswith("\n\n")):
        yield f"{name}: must end with one line feed"
    for number, line in enumerate(text.splitlines(), start=1):
        for pattern, meaning in PATTERNS.items():
            if pattern.search(line):
                yield f"{name}:{number}: {meaning}"
        if path.suffix == ".md":
            for target in LINK.findall(line):
                if not (path.parent / target).exists():
                    yield f"{name}:{number}: no such file: {target}"


def main() -> int:
    found = [finding for path in files() for finding in findings(path)]
    for finding in found:
        sys.stderr.write(finding + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
