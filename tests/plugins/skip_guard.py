"""A test that does not run proves nothing: in CI every skip and expected failure must be on a list, with its reason.

`tests/allowed_skips.toml` holds the list. Elsewhere than in CI (the variable `CI` is unset) the guard
only reports, so that a contributor without, say, the hardware vectors can still work.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ALLOWED = Path(__file__).resolve().parent.parent / "allowed_skips.toml"


@dataclass(frozen=True)
class Allowed:
    """Tests that may be skipped: a pattern over node ids, and why."""

    test: str
    reason: str


def load(path: Path) -> tuple[Allowed, ...]:
    """Read the list.

    Raises:
        pytest.UsageError: an entry lacks its pattern or its reason, or holds anything else.
    """
    entries = tomllib.loads(path.read_text("utf-8")).get("allowed", [])
    for entry in entries:
        if set(entry) != {"test", "reason"} or not all(isinstance(v, str) and v.strip() for v in entry.values()):
            raise pytest.UsageError(f"{path}: each entry needs `test` and `reason`, and nothing else: {entry}")
    return tuple(Allowed(**entry) for entry in entries)


class SkipGuard:
    """Collects what did not run, and fails the session for what may not be left out."""

    def __init__(self, allowed: tuple[Allowed, ...], *, enforce: bool) -> None:
        self.allowed = allowed
        self.enforce = enforce
        self.refused: dict[str, str] = {}

    def _record(self, nodeid: str, outcome: str) -> None:
        if not any(fnmatchcase(nodeid, entry.test) for entry in self.allowed):
            self.refused[nodeid] = outcome

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self._record(report.nodeid, "xfail" if hasattr(report, "wasxfail") else "skip")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._record(report.nodeid, "skip of the whole file")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.refused and self.enforce and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.refused:
            return
        verdict = "refused" if self.enforce else "would be refused in CI"
        terminalreporter.section(f"skips that are not in tests/{ALLOWED.name}: {verdict}", red=self.enforce)
        for nodeid, outcome in sorted(self.refused.items()):
            terminalreporter.line(f"{outcome}: {nodeid}")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return  # a worker of pytest-xdist: the controller sees every report
    guard = SkipGuard(load(ALLOWED), enforce=os.environ.get("CI", "").lower() in {"1", "true"})
    config.pluginmanager.register(guard, "blindai-skip-guard")
