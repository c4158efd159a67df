"""Control planes for tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from account_world import prepared, sqlite_in
from blindai.web.database import Database
from cloud_scene import CloudScene
from lease_enclaves import Platform
from postgresql import PostgreSQL


@pytest.fixture(scope="session")
def platform() -> Platform:
    """The machine of all enclaves."""
    return Platform()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with the control plane's tables, of each kind; the tests of a module share it, and no name in it."""
    if request.param == "sqlite":
        database = prepared(sqlite_in(tmp_path_factory.mktemp("cloud")))
        yield database
        database.dispose()
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    url = server.create()
    database = prepared(url)
    yield database
    database.dispose()
    server.drop(url)


@pytest.fixture
def scene(tmp_path: Path, database_url: str, platform: Platform) -> Iterator[CloudScene]:
    """A control plane, on SQLite and on PostgreSQL."""
    with CloudScene(tmp_path, database_url, platform=platform) as one:
        yield one


@pytest.fixture
def small_scene(tmp_path: Path, platform: Platform) -> Iterator[CloudScene]:
    """A control plane on SQLite alone."""
    with CloudScene(tmp_path, platform=platform) as one:
        yield one


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def module_scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, platform: Platform
) -> Iterator[CloudScene]:
    """As `scene`, shared by the tests of a module: each has accounts and endpoints of its own."""
    server = None if request.param == "sqlite" else request.getfixturevalue("postgresql")
    url = None if server is None else server.create()
    with CloudScene(tmp_path_factory.mktemp("scene"), url, platform=platform) as one:
        yield one
    if server is not None:
        server.drop(url)
