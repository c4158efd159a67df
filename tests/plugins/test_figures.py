"""The plugin that prints figures, run over small test suites of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

import figures

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(figures.__file__).parent))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # of the many that are installed none has a part in it


@pytest.mark.parametrize("options", [(), ("-p", "xdist", "-n2")])
def test_figures_are_printed_once_under_their_file(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    pytester.makepyfile("def test_a(figures):\n    figures('3 of 4')\n    figures('5 of 6')\ndef test_b(): pass")
    result = pytester.runpytest_subprocess("-p", "figures", *options)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*= figures =*", "test_figures_are_printed_once*.py", "  3 of 4", "  5 of 6"])
    assert result.stdout.str().count("3 of 4") == 1


def test_without_figures_nothing_is_printed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_a(): pass")
    result = pytester.runpytest_subprocess("-p", "figures")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*= figures =*")
