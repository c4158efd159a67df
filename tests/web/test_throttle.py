"""Guessing passwords against the clock."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Table, func, select

from blindai.web.database import Database, retrying
from blindai.web.throttle import ACCOUNT, ADDRESS, KNOWN_SECONDS, MEMORY_SECONDS, PAIR, Throttle, Throttled
from hand_clock import HandClock


@pytest.fixture
def throttle(attempt_rows: Table, clock: HandClock) -> Throttle:
    return Throttle(attempt_rows, clock=clock)


def fail(database: Database, throttle: Throttle, account: str = "ada", address: str = "192.0.2.1") -> int:
    """Try with a wrong password. Returns the seconds to wait, 0 where the try was taken."""
    try:
        with database.write() as connection:
            throttle.begin(connection, account, address)
    except Throttled as error:
        return error.retry_after
    return 0


def succeed(database: Database, throttle: Throttle, account: str = "ada", address: str = "192.0.2.1") -> int:
    wait = fail(database, throttle, account, address)
    if wait == 0:
        with database.write() as connection:
            throttle.succeed(connection, account, address)
    return wait


def test_the_refusal_says_when_the_next_try_is_taken(database: Database, throttle: Throttle) -> None:
    while fail(database, throttle) == 0:
        pass
    with pytest.raises(Throttled) as caught, database.write() as connection:
        throttle.begin(connection, "ada", "192.0.2.1")
    assert caught.value.code == "authentication.throttled"
    assert caught.value.message.endswith("in 1 second")


def test_a_few_failures_are_free_then_delays_double_up_to_a_ceiling(
    database: Database, throttle: Throttle, clock: HandClock
) -> None:
    assert [fail(database, throttle) for _ in range(PAIR.failures)] == [0] * PAIR.failures
    waits = []
    for _ in range(14):
        waits.append(fail(database, throttle))
        clock.now += waits[-1]
        assert fail(database, throttle) == 0
    assert waits == sorted(waits)
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == PAIR.ceiling


def test_a_try_that_comes_too_early_does_not_make_the_wait_longer(
    database: Database, throttle: Throttle, clock: HandClock
) -> None:
    while fail(database, throttle) == 0:
        pass
    assert {fail(database, throttle) for _ in range(50)} == {1}
    clock.now += 1
    assert succeed(database, throttle) == 0


def test_one_address_through_many_accounts(database: Database, throttle: Throttle) -> None:
    taken = sum(fail(database, throttle, f"account{number}") == 0 for number in range(100))
    assert taken == ADDRESS.failures
    assert fail(database, throttle, "ada", "192.0.2.2") == 0


def test_one_network_of_ipv6_is_one_place(database: Database, throttle: Throttle) -> None:
    taken = sum(fail(database, throttle, f"account{number}", f"2001:db8::{number:x}") == 0 for number in range(60))
    assert taken == ADDRESS.failures
    assert fail(database, throttle, "ada", "2001:db8:0:1::1") == 0
    assert fail(database, throttle, "ada", "::ffff:192.0.2.1") == 0
    assert fail(database, throttle, "ada", "fe80::1%eth0") == 0


def test_many_addresses_through_one_account(database: Database, throttle: Throttle) -> None:
    taken = sum(fail(database, throttle, "ada", f"192.0.2.{number}") == 0 for number in range(100))
    assert taken == ACCOUNT.failures
    assert fail(database, throttle, "grace", "192.0.2.1") == 0


def test_strangers_cannot_lock_the_owner_out(database: Database, throttle: Throttle, clock: HandClock) -> None:
    home = "198.51.100.7"
    assert succeed(database, throttle, "ada", home) == 0
    for number in range(200):
        clock.now += 0.01
        fail(database, throttle, "ada", f"192.0.2.{number}")
    assert succeed(database, throttle, "ada", home) == 0
    elsewhere = fail(database, throttle, "ada", "198.51.100.8")
    assert 0 < elsewhere <= ACCOUNT.ceiling
    clock.now += KNOWN_SECONDS
    assert fail(database, throttle, "ada", home) == 0


def test_an_address_is_not_known_for_ever(database: Database, throttle: Throttle, clock: HandClock) -> None:
    home = "198.51.100.7"
    assert succeed(database, throttle, "ada", home) == 0
    clock.now += KNOWN_SECONDS
    for number in range(100):
        fail(database, throttle, "ada", f"192.0.2.{number}")
    assert fail(database, throttle, "ada", home) > 0


def test_success_starts_the_count_anew(database: Database, throttle: Throttle) -> None:
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        for _ in range(5):
            for _ in range(PAIR.failures - 1):
                assert fail(database, throttle, "ada", address) == 0
            assert succeed(database, throttle, "ada", address) == 0


def test_success_with_one_account_does_not_free_an_address_to_guess_at_others(
    database: Database, throttle: Throttle
) -> None:
    taken = 0
    for number in range(100):
        taken += fail(database, throttle, f"victim{number}") == 0
        succeed(database, throttle, "mine")
    assert taken == ADDRESS.failures


def test_failures_are_forgotten_after_a_day(
    database: Database, throttle: Throttle, attempt_rows: Table, clock: HandClock
) -> None:
    while fail(database, throttle) == 0:
        pass
    clock.now += MEMORY_SECONDS
    assert [fail(database, throttle, "grace", "192.0.2.2") for _ in range(PAIR.failures)] == [0] * PAIR.failures
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(attempt_rows)).scalar_one() == 3


def test_a_clock_set_back_by_a_year_makes_nobody_wait_for_a_year(
    database: Database, throttle: Throttle, clock: HandClock
) -> None:
    while fail(database, throttle) == 0:
        pass
    clock.now -= 365 * 24 * 3600
    assert 0 < fail(database, throttle) <= PAIR.ceiling


def test_a_guess_at_the_separator_of_the_keys_is_another_account(database: Database, throttle: Throttle) -> None:
    while fail(database, throttle, "ada", "192.0.2.1") == 0:
        pass
    assert fail(database, throttle, "ada/192.0.2.1", "") == 0
    assert fail(database, throttle, "\ud800\x00" * 1000, "") == 0


def test_many_tries_at_once_are_no_way_around(database: Database, throttle: Throttle) -> None:
    attempt = retrying(lambda _: fail(database, throttle))
    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(attempt, range(40)))
    assert waits.count(0) == PAIR.failures
