"""A control plane on a disk: where its files are, and what is left of one that does not open."""

from __future__ import annotations

from pathlib import Path

import pytest

from blindai.cloud.control_plane import ControlPlane, Place
from blindai.cloud.mail import Outbox
from blindai.cloud.site import Site
from blindai.errors import ConfigurationError
from blindai.web.database import Database

SITE = Site("A cloud", "https://localhost:9447")


def opened(place: Place) -> ControlPlane:
    return ControlPlane.open(place, SITE, Outbox(place.outbox))


def test_everything_is_in_one_folder_of_its_owner(tmp_path: Path) -> None:
    place = Place.at(tmp_path / "cloud")
    assert place.database == str(tmp_path / "cloud" / "cloud.sqlite3")
    assert place.key_file == tmp_path / "cloud" / "signing.key"
    assert place.data.stat().st_mode & 0o777 == 0o700
    with opened(place) as plane:
        assert plane.site is SITE
        assert len(plane.public_key) == 64
    with opened(place) as again:
        assert again.public_key == plane.public_key


def test_the_key_may_be_elsewhere_for_several_to_share(tmp_path: Path) -> None:
    key = tmp_path / "shared" / "signing.key"
    planes = [opened(Place.at(tmp_path / name, key_file=key)) for name in ("one", "two")]
    assert planes[0].public_key == planes[1].public_key
    for plane in planes:
        plane.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError) as caught:
        Place.at(tmp_path / "file" / "cloud")
    assert caught.value.code == "configuration.data"


def test_a_database_of_another_program_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place.at(tmp_path / "cloud")
    database = Database.open(place.database)
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id TEXT)")
    database.dispose()
    disposed: list[Database] = []
    dispose = Database.dispose

    def noted(one: Database) -> None:
        disposed.append(one)
        dispose(one)

    monkeypatch.setattr(Database, "dispose", noted)
    with pytest.raises(ConfigurationError) as caught:
        opened(place)
    assert caught.value.code == "configuration.database"
    assert len(disposed) == 1
