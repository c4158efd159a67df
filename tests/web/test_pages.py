"""Templates and headers."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from asgi_browser import Browser
from blindai.errors import InvalidInput
from blindai.web.assets import Assets
from blindai.web.pages import SECURITY_HEADERS, Pages, SecurityHeaders, let_connect, sentence


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    (tmp_path / "own.html").write_text('<p title="{{ text }}">{{ text }}</p>')
    (tmp_path / "own.txt").write_text("{{ text }}")
    return Pages(Assets.load(), tmp_path, filters={"loud": str.upper}, names={"limit": 3})


HOSTILE = "<script>alert(1)</script> \" ' & {{ 7*7 }}"


@pytest.mark.parametrize("name", ["own.html", "own.txt"])
def test_every_value_is_escaped_whatever_the_template_is_called(pages: Pages, name: str) -> None:
    text = pages.text(name, text=HOSTILE)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert '" &#39;' not in text
    assert "{{ 7*7 }}" in text


def test_a_value_that_was_forgotten_is_an_error_and_not_a_gap(pages: Pages) -> None:
    with pytest.raises(UndefinedError):
        pages.text("own.html")


def test_the_error_page_says_what_went_wrong_and_what_next(pages: Pages) -> None:
    error = InvalidInput(f"this is wrong: {HOSTILE}", code="input.test", hint="do it again")
    answer = pages.error(error, status=400)
    assert answer.status_code == 400
    text = bytes(answer.body).decode()
    for part in ("Bad Request", "This is wrong: &lt;script&gt;", "do it again", "input.test"):
        assert part in text
    plain = bytes(pages.error(HTTPStatus.NOT_FOUND, status=404).body).decode()
    assert "Not Found" in plain


@pytest.mark.parametrize(("words", "said"), [("no", "No."), ("Why?", "Why?"), ("done.", "Done."), ("", ".")])
def test_words_become_a_sentence(words: str, said: str) -> None:
    assert sentence(words) == said


def test_every_answer_has_the_headers_and_none_of_them_twice() -> None:
    async def plain(_request: Request) -> Response:
        return PlainTextResponse("x", headers={"content-security-policy": "default-src *"})

    async def kept(_request: Request) -> Response:
        return PlainTextResponse("x", headers={"cache-control": "public"})

    async def broken(_request: Request) -> Response:
        raise InvalidInput("no")

    async def refused(_request: Request, _error: Exception) -> Response:
        return PlainTextResponse("no", status_code=400)

    handlers: dict[Any, Any] = {InvalidInput: refused}
    browser = Browser(
        Starlette(
            routes=[Route("/plain", plain), Route("/kept", kept), Route("/broken", broken)],
            exception_handlers=handlers,
            middleware=[Middleware(SecurityHeaders)],
        )
    )
    for path in ("/plain", "/kept", "/broken", "/nothing"):
        answer = browser.get(path)
        for name, value in SECURITY_HEADERS.items():
            assert [found for key, found in answer.headers if key == name] == [value]
    assert browser.get("/plain").header("cache-control") == "no-store"
    assert browser.get("/kept").header("cache-control") == "public"


def test_one_page_may_connect_somewhere_else_and_only_there() -> None:
    async def page(request: Request) -> Response:
        let_connect(request, "http://127.0.0.1:*")
        return PlainTextResponse("x")

    async def other(_request: Request) -> Response:
        return PlainTextResponse("x")

    routes = [Route("/page", page), Route("/other", other)]
    browser = Browser(Starlette(routes=routes, middleware=[Middleware(SecurityHeaders)]))
    usual = SECURITY_HEADERS["content-security-policy"]
    answer = browser.get("/page").header("content-security-policy")
    assert answer == usual.replace("connect-src 'self'", "connect-src http://127.0.0.1:*") != usual
    assert browser.get("/other").header("content-security-policy") == usual
