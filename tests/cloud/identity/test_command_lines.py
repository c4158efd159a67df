"""Command lines that sign in: codes, decisions, tokens."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from account_world import SITE, new_name
from blindai.cloud import tables
from blindai.cloud.identity.devices import ALPHABET, INTERVAL_SECONDS, LIFETIME_SECONDS
from blindai.cloud.identity.rates import DEVICE_CODES, DEVICE_GUESSES
from blindai.cloud.identity.tokens import IDLE_SECONDS, MAX_TOKENS, TOUCH_SECONDS
from blindai.errors import AuthenticationError
from blindai.wire.cloud_api import TOKEN_PREFIX, DeviceCodes
from people_world import PeopleWorld, code_of


def codes(world: PeopleWorld, name: str = "laptop") -> DeviceCodes:
    return world.people.device_codes(name, address=world.place)


def wrong_code(right: str) -> str:
    return right.replace(right[0], "B" if right[0] != "B" else "C")


def test_a_command_line_signs_in(world: PeopleWorld) -> None:
    user = world.user()
    given = codes(world)
    assert given.verification_uri == f"{SITE.url}/device"
    assert given.verification_uri_complete == f"{SITE.url}/device?code={given.user_code}"
    assert (given.expires_in, given.interval) == (LIFETIME_SECONDS, INTERVAL_SECONDS)
    assert len(given.user_code) == 9
    assert set(given.user_code) <= {*ALPHABET, "-"}
    typed = given.user_code.lower().replace("-", " ")
    assert world.people.device_grant(typed, user_id=user.id) == "laptop"
    world.people.decide_device(user.id, typed, True)
    token = world.people.device_token(given.device_code).access_token
    assert token.startswith(TOKEN_PREFIX)
    assert world.people.user_of_token(token) == user
    assert [one.name for one in world.people.tokens(user.id)] == ["laptop"]
    assert world.mails(user.email)[-1] == "A command line was signed in"
    # Neither code is good a second time.
    assert code_of(world.people.device_token, given.device_code) == "device.expired_token"
    assert code_of(world.people.device_grant, given.user_code, user_id=user.id) == "device.code"


def test_until_somebody_decides_it_waits_and_not_too_impatiently(world: PeopleWorld) -> None:
    given = codes(world)
    with pytest.raises(AuthenticationError) as caught:
        world.people.device_token(given.device_code)
    assert caught.value.code == "device.authorization_pending"
    world.clock.now += INTERVAL_SECONDS - 1
    assert code_of(world.people.device_token, given.device_code) == "device.slow_down"
    world.clock.now += INTERVAL_SECONDS
    assert code_of(world.people.device_token, given.device_code) == "device.authorization_pending"


def test_a_command_line_that_was_declined_hears_so(world: PeopleWorld) -> None:
    user = world.user()
    given = codes(world)
    world.people.decide_device(user.id, given.user_code, False)
    assert code_of(world.people.decide_device, user.id, given.user_code, True) == "device.code"
    assert code_of(world.people.device_token, given.device_code) == "device.access_denied"
    assert code_of(world.people.device_token, given.device_code) == "device.expired_token"
    assert world.people.tokens(user.id) == ()
    assert world.mails(user.email) == ["Confirm your address"]


def test_codes_run_out(world: PeopleWorld) -> None:
    user = world.user()
    waiting, approved = codes(world), codes(world)
    world.people.decide_device(user.id, approved.user_code, True)
    world.clock.now += LIFETIME_SECONDS
    assert code_of(world.people.decide_device, user.id, waiting.user_code, True) == "device.code"
    assert code_of(world.people.device_token, waiting.device_code) == "device.expired_token"
    assert code_of(world.people.device_token, approved.device_code) == "device.expired_token"


@pytest.mark.parametrize(
    "code", ["", "BCDF", "BCDF-GHJ", "AEIO-UAEI", "\x00" * 8, "\udcff" * 8, "ﬀBCDFGH", "x" * 10_000]
)
def test_what_is_no_code_is_refused(world: PeopleWorld, code: str) -> None:
    user = world.user()
    assert code_of(world.people.device_grant, code, user_id=user.id) == "device.code"
    assert code_of(world.people.decide_device, user.id, code, True) == "device.code"
    assert code_of(world.people.device_token, code) == "device.expired_token"


def test_nobody_guesses_codes(world: PeopleWorld) -> None:
    user = world.user()
    given = codes(world)
    for number in range(DEVICE_GUESSES.size):
        if number % 2:
            code = code_of(world.people.device_grant, wrong_code(given.user_code), user_id=user.id)
        else:
            code = code_of(world.people.decide_device, user.id, wrong_code(given.user_code), True)
        assert code == "device.code"
    assert code_of(world.people.device_grant, given.user_code, user_id=user.id) == "quota.rate"
    assert code_of(world.people.decide_device, user.id, given.user_code, True) == "quota.rate"
    world.clock.now += DEVICE_GUESSES.seconds
    assert world.people.device_grant(given.user_code, user_id=user.id) == "laptop"


def test_right_codes_are_not_counted(world: PeopleWorld) -> None:
    user = world.user()
    for _ in range(DEVICE_GUESSES.size + 2):
        given = codes(world)
        world.people.device_grant(given.user_code, user_id=user.id)
        world.people.decide_device(user.id, given.user_code, False)


def test_one_place_asks_for_so_many_codes(world: PeopleWorld) -> None:
    for _ in range(DEVICE_CODES.size):
        codes(world)
    assert code_of(codes, world) == "quota.rate"


def test_a_command_line_is_called_by_what_can_be_seen(world: PeopleWorld) -> None:
    assert code_of(codes, world, "\x1b[2Jlaptop") == "device.name"


def test_one_of_many_questions_at_once_gets_the_token(world: PeopleWorld) -> None:
    user = world.user()
    given = codes(world)
    world.people.decide_device(user.id, given.user_code, True)

    def ask(_: int) -> str:
        try:
            return world.people.device_token(given.device_code).access_token[: len(TOKEN_PREFIX)]
        except AuthenticationError as error:
            return error.code

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(ask, range(4))) == [TOKEN_PREFIX, *["device.expired_token"] * 3]
    assert len(world.people.tokens(user.id)) == 1


def test_a_token_is_revoked_by_its_user_or_by_itself(world: PeopleWorld) -> None:
    user, another = world.user(), world.user()
    first, second = world.token(user, "first"), world.token(user, "second")
    ids = {one.name: one.id for one in world.people.tokens(user.id)}
    assert code_of(world.people.revoke_token, another.id, ids["first"]) == "identity.token_unknown"
    assert world.people.user_of_token(first) == user
    world.people.revoke_token(user.id, ids["first"])
    assert world.people.user_of_token(first) is None
    assert code_of(world.people.revoke_token, user.id, ids["first"]) == "identity.token_unknown"
    world.people.give_token_back(second)
    assert world.people.user_of_token(second) is None
    world.people.give_token_back(second)


@pytest.mark.parametrize(
    "text", ["", "x", "\x00", "\udcff", TOKEN_PREFIX, "bai_sk_" + "A" * 36, TOKEN_PREFIX + "x" * 500]
)
def test_what_is_no_token_is_nobodys(world: PeopleWorld, text: str) -> None:
    user = world.user()
    assert world.people.user_of_token(text) is None
    world.people.give_token_back(text)
    assert code_of(world.people.revoke_token, user.id, text) == "identity.token_unknown"


def test_a_token_is_no_session_and_no_code_and_a_session_is_no_token(world: PeopleWorld) -> None:
    user = world.user()
    token, session = world.token(user), world.sign_in(user)
    (kept,) = world.people.tokens(user.id)
    assert world.people.user_of(token) is None
    assert world.people.user_of_token(session.id) is None
    assert world.people.user_of_token(kept.id) is None
    assert world.people.user_of_token(TOKEN_PREFIX + kept.id) is None


def test_a_token_that_nobody_uses_dies_and_one_in_use_does_not(world: PeopleWorld) -> None:
    user = world.user()
    token = world.token(user)
    made = world.people.tokens(user.id)[0].used_at
    world.clock.now += TOUCH_SECONDS - 1
    world.people.user_of_token(token)
    assert world.people.tokens(user.id)[0].used_at == made
    for _ in range(3):
        world.clock.now += IDLE_SECONDS - TOUCH_SECONDS
        assert world.people.user_of_token(token) == user
    world.clock.now += IDLE_SECONDS
    assert world.people.user_of_token(token) is None
    assert world.people.tokens(user.id) == ()


def test_the_token_that_was_unused_for_longest_makes_room(world: PeopleWorld) -> None:
    user = world.user()
    first = world.token(user, "first")
    world.clock.now += 1
    kept = world.token(user, "second")
    with world.database.write() as connection:
        now = int(world.clock.now)
        for number in range(MAX_TOKENS - 2):
            connection.execute(
                sa.insert(tables.access_tokens).values(
                    id=new_name(), user=user.id, name=str(number), created_at=now, used_at=now + 1
                )
            )
    world.token(user, "last")
    assert len(world.people.tokens(user.id)) == MAX_TOKENS
    assert world.people.user_of_token(first) is None
    assert world.people.user_of_token(kept) == user
