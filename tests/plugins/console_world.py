"""People before the console of a control plane: in browsers without pictures, and in Chromium."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser as Chromium

from asgi_browser import Answer, Browser
from chromium import started
from cloud_scene import PASSWORD, CloudScene, RunningCloud
from lease_enclaves import Platform


class Person(Browser):
    """A browser of somebody.

    Attributes:
        name: of their account; their address is that name `@example.com`.
        id: of the user.
    """

    def __init__(self, scene: CloudScene, name: str = "", *, address: str = "192.0.2.9") -> None:
        super().__init__(scene.application(), address=address)
        self.name, self.id = name, ""

    @property
    def email(self) -> str:
        return f"{self.name}@example.com"

    def enter(self, password: str = PASSWORD) -> Answer:
        """Sign in."""
        return self.submit("/sign-in", "/sign-in", email=self.email, password=password)


@dataclass(frozen=True)
class World:
    """A control plane at work, its address, and a browser that believes its certificate."""

    scene: CloudScene
    running: RunningCloud
    address: str
    chromium: Chromium


@contextmanager
def at_work(folder: Path, platform: Platform) -> Iterator[World]:
    """Serve a control plane in `folder`, and start a browser."""
    # Passkeys and links name the port, so that it must be known before the control plane is made.
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"https://localhost:{port}"
    with (
        CloudScene(folder, platform=platform, url=address) as scene,
        scene.served(people_port=port) as running,
        started(running.certificate) as browser,
    ):
        yield World(scene, running, address, browser)
