from __future__ import annotations

from pathlib import Path

import pytest

import skip_guard

pytest_plugins = ["pytester"]

LEFT_OUT = """
import pytest

@pytest.mark.skip(reason="not today")
def test_skipped():
    pass

@pytest.mark.xfail
def test_expected_failure():
    raise ValueError

def test_runs():
    pass
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    pytester.makepyfile(test_left_out=LEFT_OUT)
    monkeypatch.setattr(skip_guard, "ALLOWED", pytester.path / "allowed.toml")
    (pytester.path / "allowed.toml").write_text("")
    monkeypatch.setenv("CI", "true")
    return pytester


def allow(project: pytest.Pytester, *names: str) -> None:
    entries = [f'[[allowed]]\ntest = "test_left_out.py::{name}"\nreason = "because"\n' for name in names]
    (project.path / "allowed.toml").write_text("\n".join(entries))


def test_a_skip_that_is_not_listed_fails_the_run_in_ci(project: pytest.Pytester) -> None:
    allow(project, "test_expected_failure")
    result = project.runpytest_inprocess("-p", "skip_guard")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["skip: test_left_out.py::test_skipped"])
    result.stdout.no_fnmatch_line("xfail: *")


def test_an_expected_failure_that_is_not_listed_fails_the_run_in_ci(project: pytest.Pytester) -> None:
    allow(project, "test_skipped")
    result = project.runpytest_inprocess("-p", "skip_guard")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["xfail: test_left_out.py::test_expected_failure"])


def test_listed_tests_may_be_left_out(project: pytest.Pytester) -> None:
    allow(project, "test_skipped", "test_expected*")
    assert project.runpytest_inprocess("-p", "skip_guard").ret == pytest.ExitCode.OK


def test_a_file_that_is_skipped_whole_counts(project: pytest.Pytester) -> None:
    project.makepyfile(test_whole='import pytest\npytest.skip("all of it", allow_module_level=True)')
    result = project.runpytest_inprocess("-p", "skip_guard", "test_whole.py", "test_left_out.py::test_runs")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["skip of the whole file: test_whole.py"])


def test_outside_ci_skips_are_only_reported(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI")
    result = project.runpytest_inprocess("-p", "skip_guard")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*would be refused in CI*"])


@pytest.mark.parametrize("entry", ['test = "x"', 'test = "x"\nreason = " "', 'test = "x"\nreason = "y"\nuntil = "z"'])
def test_an_entry_without_a_reason_is_an_error(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "allowed.toml"
    path.write_text(f"[[allowed]]\n{entry}\n")
    with pytest.raises(pytest.UsageError, match="each entry needs"):
        skip_guard.load(path)


def test_the_list_of_this_project_can_be_read() -> None:
    skip_guard.load(skip_guard.ALLOWED)
