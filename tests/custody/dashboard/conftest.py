"""A custodian with a web program, and browsers that are signed in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_browser import Browser, templates_compiled_once
from custodian_scene import DATABASE, PASSWORD, Scene, prepare


@pytest.fixture(scope="package", autouse=True)
def compiled() -> Iterator[None]:
    with templates_compiled_once():
        yield


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as every scene begins with."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder)
    return folder / DATABASE


@pytest.fixture
def scene(tmp_path: Path, prepared: Path) -> Iterator[Scene]:
    shutil.copy(prepared, tmp_path)
    made = Scene(tmp_path)
    yield made
    made.close()


@pytest.fixture
def application(scene: Scene) -> Any:
    return scene.application()


@pytest.fixture
def signed_in(application: Any) -> Callable[[str], Browser]:
    """A browser in which an operator is signed in."""

    def signed_in(name: str) -> Browser:
        browser = Browser(application)
        assert browser.sign_in(name, PASSWORD).status == 303
        return browser

    return signed_in


@pytest.fixture
def ada(signed_in: Callable[[str], Browser]) -> Browser:
    """The browser of an operator."""
    return signed_in("ada")
