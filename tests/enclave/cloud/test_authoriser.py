"""Keys in force: whom the control plane is asked about, what is taken of its answers, and for how long."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from blindai.enclave.cloud import authoriser as module
from blindai.enclave.cloud.assertions import AssertionReader
from blindai.enclave.cloud.authoriser import MAX_WAITING, Authoriser, key_in
from blindai.enclave.cloud.principal import Principal
from blindai.enclave.cloud.queries import introduced
from blindai.enclave.cloud.usage import Usage
from blindai.errors import AuthenticationError, BlindAIError, PermissionDenied, QuotaExceeded, Unavailable
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import (
    MAX_KEYS,
    AuthorisationAnswer,
    AuthorisationRequest,
    Refused,
    Scope,
    SignedAssertion,
)
from fake_cloud import FakeControlPlane

INSTANCE = "ab" * 32
MS = 1_000_000
SECOND = 1000 * MS


class Clock:
    """The enclave's own, moved by hand."""

    def __init__(self) -> None:
        self.ns = 100 * SECOND

    def __call__(self) -> int:
        return self.ns


class Office:
    """An authoriser and its control plane, on the event loop of one test."""

    def __init__(self, clock: Clock) -> None:
        self.plane = FakeControlPlane()
        self.plane.instance = INSTANCE
        self.clock = clock
        reader = AssertionReader(Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.plane.public_key)), INSTANCE)
        self.usage = Usage(0)
        self.authoriser = Authoriser(self.plane.connect, reader, self.usage)

    def ask(self, key: ApiKey) -> Principal | asyncio.Future[Principal]:
        return self.authoriser.caller(b"Bearer " + key.text.encode())

    async def know(self, key: ApiKey) -> Principal:
        caller = self.ask(key)
        return caller if isinstance(caller, Principal) else await introduced(caller)

    async def refusal(self, key: ApiKey) -> str:
        with pytest.raises(BlindAIError) as raised:
            await self.know(key)
        return raised.value.code

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.002)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "elapsed_ns", clock)
    # The loops look at the hand-moved clock often.
    monkeypatch.setattr(module, "_TICK_SECONDS", 0.002)
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.002)
    return clock


@pytest.fixture
def play(clock: Clock) -> Callable[[Callable[[Office], Awaitable[None]]], None]:
    """Runs a test on an event loop, with an office that is open."""

    def run(scene: Callable[[Office], Awaitable[None]]) -> None:
        async def main() -> None:
            office = Office(clock)
            office.authoriser.start()
            try:
                await scene(office)
            finally:
                await office.authoriser.close()

        asyncio.run(main())

    return run


Play = Callable[[Callable[[Office], Awaitable[None]]], None]


def test_a_key_in_use_is_a_look_up(play: Play) -> None:
    async def scene(office: Office) -> None:
        key = office.plane.key("acme", Scope.QUERY)
        principal = await office.know(key)
        assert (principal.namespace, principal.count.key_id) == ("acme", key.id)
        assert principal.scopes == {Scope.QUERY}
        assert office.authoriser.callers == {b"Bearer " + key.text.encode(): principal}
        for _ in range(100):
            assert office.ask(key) is principal
        assert len(office.plane.questions) == 1

    play(scene)


def test_the_control_plane_hears_digests_and_no_key(play: Play) -> None:
    async def scene(office: Office) -> None:
        key = office.plane.key("acme")
        await office.know(key)
        ((_, body),) = office.plane.received
        assert key.digest.encode() in body
        assert key.text.encode() not in body

    play(scene)


@pytest.mark.parametrize("scheme", [b"bearer ", b"BEARER ", b"Bearer   "])
def test_another_spelling_of_the_scheme_is_the_same_key_and_no_entry_of_its_own(play: Play, scheme: bytes) -> None:
    async def scene(office: Office) -> None:
        key = office.plane.key("acme")
        principal = await office.know(key)
        assert office.authoriser.caller(scheme + key.text.encode()) is principal
        assert len(office.authoriser.callers) == 1

    play(scene)


def test_a_key_that_came_in_another_spelling_first_is_looked_up_from_its_usual_one_on(play: Play) -> None:
    async def scene(office: Office) -> None:
        key = office.plane.key("acme")
        caller = office.authoriser.caller(b"bearer " + key.text.encode())
        assert isinstance(caller, asyncio.Future)
        principal = await introduced(caller)
        assert office.authoriser.callers == {}
        assert office.ask(key) is principal
        assert office.authoriser.callers == {b"Bearer " + key.text.encode(): principal}
        assert len(office.plane.questions) == 1

    play(scene)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic YTpi",
        b"bai_sk_" + b"a" * 36,
        b"Bearer bai_sk_" + b"a" * 36,
        b"Bearer bai_sk_" + b"a" * 35,
        b"Bearer " + b"x" * 500,
        "Bearer bai_sk_é".encode(),
        b"Bearer \xff\xfe",
    ],
)
def test_what_is_no_key_asks_nobody(play: Play, header: bytes) -> None:
    async def scene(office: Office) -> None:
        with pytest.raises(AuthenticationError) as raised:
            office.authoriser.caller(header)
        assert raised.value.code == "authentication.key_format"
        await asyncio.sleep(0.01)
        assert office.plane.questions == []

    play(scene)


def test_the_text_of_a_wrong_key_is_not_repeated() -> None:
    with pytest.raises(AuthenticationError) as raised:
        key_in(b"Bearer bai_sk_" + b"a" * 36)
    assert "aaaa" not in str(raised.value)


def test_a_refused_key_is_asked_about_again_after_a_second(play: Play) -> None:
    async def scene(office: Office) -> None:
        key = ApiKey.new()
        assert await office.refusal(key) == "authentication.key"
        for _ in range(10):
            assert await office.refusal(key) == "authentication.key"
        assert len(office.plane.questions) == 1
        office.clock.ns += SECOND
        assert await office.refusal(key) == "authentication.key"
        assert len(office.plane.questions) == 2

    play(scene)


def test_the_memory_of_refused_keys_is_bounded(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REFUSED", 20)

    async def scene(office: Office) -> None:
        keys = [ApiKey.new() for _ in range(50)]
        await asyncio.gather(*(office.refusal(key) for key in keys))
        assert list(office.authoriser._refused) == [key.digest for key in keys[-20:]]

    play(scene)


def test_the_keys_of_all_who_wait_are_asked_about_together(play: Play) -> None:
    async def scene(office: Office) -> None:
        keys = [office.plane.key(f"tenant-{index}") for index in range(MAX_KEYS)]
        found = await asyncio.gather(*(office.know(key) for key in keys for _ in range(2)))
        assert len({id(one) for one in found}) == len(keys)
        assert [len(asked.keys) for asked in office.plane.questions] == [MAX_KEYS]

    play(scene)


def test_more_keys_than_fit_one_question_are_asked_about_in_several(play: Play) -> None:
    async def scene(office: Office) -> None:
        keys = [office.plane.key(f"tenant-{index}") for index in range(MAX_KEYS + 10)]
        await asyncio.gather(*(office.know(key) for key in keys))
        assert [len(asked.keys) for asked in office.plane.questions] == [MAX_KEYS, 10]
        assert len({asked.nonce for asked in office.plane.questions}) == 2

    play(scene)


def test_a_flood_of_invented_keys_is_refused_and_disturbs_nobody_who_works(play: Play) -> None:
    async def scene(office: Office) -> None:
        key = office.plane.key("acme")
        principal = await office.know(key)
        office.plane.delay = 0.05
        flood = [office.ask(ApiKey.new()) for _ in range(MAX_WAITING)]
        with pytest.raises(QuotaExceeded) as raised:
            office.ask(ApiKey.new())
        assert raised.value.code == "authentication.rate"
        assert office.ask(key) is principal
        outcomes = await asyncio.gather(
            *(one for one in flood if isinstance(one, asyncio.Future)), return_exceptions=True
        )
        assert {one.code for one in outcomes if isinstance(one, BlindAIError)} == {"authentication.key"}
        assert office.plane.most == 1  # one question at a time, however many ask
        assert office.ask(key) is principal

    play(scene)


def test_keys_in_use_are_bounded_and_none_is_put_out(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEYS_IN_USE", 2)

    async def scene(office: Office) -> None:
        keys = [office.plane.key("acme") for _ in range(3)]
        first, second = [await office.know(key) for key in keys[:2]]
        assert await office.refusal(keys[2]) == "busy"
        assert [office.ask(key) for key in keys[:2]] == [first, second]

    play(scene)


# Time.


def test_a_key_in_use_is_renewed_and_no_request_waits(play: Play) -> None:
    async def scene(office: Office) -> None:
        key = office.plane.key("acme")
        principal = await office.know(key)
        for turn in range(2, 20):
            office.clock.ns += SECOND
            assert office.ask(key) is principal
            await office.until(lambda turn=turn: len(office.plane.questions) == turn)  # type: ignore[misc] # bound here
            await office.until(lambda: principal.asked_ns == office.clock.ns)

    play(scene)


def test_a_key_that_is_not_used_is_not_asked_about_and_forgotten(play: Play) -> None:
    async def scene(office: Office) -> None:
        key = office.plane.key("acme")
        principal = await office.know(key)
        office.ask(key)
        office.clock.ns += SECOND
        await office.until(lambda: len(office.plane.questions) == 2)
        await office.until(lambda: principal.asked_ns == office.clock.ns)
        office.clock.ns += 4 * SECOND
        await office.until(lambda: not office.authoriser.callers)
        assert len(office.plane.questions) == 2
        assert principal.until_ns == 0
        # Nothing in the process refers to the header with the key any more.
        held = [one for one in gc.get_objects() if isinstance(one, dict) and b"Bearer " + key.text.encode() in one]
        assert held == []

    play(scene)


def test_time_counts_from_the_question_and_not_from_the_answer(play: Play) -> None:
    async def scene(office: Office) -> None:
        key = office.plane.key("acme")
        began = office.clock.ns
        office.plane.delay = 0.02
        caller = office.ask(key)
        assert isinstance(caller, asyncio.Future)
        await office.until(lambda: len(office.plane.questions) == 1)
        office.clock.ns += 3 * SECOND
        principal = await introduced(caller)
        assert principal.until_ns == began + 4 * SECOND

    play(scene)


def test_an_answer_that_comes_after_its_time_is_none(play: Play) -> None:
    async def scene(office: Office) -> None:
        key = office.plane.key("acme")
        office.plane.delay = 0.02
        caller = office.ask(key)
        assert isinstance(caller, asyncio.Future)
        await office.until(lambda: len(office.plane.questions) == 1)
        office.clock.ns += 4 * SECOND
        with pytest.raises(Unavailable) as raised:
            await introduced(caller)
        assert raised.value.code == "unavailable.cloud"
        assert office.authoriser.callers == {}

    play(scene)


def test_a_revoked_key_is_refused_with_the_next_renewal(play: Play) -> None:
    async def scene(office: Office) -> None:
        key = office.plane.key("acme")
        principal = await office.know(key)
        office.plane.revoke(key)
        assert office.ask(key) is principal
        office.clock.ns += SECOND
        await office.until(lambda: principal.until_ns == 0)
        assert await office.refusal(key) == "authentication.key"

    play(scene)


def test_what_has_changed_about_a_key_makes_another_caller_of_it(play: Play) -> None:
    async def scene(office: Office) -> None:
        key = office.plane.key("acme")
        principal = await office.know(key)
        office.plane.keys[key.digest].scopes = (Scope.QUERY,)
        office.clock.ns += SECOND
        await office.until(lambda: principal.until_ns == 0)
        changed = office.ask(key)
        assert isinstance(changed, Principal)
        assert changed is not principal
        assert changed.scopes == {Scope.QUERY}
        assert changed.count is principal.count

    play(scene)


def test_without_the_control_plane_those_at_work_go_on_until_their_assertion_ends(play: Play) -> None:
    async def scene(office: Office) -> None:
        known, new = office.plane.key("acme"), office.plane.key("acme")
        principal = await office.know(known)
        office.plane.fault = Unavailable("gone", code="unavailable.connect")
        assert await office.refusal(new) == "unavailable.cloud"
        for _ in range(39):
            office.clock.ns += 100 * MS
            assert office.ask(known) is principal
            await asyncio.sleep(0)
        office.clock.ns += 100 * MS
        assert await office.refusal(known) == "unavailable.cloud"
        await office.until(lambda: not office.authoriser.callers)
        office.plane.fault = None
        office.clock.ns += 2 * SECOND
        assert (await office.know(known)).namespace == "acme"
        assert (await office.know(new)).namespace == "acme"

    play(scene)


def test_while_it_is_gone_new_keys_are_refused_at_once(play: Play) -> None:
    async def scene(office: Office) -> None:
        office.plane.fault = Unavailable("gone", code="unavailable.connect")
        assert await office.refusal(ApiKey.new()) == "unavailable.cloud"
        for _ in range(20):
            with pytest.raises(Unavailable) as raised:
                office.ask(ApiKey.new())
            assert raised.value.code == "unavailable.cloud"

    play(scene)


def test_while_it_is_gone_one_key_is_tried_and_nobody_else_waits(play: Play) -> None:
    async def scene(office: Office) -> None:
        office.plane.fault = Unavailable("gone", code="unavailable.connect")
        assert await office.refusal(ApiKey.new()) == "unavailable.cloud"
        office.clock.ns += 2 * SECOND
        office.plane.fault, office.plane.delay = None, 0.05
        tried = office.ask(office.plane.key("acme"))
        assert isinstance(tried, asyncio.Future)
        with pytest.raises(Unavailable) as raised:
            office.ask(office.plane.key("acme"))
        assert raised.value.code == "unavailable.cloud"
        await introduced(tried)
        # It is there again, for all.
        assert isinstance(office.ask(office.plane.key("acme")), asyncio.Future)

    play(scene)


def test_an_enclave_that_was_forgotten_attests_itself_anew(play: Play) -> None:
    async def scene(office: Office) -> None:
        key = office.plane.key("acme")
        await office.know(key)
        connected = office.plane.connected
        office.plane.tamper = lambda *_: (_ for _ in ()).throw(PermissionDenied("unknown", code="fleet.instance"))
        other = office.plane.key("acme")
        assert await office.refusal(other) == "unavailable.cloud"
        office.plane.tamper = None
        office.clock.ns += 2 * SECOND
        await office.know(other)
        assert office.plane.connected > connected

    play(scene)


# Hostile answers.


def forged(change: dict[str, Any]) -> Callable[[AuthorisationRequest, AuthorisationAnswer], Any]:
    """An assertion in which something was changed after it was signed."""

    def tamper(asked: AuthorisationRequest, answer: AuthorisationAnswer) -> AuthorisationAnswer:
        (signed,) = answer.assertions
        return AuthorisationAnswer(
            (SignedAssertion(msgspec.structs.replace(signed.assertion, **change), signed.signature),)
        )

    return tamper


def signed_by_another(asked: AuthorisationRequest, answer: AuthorisationAnswer) -> AuthorisationAnswer:
    (signed,) = answer.assertions
    signature = Ed25519PrivateKey.generate().sign(signed.assertion.message).hex()
    return AuthorisationAnswer((SignedAssertion(signed.assertion, signature),))


def said_twice(asked: AuthorisationRequest, answer: AuthorisationAnswer) -> AuthorisationAnswer:
    return AuthorisationAnswer(answer.assertions * 2)


def asserted_and_refused(asked: AuthorisationRequest, answer: AuthorisationAnswer) -> AuthorisationAnswer:
    return AuthorisationAnswer(answer.assertions, tuple(Refused(key) for key in asked.keys))


def of_others(asked: AuthorisationRequest, answer: AuthorisationAnswer) -> AuthorisationAnswer:
    return AuthorisationAnswer(answer.assertions, (Refused("00" * 32),))


def too_many(asked: AuthorisationRequest, answer: AuthorisationAnswer) -> AuthorisationAnswer:
    return AuthorisationAnswer((), tuple(Refused(f"{number:064x}") for number in range(MAX_KEYS + 1)))


def longer(asked: AuthorisationRequest, answer: AuthorisationAnswer) -> bytes:
    """Good for longer than any assertion may be."""
    return msgspec.json.encode(answer).replace(b'"ttl_ms":4000', b'"ttl_ms":4001')


HOSTILE = {
    "another nonce": forged({"nonce": "00" * 32}),
    "another instance": forged({"instance": "00" * 32}),
    "another key": forged({"key": "00" * 32}),
    "another namespace": forged({"namespace": "victim"}),
    "more scopes": forged({"scopes": tuple(Scope)}),
    "more time": forged({"ttl_ms": 3999}),
    "another signature": signed_by_another,
    "said twice": said_twice,
    "asserted and refused": asserted_and_refused,
    "keys that were not asked about": of_others,
    "more keys than there may be": too_many,
    "longer than there may be": longer,
    "nothing": lambda *_: AuthorisationAnswer(),
    "no JSON": lambda *_: b"\x00\xff" * 100,
    "deep JSON": lambda *_: b"[" * 100_000,
    "another message": lambda *_: b'{"grants": []}' * 2,
}


@pytest.mark.parametrize("tamper", HOSTILE.values(), ids=HOSTILE.keys())
def test_an_answer_that_is_not_the_question_s_own_is_not_taken(play: Play, tamper: Callable[..., Any]) -> None:
    async def scene(office: Office) -> None:
        key = office.plane.key("acme", Scope.QUERY)
        office.plane.tamper = tamper
        assert await office.refusal(key) == "unavailable.cloud"
        assert office.authoriser.callers == {}
        assert office.authoriser._in_force == {}
        # Nor does it end what is known.
        office.plane.tamper = None
        office.clock.ns += 2 * SECOND
        principal = await office.know(key)
        office.plane.tamper = tamper
        office.clock.ns += 2 * SECOND
        office.ask(key)
        questions = len(office.plane.questions)
        await office.until(lambda: len(office.plane.questions) > questions)
        assert office.ask(key) is principal

    play(scene)


def test_an_answer_that_is_replayed_to_a_later_question_is_not_taken(play: Play) -> None:
    async def scene(office: Office) -> None:
        key = office.plane.key("acme")
        answers: list[AuthorisationAnswer] = []

        def keep(asked: AuthorisationRequest, answer: AuthorisationAnswer) -> AuthorisationAnswer:
            answers.append(answer)
            return answers[0]

        office.plane.tamper = keep
        principal = await office.know(key)
        office.plane.revoke(key)
        ends = principal.until_ns
        office.clock.ns += SECOND
        office.ask(key)
        await office.until(lambda: len(answers) > 1)
        assert principal.until_ns == ends
        office.clock.ns = ends
        assert await office.refusal(key) == "unavailable.cloud"

    play(scene)


def test_an_answer_to_an_earlier_question_does_not_undo_a_later_one(play: Play) -> None:
    async def scene(office: Office) -> None:
        key = office.plane.key("acme")
        principal = await office.know(key)
        later = office.clock.ns
        office.authoriser._learn(key.digest, None, later - 1)
        assert office.ask(key) is principal
        office.authoriser._learn(key.digest, None, later)
        assert principal.until_ns == 0

    play(scene)


def test_a_control_plane_that_says_nothing_is_not_waited_for(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.02)

    async def scene(office: Office) -> None:
        office.plane.delay = 30.0
        assert await office.refusal(ApiKey.new()) == "unavailable.cloud"

    play(scene)


def test_who_waits_when_the_enclave_stops_is_told(clock: Clock) -> None:
    async def main() -> None:
        office = Office(clock)
        office.plane.delay = 30.0
        office.authoriser.start()
        caller = office.ask(ApiKey.new())
        assert isinstance(caller, asyncio.Future)
        await office.until(lambda: bool(office.plane.questions))
        await office.authoriser.close()
        with pytest.raises(Unavailable) as raised:
            await introduced(caller)
        assert raised.value.code == "stopping"

    asyncio.run(main())


def test_more_keys_than_can_be_counted_are_refused(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blindai.enclave.cloud.usage.MAX_COUNTED", 1)

    async def scene(office: Office) -> None:
        await office.know(office.plane.key("acme"))
        assert await office.refusal(office.plane.key("acme")) == "busy"

    play(scene)
