"""Sessions: begun, found, over."""

from __future__ import annotations

import pytest
from sqlalchemy import Table, select

from blindai.web.database import Database
from blindai.web.sessions import IDLE_SECONDS, LIFETIME_SECONDS, TOUCH_SECONDS, Sessions
from hand_clock import HandClock


@pytest.fixture
def sessions(session_rows: Table, clock: HandClock) -> Sessions:
    return Sessions(session_rows, clock=clock)


def found(database: Database, sessions: Sessions, session_id: str) -> str | None:
    with database.read() as connection:
        session = sessions.find(connection, session_id)
    return None if session is None else session.account


def begun(database: Database, sessions: Sessions, account: str = "ada") -> str:
    with database.write() as connection:
        return sessions.begin(connection, account).id


def test_a_session_is_found_by_its_id_alone(database: Database, sessions: Sessions) -> None:
    session_id = begun(database, sessions)
    assert found(database, sessions, session_id) == "ada"
    for other in ("", session_id[:-1], session_id + "A", session_id.swapcase(), "\ud800"):
        assert found(database, sessions, other) is None


def test_ids_are_256_random_bits(database: Database, sessions: Sessions) -> None:
    ids = {begun(database, sessions) for _ in range(20)}
    assert len(ids) == 20
    assert all(len(session_id) == 43 for session_id in ids)


def test_the_database_does_not_hold_what_the_cookie_holds(
    database: Database, sessions: Sessions, session_rows: Table
) -> None:
    session_id = begun(database, sessions)
    with database.read() as connection:
        row = connection.execute(select(session_rows)).one()
    assert session_id not in str(row)
    assert found(database, sessions, row.id) is None


def test_an_id_does_not_show_in_a_log(database: Database, sessions: Sessions) -> None:
    with database.write() as connection:
        session = sessions.begin(connection, "ada")
    assert session.id not in repr(session)


def test_a_session_left_alone_is_over(database: Database, sessions: Sessions, clock: HandClock) -> None:
    session_id = begun(database, sessions)
    clock.now += IDLE_SECONDS - 1
    assert found(database, sessions, session_id) == "ada"
    clock.now += 1
    assert found(database, sessions, session_id) is None


def test_a_session_in_use_is_over_after_its_lifetime(database: Database, sessions: Sessions, clock: HandClock) -> None:
    session_id = begun(database, sessions)
    begin = clock.now
    while clock.now + IDLE_SECONDS < begin + LIFETIME_SECONDS:
        clock.now += IDLE_SECONDS - 1
        with database.write() as connection:
            session = sessions.find(connection, session_id)
            assert session is not None
            assert sessions.is_stale(connection, session)
            sessions.touch(connection, session)
            assert not sessions.is_stale(connection, session)
    clock.now = begin + LIFETIME_SECONDS
    assert found(database, sessions, session_id) is None


def test_use_is_noted_once_a_minute(database: Database, sessions: Sessions, clock: HandClock) -> None:
    with database.write() as connection:
        session = sessions.begin(connection, "ada")
        clock.now += TOUCH_SECONDS - 1
        assert not sessions.is_stale(connection, session)
        clock.now += 1
        assert sessions.is_stale(connection, session)


def test_an_ended_session_is_gone(database: Database, sessions: Sessions) -> None:
    session_id, other = begun(database, sessions), begun(database, sessions)
    with database.write() as connection:
        sessions.end(connection, session_id)
        sessions.end(connection, "none of ours")
    assert found(database, sessions, session_id) is None
    assert found(database, sessions, other) == "ada"


def test_an_account_is_signed_out_everywhere(database: Database, sessions: Sessions) -> None:
    mine = [begun(database, sessions), begun(database, sessions)]
    other = begun(database, sessions, "grace")
    with database.write() as connection:
        sessions.end_all(connection, "ada")
    assert [found(database, sessions, session_id) for session_id in mine] == [None, None]
    assert found(database, sessions, other) == "grace"


def test_an_account_is_signed_out_everywhere_else(database: Database, sessions: Sessions) -> None:
    mine = [begun(database, sessions), begun(database, sessions)]
    other = begun(database, sessions, "grace")
    with database.write() as connection:
        sessions.end_all(connection, "ada", keep=mine[1])
    assert [found(database, sessions, session_id) for session_id in mine] == [None, "ada"]
    with database.write() as connection:
        sessions.end_all(connection, "ada", keep=other)
    assert found(database, sessions, mine[1]) is None
    assert found(database, sessions, other) == "grace"


def test_rows_that_have_run_out_are_removed(
    database: Database, sessions: Sessions, session_rows: Table, clock: HandClock
) -> None:
    begun(database, sessions)
    clock.now += IDLE_SECONDS
    begun(database, sessions)
    with database.read() as connection:
        assert len(connection.execute(select(session_rows)).all()) == 1
