"""What tests counted or measured, said at the end of the run: a test that passed on fewer cases than it should is seen.

A test asks for the fixture `figures` and calls it with one line for each figure.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

_PROPERTY = "figure"


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Takes a line to be printed after the test's file in the summary."""
    return lambda line: record_property(_PROPERTY, line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Properties travel with the reports, so they reach the controller of pytest-xdist too.
    said = [
        (report.nodeid.partition("::")[0], str(value))
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == _PROPERTY
    ]
    if said:
        terminalreporter.section("figures")
    file = ""
    for where, line in said:
        if where != file:
            terminalreporter.line(where)
            file = where
        terminalreporter.line(f"  {line}")
