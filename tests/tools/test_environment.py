from __future__ import annotations

from pathlib import Path

import pytest

import environment


def test_later_sources_of_pip_win_and_other_sections_do_not_count() -> None:
    listing = (
        "global.index-url='https://a/simple'\ndownload.index-url='https://b'\n:env:.index-url='https://c/simple'\n"
    )
    assert environment.pip_settings(listing) == {"index-url": "https://c/simple"}


def test_values_of_several_lines_are_read_whole() -> None:
    listing = "global.extra-index-url='\\nhttps://a/simple\\nhttps://b/simple'"
    variables = environment.uv_variables(environment.pip_settings(listing))
    assert variables["UV_INDEX"] == "https://a/simple https://b/simple"
    assert variables["UV_INDEX_STRATEGY"] == "unsafe-best-match"


def test_only_folders_that_exist_are_searched_for_links(tmp_path: Path) -> None:
    settings = {"find-links": f"{tmp_path} {tmp_path / 'absent'} https://host/wheels"}
    assert environment.uv_variables(settings) == {"UV_FIND_LINKS": f"{tmp_path},https://host/wheels"}


def test_nothing_is_set_where_pip_has_no_settings() -> None:
    assert environment.uv_variables(environment.pip_settings("")) == {}


def test_a_command_that_fails_shows_what_it_printed() -> None:
    with pytest.raises(SystemExit, match=r"(?s)out of paper.*failed \(3\)"):
        environment.run("sh", "-c", "echo out of paper; exit 3")


def test_an_environment_without_a_lock_is_refused() -> None:
    with pytest.raises(SystemExit, match="there is no requirements/nonesuch"):
        environment.install("nonesuch")
