from __future__ import annotations

from pathlib import Path

import pytest

import texts

MARK = "TO" + "DO"


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("see /ho" + "me/someone/file", "a path of one machine"),
        (f"# {MARK}: later", "a note to do later"),
        ("<<<<<<< ours", "a conflict mark"),
        ("x = 1 ", "white space"),
        ("x = y  # type" + ": ignore", "a type error ignored"),
        ("x = y  # type" + ": ignore[arg-type]", "a type error ignored"),
        ("x = y  # no" + "qa", "a warning ignored"),
        ("x = y  # no" + "qa: S101", "a warning ignored"),
        ("x = y  # pragma" + ": no cover", "a line left out of coverage"),
        ("[a link](absent.md)", "no such file"),
    ],
)
def test_what_must_not_be_committed_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, meaning: str
) -> None:
    monkeypatch.setattr(texts, "ROOT", tmp_path)
    path = tmp_path / "page.md"
    path.write_text(line + "\n", "utf-8")
    (finding,) = texts.findings(path)
    assert meaning in finding


@pytest.mark.parametrize(
    "line",
    [
        "x = y  # type" + ": ignore[arg-type]  # the stub is wrong",
        "x = y  # no" + "qa: S101, S102 - it is only a test",
        "GET /v2/models and https://host/home",
        "[a link](page.md#anchor), [another](https://example.org)",
    ],
)
def test_what_may_be_committed_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(texts, "ROOT", tmp_path)
    path = tmp_path / "page.md"
    path.write_text(line + "\n", "utf-8")
    assert list(texts.findings(path)) == []


def test_a_file_ends_with_one_line_feed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text("x = 1\n\n", "utf-8")
    (finding,) = texts.findings(path)
    assert "one line feed" in finding
