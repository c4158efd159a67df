"""How the reader of a story can start what it tells of."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def programs() -> tuple[str, str]:
    """The command line and Python: by name where the reader's shell finds them, else by path."""
    folder = Path(sys.executable).parent
    own = folder / "blindai"
    found = shutil.which("blindai")
    if not own.exists() or (found is not None and Path(found).resolve() == own.resolve()):
        return "blindai", "python"
    return near(own), near(Path(sys.executable))


def near(path: Path) -> str:
    """`path` as seen from here, where that is shorter."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
