"""A browser without pictures: it calls an ASGI application, keeps cookies, fills in forms, follows nothing itself."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import unquote, urlencode

import pytest
from jinja2 import Environment
from jinja2.bccache import Bucket, BytecodeCache

from blindai.web import pages

HOST = "custodian.test:9445"


class _Compiled(BytecodeCache):
    """Compiled templates, in memory."""

    def __init__(self) -> None:
        self._code: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self._code:
            bucket.bytecode_from_string(self._code[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._code[bucket.key] = bucket.bytecode_to_string()


@contextmanager
def templates_compiled_once() -> Iterator[None]:
    """Meanwhile, programs that are made anew for each test do not compile their templates anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "Environment", partial(Environment, bytecode_cache=_Compiled()))
        yield


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def words(self) -> str:
        """The page as it is read: no marks, and white space as one blank."""
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", self.text)).split())

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")

    @property
    def csrf(self) -> str:
        """The token of the page's forms."""
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.text)
        return found[1] if found else ""


class Browser:
    """One browser: its cookies, and requests as browsers make them.

    Attributes:
        cookies: by name.
        address: where its requests come from.
    """

    def __init__(self, application: Any, *, address: str = "192.0.2.1") -> None:
        self.application = application
        self.cookies: dict[str, str] = {}
        self.address = address

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def post(
        self, path: str, form: dict[str, str] | None = None, *, site: str | None = "same-origin", **headers: str
    ) -> Answer:
        sent = {"content-type": "application/x-www-form-urlencoded"} | headers
        if site is not None:
            sent["sec-fetch-site"] = site
        return self.request("POST", path, headers=sent, body=urlencode(form or {}).encode())

    def submit(self, page: str, path: str, **form: str) -> Answer:
        """Load `page`, and send a form of it to `path`, with its token."""
        return self.post(path, {"csrf": self.get(page).csrf} | form)

    def sign_in(self, name: str, password: str, *, next_page: str = "/leases") -> Answer:
        return self.submit("/sign-in", "/sign-in", name=name, password=password, next=next_page)

    def request(self, method: str, path: str, *, headers: dict[str, str] | None = None, body: bytes = b"") -> Answer:
        fields = {"host": HOST} | {name.replace("_", "-").lower(): value for name, value in (headers or {}).items()}
        if self.cookies:
            fields["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        plain, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": unquote(plain),
            "raw_path": plain.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields.items()],
            "client": (self.address, 40000),
            "server": ("127.0.0.1", 9445),
        }
        answer = asyncio.run(_called(self.application, scope, body))
        for name, value in answer.headers:
            if name == "set-cookie":
                self._keep(value)
        return answer

    def _keep(self, line: str) -> None:
        for name, morsel in SimpleCookie(line).items():
            if morsel["max-age"] == "0":
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = morsel.value


async def _called(application: Any, scope: dict[str, Any], body: bytes) -> Answer:
    sent: list[dict[str, Any]] = []
    asked = [{"type": "http.request", "body": body, "more_body": False}]
    ended = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if asked:
            return asked.pop()
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application(scope, receive, send)
    start = next(message for message in sent if message["type"] == "http.response.start")
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
    return Answer(start["status"], headers, b"".join(message.get("body", b"") for message in sent))
