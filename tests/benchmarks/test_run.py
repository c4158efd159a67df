"""The benchmarks run from end to end and write what they should. No figure is looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# They wait for terms and assertions to run out most of the time.
WAITING = ("stopping.py", "revocation.py")

Process = subprocess.Popen[str]


def start(script: str, *arguments: str) -> Process:
    command = [sys.executable, str(BENCHMARKS / script), "--quick", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output(process: Process) -> str:
    printed, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return printed


def run(script: str, *arguments: str) -> str:
    with start(script, *arguments) as process:
        try:
            return output(process)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def waiting() -> Iterator[dict[str, Process]]:
    """Those that mostly wait, side by side."""
    with ExitStack() as stack:
        processes = {script: stack.enter_context(start(script)) for script in WAITING}
        for process in processes.values():
            stack.callback(process.kill)
        yield processes


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


def test_stops_are_timed_and_nothing_runs_late(waiting: dict[str, Process]) -> None:
    printed = output(waiting["stopping.py"])
    assert [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("| ")][2:] == [
        "| dashboard",
        "| command line",
    ]
    assert "Line cut, 2 tries: 0 of the " in printed


def test_revocations_are_timed(waiting: dict[str, Process]) -> None:
    printed = output(waiting["revocation.py"])
    assert [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("| ")][2:] == [
        "| at hand",
        "| cut off",
    ]


def test_soak_watches_both_processes() -> None:
    printed = run("soak.py")
    assert printed.count("server memory") == printed.count("client memory") == 2
    assert "fresh gates: 15 of 15" in printed
