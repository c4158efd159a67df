"""Nothing of a lease or an assertion depends on a clock that somebody can set."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest

from blindai.enclave import clock

ENCLAVE = Path(clock.__file__).parent
MODULES = [
    *sorted(path for folder in ("lease", "cloud") for path in (ENCLAVE / folder).glob("*.py")),
    ENCLAVE / "clock.py",
    ENCLAVE / "line.py",
]

# What tells the time of day, by the last part of its name.
WALL = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime", "CLOCK_REALTIME", "datetime", "date"}


def names(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in {"time", "datetime"}
        ):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module in {"time", "datetime"}:
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name == "datetime"}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_none_of_their_modules_reads_the_wall_clock(path: Path) -> None:
    assert not names(ast.parse(path.read_text("utf-8"))) & WALL


def test_the_scan_would_see_it() -> None:
    assert names(ast.parse("import time\ntime.time()")) & WALL
    assert names(ast.parse("from datetime import datetime")) & WALL


def test_only_the_clock_module_reads_a_clock() -> None:
    readers = {path.stem for path in MODULES if "import time" in path.read_text("utf-8").split("\n")}
    assert readers == {"clock"}


def test_it_counts_what_the_boot_clock_counts() -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert before <= clock.elapsed_ns() <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_where_there_is_no_boot_clock_the_monotonic_one_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert clock._boot_clock() is time.monotonic_ns
