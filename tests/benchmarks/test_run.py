"""The benchmarks run from end to end and write what they should. No figure is looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), "--quick", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_tables_are_written(tmp_path: Path) -> None:
    printed = run("run.py", "--no-peers", "--output", str(tmp_path))
    page = (tmp_path / "benchmarks.md").read_text("utf-8")
    assert page in printed
    tables = [line for line in page.splitlines() if line.startswith("## ")]
    assert [title.partition(" on ")[0] for title in tables] == [
        "## Goals",
        *["## Serving"] * 2,
        *["## Connecting"] * 2,
        *["## The client"] * 2,
        "## Importing the client",
        "## Verifying evidence",
        "## Refusing hostile evidence",
        "## One client",
        "## 32 clients",
        *["## Metering"] * 2,
        "## Sealed models, 8 MB",
        "## Memory of a loaded model of 8 MB",
    ]
    for block in page.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, block
        assert len(rows) != 2, block
    assert str(BENCHMARKS.parent) not in page
    assert "**Inconclusive**" in page  # a few calls decide nothing

    figures = json.loads((tmp_path / "benchmarks.json").read_text("utf-8"))
    assert figures["conclusive"] is False
    assert {goal["number"] for goal in figures["goals"]} == {1, 2, 3, 5, 6, 7, 8}
    assert len(figures["tables"]) == len(tables) - 1


def test_stops_are_timed_and_nothing_runs_late() -> None:
    printed = run("stopping.py")
    assert [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("| ")][2:] == [
        "| dashboard",
        "| command line",
    ]
    assert "Line cut, 2 tries: 0 of the " in printed


def test_revocations_are_timed() -> None:
    printed = run("revocation.py")
    assert [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("| ")][2:] == [
        "| at hand",
        "| cut off",
    ]


def test_soak_watches_both_processes() -> None:
    printed = run("soak.py")
    assert printed.count("server memory") == printed.count("client memory") == 2
    assert "fresh gates: 15 of 15" in printed
