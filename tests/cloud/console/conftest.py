"""Control planes with their pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import BrowserContext

from chromium import contexts
from cloud_scene import CloudScene
from console_world import Person, World, at_work
from lease_enclaves import Platform


@pytest.fixture
def stranger(small_scene: CloudScene) -> Person:
    """A browser in which nobody is signed in."""
    return Person(small_scene)


@pytest.fixture
def person(small_scene: CloudScene) -> Callable[[str], Person]:
    """Makes people who have signed up and are signed in."""

    def person(name: str) -> Person:
        made = Person(small_scene, name)
        made.id = small_scene.join(name)
        assert made.enter().status == 303
        return made

    return person


@pytest.fixture
def alice(person: Callable[[str], Person]) -> Person:
    return person("alice")


@pytest.fixture
def bob(person: Callable[[str], Person]) -> Person:
    return person("bob")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, platform: Platform) -> Iterator[World]:
    with at_work(tmp_path_factory.mktemp("world"), platform) as made:
        yield made


@pytest.fixture
def complaints() -> list[str]:
    """What browsers complained about: errors of scripts, and whatever the policy of the pages forbade."""
    return []


@pytest.fixture
def context(world: World, complaints: list[str]) -> Iterator[Callable[..., BrowserContext]]:
    """Makes a browser of its own: cookies, theme, width. At the end none may have complained."""
    with contexts(world.chromium, world.address, complaints, believed=True) as context:
        yield context
    assert complaints == []
