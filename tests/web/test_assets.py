"""Style sheets and scripts: found, named by content, and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from blindai.errors import ConfigurationError
from blindai.web.assets import FETCHED, PREFIX, VENDOR, Assets


@pytest.fixture
def vendor(tmp_path: Path) -> Path:
    folder = tmp_path / "vendor"
    folder.mkdir()
    for name in FETCHED:
        (folder / name).write_text(f"/* {name} */")
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.css").write_text("body {}")
    (folder / "notes.txt").write_text("not for browsers")
    return folder


def ask(assets: Assets, path: str, **headers: str) -> Response:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "headers": pairs, "query_string": b"", "scheme": "https"}
    return asyncio.run(assets.serve(Request(scope)))


def test_a_file_is_served_under_an_address_of_its_content_for_ever(vendor: Path, own: Path) -> None:
    assets = Assets.load(own, vendor=vendor)
    answer = ask(assets, assets.address("own.css"))
    assert answer.body == b"body {}"
    assert answer.media_type == "text/css; charset=utf-8"
    assert "immutable" in answer.headers["cache-control"]
    before = assets.address("own.css")
    (own / "own.css").write_text("body { margin: 0 }")
    assert ask(assets, before).body == b"body {}"
    assert Assets.load(own, vendor=vendor).address("own.css") != before


def test_a_browser_that_has_it_is_not_sent_it_again(vendor: Path, own: Path) -> None:
    assets = Assets.load(own, vendor=vendor)
    address = assets.address("own.css")
    etag = ask(assets, address).headers["etag"]
    again = ask(assets, address, if_none_match=f'W/"other", {etag}')
    assert (again.status_code, again.body) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        PREFIX,
        PREFIX + "own.css",
        PREFIX + "notes.txt",
        PREFIX + "../own.css",
        PREFIX + "%2e%2e/pages.py",
        PREFIX + "/etc/passwd",
        PREFIX + "own.000000000000.css",
    ],
)
def test_nothing_else_of_the_disk_is_served(vendor: Path, own: Path, path: str) -> None:
    with pytest.raises(HTTPException) as caught:
        ask(Assets.load(own, vendor=vendor), path)
    assert caught.value.status_code == 404


@pytest.mark.parametrize("name", FETCHED)
def test_without_the_fetched_files_the_program_says_how_to_get_them(vendor: Path, name: str) -> None:
    (vendor / name).unlink()
    with pytest.raises(ConfigurationError) as caught:
        Assets.load(vendor=vendor)
    assert caught.value.code == "configuration.assets_missing"
    assert caught.value.hint == "make assets"
    assert name in caught.value.message


def test_a_page_that_names_a_file_wrongly_is_found_out(vendor: Path) -> None:
    with pytest.raises(KeyError):
        Assets.load(vendor=vendor).address("htmx2.js")


def test_the_licences_lie_beside_what_was_fetched() -> None:
    for name in ("htmx", "pico", "uplot"):
        assert (VENDOR / f"{name}.LICENSE").read_text().strip()
