"""A control plane, and somebody who is signed in at a command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from asgi_browser import Answer, Browser
from blindai.wire.cloud_api import PREFIX
from cloud_callers import Callers, user_id
from cloud_scene import CloudScene


class CommandLine:
    """Calls the JSON interface.

    Attributes:
        token: sent with every call; empty for none.
    """

    def __init__(self, scene: CloudScene, token: str) -> None:
        self.scene = scene
        self.token = token
        self.browser = Browser(scene.application())

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        sent = {"authorization": f"Bearer {self.token}"} if self.token else {}
        if body is not None:
            sent["content-type"] = "application/json"
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.browser.request(method, PREFIX + path, headers=sent | headers, body=content)


def assert_problem(answer: Answer, status: int, code: str) -> None:
    problem = json.loads(answer.body)
    assert (answer.status, problem["code"]) == (status, code), answer.text
    assert answer.header("content-type") == "application/json"
    assert problem["error"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudScene]:
    with CloudScene(tmp_path_factory.mktemp("api")) as scene:
        scene.join("acme")
        yield scene


@pytest.fixture
def command_line(world: CloudScene) -> CommandLine:
    return CommandLine(world, Callers(world).token(user_id(world, "acme")))


@pytest.fixture
def stranger(world: CloudScene) -> CommandLine:
    return CommandLine(world, "")
