"""Requests to a control plane's web program by whoever a test wants to be: with any cookie, any token, any form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asgi_browser import Answer, Browser
from blindai.cloud import tables
from blindai.cloud.accounts import Role
from blindai.cloud.api import ADDRESSES as API
from blindai.cloud.console.application import ADDRESSES as PAGES
from blindai.cloud.console.application import OPEN
from blindai.web import csrf
from blindai.web.sessions import COOKIE, Sessions
from blindai.wire.cloud_api import PREFIX
from cloud_scene import CloudScene

VISITOR = csrf.visitor()


@dataclass(frozen=True)
class Way:
    """A route as it is called.

    Attributes:
        path: with `{parts}`.
        kind: `api`, `page` or `open page`.
        needs_sign_in: nobody else gets through.
    """

    method: str
    path: str
    kind: str
    needs_sign_in: bool

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def changes(self) -> bool:
        return self.method not in csrf.SAFE_METHODS


def ways() -> list[Way]:
    """Every route of the program."""
    return [
        *(Way(one.method, PREFIX + one.path, "api", not one.open) for one in API),
        *(Way(one.method, one.path, "open page", needs_sign_in=False) for one in OPEN),
        *(Way(one.method, one.path, "page", needs_sign_in=True) for one in PAGES),
    ]


class Callers:
    """Calls the program of a scene.

    Attributes:
        scene: the control plane.
        application: its web program.
    """

    def __init__(self, scene: CloudScene) -> None:
        self.scene = scene
        self.application = scene.application()
        self._places = 0

    def session(self, user: str) -> str:
        """A session of a user, whoever that is: it is written into the table."""
        with self.scene.plane.database.write() as connection:
            return Sessions(tables.sessions, clock=self.scene.clock).begin(connection, user).id

    def token(self, user: str) -> str:
        """An access token of a user, whoever that is."""
        with self.scene.plane.database.write() as connection:
            return self.scene.plane.people._tokens.make(connection, user, "laptop").access_token

    def call(
        self,
        way: Way,
        *,
        parts: Mapping[str, str] | None = None,
        session: str = "",
        token: str = "",
        form: Mapping[str, str] | None = None,
        body: Any = None,
        query: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request, as a page of ours or our command line makes it, and from a place of its own.

        Args:
            parts: of the path.
            session, token: who asks.
            form: of a page, without its token; that is added.
            body: of the JSON interface.
            query: with its question mark.
            headers: besides, or in place of those that are sent anyway.
        """
        self._places += 1
        browser = Browser(self.application, address=f"2001:db8:{self._places:x}::1")
        besides = dict(headers or {})
        path = way.path.format(**(parts or {})) + query
        if way.kind == "api":
            sent = {"authorization": f"Bearer {token}"} if token else {}
            content = b"" if body is None else json.dumps(body).encode()
            if way.method == "POST":
                sent["content-type"] = "application/json"
            return browser.request(way.method, path, headers=sent | besides, body=content)
        browser.cookies[csrf.VISITOR_COOKIE] = VISITOR
        if session:
            browser.cookies[COOKIE] = session
        if way.method == "GET":
            return browser.get(path, **besides)
        own = VISITOR if way.kind == "open page" else session
        return browser.post(path, {csrf.FIELD: csrf.token(own), **(form or {})}, **besides)


def organisation(scene: CloudScene, admin: str, name: str, members: Mapping[str, Role]) -> str:
    """An organisation with these members, each a user's name as `CloudScene.join` has it; its name."""
    accounts = scene.plane.accounts
    accounts.create_organisation(admin, name)
    for who, role in members.items():
        address = f"{who}@example.com"
        accounts.invite(admin, name, address, role)
        accounts.accept(user_id(scene, who), scene.mails(address)[-1].link)
    return name


def user_id(scene: CloudScene, name: str) -> str:
    """The id of a user who joined under this name."""
    with scene.plane.database.read() as connection:
        query = tables.users.select().where(tables.users.c.email == f"{name}@example.com")
        return str(connection.execute(query).one().id)
