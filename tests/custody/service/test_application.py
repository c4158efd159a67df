"""What enclaves may ask, and what is refused although their gate is open."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.channel.calling import CallingEnd
from blindai.custody.service import application
from blindai.errors import BlindAIError, Unavailable
from blindai.wire import custody as wire
from blindai.wire.problems import PROBLEMS
from calling_instance import CallingInstance
from custodian import RunningCustodian
from lent_models import OPERATOR, Loan, opened

Borrow = Callable[[Loan, str], CallingInstance]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCustodian]:
    """One custodian for all that is refused and changes nothing."""
    with opened(tmp_path_factory.mktemp("custodian")) as custodian:
        one = RunningCustodian(custodian)
        yield one
        one.close()


@pytest.fixture(scope="module")
def loan(shared: RunningCustodian) -> Loan:
    return shared.lend(max_instances=1000)


@pytest.fixture
def instance(shared: RunningCustodian, loan: Loan, borrow: Borrow) -> CallingInstance:
    return borrow(loan, shared.enclaves)


def _refused(instance: CallingInstance, path: str, body: bytes | msgspec.Struct, status: int, code: str) -> None:
    assert instance.line is not None
    answer = instance.line.post(path, body if isinstance(body, bytes) else msgspec.json.encode(body))
    assert (answer.status, json.loads(answer.body)["code"]) == (status, code), answer.body


def _messages(instance: CallingInstance) -> dict[str, Any]:
    """One message of each kind that would be answered."""
    return {
        wire.RENEWALS: instance.next_renewal(),
        wire.WATCHES: wire.Watch(lease=instance.lease, instance=instance.id, known=0, applied=0),
        wire.BUDGET_REQUESTS: wire.BudgetRequest(
            lease=instance.lease, instance=instance.id, consumer="clinic", wanted=10
        ),
        wire.CLOSINGS: wire.Closing(
            lease=instance.lease, instance=instance.id, records=(instance.record({}, final=True),)
        ),
        wire.ARTEFACTS: wire.ArtefactRange(lease=instance.lease, offset=0, length=10),
    }


PATHS = [wire.RENEWALS, wire.WATCHES, wire.BUDGET_REQUESTS, wire.CLOSINGS, wire.ARTEFACTS]


@pytest.mark.parametrize("path", PATHS)
def test_a_message_about_another_lease_is_refused(
    shared: RunningCustodian, instance: CallingInstance, path: str
) -> None:
    other = shared.lend()
    message = msgspec.structs.replace(_messages(instance)[path], lease=other.lease)
    _refused(instance, path, message, 403, "lease.foreign")


@pytest.mark.parametrize("path", PATHS[:-1])
def test_a_message_of_another_instance_is_refused(
    shared: RunningCustodian, loan: Loan, instance: CallingInstance, borrow: Borrow, path: str
) -> None:
    other = borrow(loan, shared.enclaves)
    _refused(instance, path, _messages(other)[path], 403, "lease.instance")
    assert shared.custodian.ledger.lease(loan.lease).granted == 0


@pytest.mark.parametrize("path", PATHS)
def test_another_version_is_refused(instance: CallingInstance, path: str) -> None:
    message = msgspec.structs.replace(_messages(instance)[path], v=2)
    _refused(instance, path, message, 400, "input.version")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "change",
    [
        lambda body: b"",
        lambda body: b"null",
        lambda body: b"[]",
        lambda body: body[:-1],
        lambda body: body + b"{}",
        lambda body: b"\xff" + body,
        lambda body: body.replace(b'"lease":"lease-', b'"lease":"LEASE-'),
        lambda body: body[:-1] + b',"more":1}',
        lambda body: body.replace(b'"v":1', b'"v":1.5'),
        lambda body: b"[" * 100_000,
        lambda body: body.replace(b'"lease":', b'"lease":{"a":'),
    ],
    ids=["nothing", "null", "list", "cut", "two", "no utf-8", "no lease", "more keys", "no number", "deep", "nested"],
)
def test_what_is_no_message_is_refused(instance: CallingInstance, path: str, change: Callable[[bytes], bytes]) -> None:
    _refused(instance, path, change(msgspec.json.encode(_messages(instance)[path])), 400, "input.message")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seq", 0),
        ("seq", -1),
        ("seq", 10**30),
        ("seq", "1"),
        ("wanted", {"clinic": -1}),
        ("wanted", {"clinic": 1.5}),
        ("wanted", {"clinic": 10**13}),
        ("wanted", {"clinic": "many"}),
        ("wanted", {"Clinic!": 1}),
        ("wanted", {f"c{number}": 1 for number in range(1001)}),
        ("challenge", "00"),
        ("prev", "Z" * 64),
        ("key", 1),
        ("records", [None]),
        ("records", [{"record": {}, "signature": ""}]),
    ],
)
def test_amounts_and_numbers_are_held_to_their_kind(instance: CallingInstance, field: str, value: object) -> None:
    message = msgspec.to_builtins(instance.next_renewal()) | {field: value}
    _refused(instance, wire.RENEWALS, json.dumps(message).encode(), 400, "input.message")


def test_a_message_that_is_too_large_is_refused_unread(instance: CallingInstance) -> None:
    assert instance.line is not None
    answer = instance.line.post(wire.RENEWALS, b" " * (wire.MAX_MESSAGE_BYTES + 1))
    assert (answer.status, json.loads(answer.body)["code"]) == (413, "quota.body")


@pytest.mark.parametrize("length", [0, -1, wire.MAX_ARTEFACT_BYTES + 1])
def test_parts_have_a_size(instance: CallingInstance, length: int) -> None:
    body = json.dumps({"v": 1, "lease": instance.lease, "offset": 0, "length": length}).encode()
    _refused(instance, wire.ARTEFACTS, body, 400, "input.message")


@pytest.mark.parametrize("path", ["/", "/v1/renewal", "/v1/renewals/", "/v2/models", "/v1/renewals/../x"])
def test_nothing_else_is_answered(instance: CallingInstance, path: str) -> None:
    _refused(instance, path, b"{}", 404, "http.not_found")


def test_only_post_is_answered(instance: CallingInstance) -> None:
    assert instance.line is not None
    line = instance.line
    head = f"GET {wire.RENEWALS} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    answer = line._stream.run(line._call.exchange(head, max_answer_bytes=1000))
    assert (answer.status, json.loads(answer.body)["code"]) == (405, "http.method")


def test_the_same_renewal_gets_the_same_bytes_on_any_connection(running: RunningCustodian, borrow: Borrow) -> None:
    instance = borrow(running.lend(), running.enclaves)
    assert instance.line is not None
    body = msgspec.json.encode(instance.next_renewal({"clinic": 5}, key=True))
    answers = [instance.line.post(wire.RENEWALS, body)]
    answers += [instance.another_line().post(wire.RENEWALS, body) for _ in range(2)]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert running.custodian.ledger.lease(instance.lease).granted == 5


def test_a_fork_gets_nothing_any_more(running: RunningCustodian, borrow: Borrow) -> None:
    instance = borrow(running.lend(), running.enclaves)
    assert instance.line is not None
    instance.line.renew(instance.next_renewal({"clinic": 5}))
    with pytest.raises(BlindAIError) as caught:
        instance.line.renew(instance.next_renewal({"clinic": 5}))  # another challenge: another message
    assert caught.value.code == "lease.forked"
    assert instance.watch().quarantined
    with pytest.raises(BlindAIError) as caught:
        instance.call()
    assert caught.value.code == "lease.quarantined"


def test_a_budget_request_is_filed_once(running: RunningCustodian, borrow: Borrow) -> None:
    instance = borrow(running.lend(consumers={"clinic": 50}), running.enclaves)
    first = instance.request("clinic", 10)
    assert instance.request("clinic", 10).id == first.id
    assert running.custodian.ledger.approve(first.id, by=OPERATOR) is None
    (account,) = running.custodian.ledger.lease(instance.lease).accounts
    assert account.budget == 60


def test_a_lost_artefact_is_no_incident(shared: RunningCustodian, borrow: Borrow) -> None:
    loan = shared.lend()
    instance = borrow(loan, shared.enclaves)
    loan.artefact.unlink()
    with pytest.raises(Unavailable) as caught:
        instance.part(0, 10)
    assert caught.value.code == "unavailable.artefact"


def test_a_model_that_is_cut_while_it_is_fetched_ends_the_connection(
    shared: RunningCustodian, borrow: Borrow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "PIECE_BYTES", 1000)
    loan = shared.lend(b"x" * 100_000)
    instance = borrow(loan, shared.enclaves)
    pread = os.pread

    def cutting(descriptor: int, length: int, at: int) -> bytes:
        os.truncate(loan.artefact, 5000)
        return pread(descriptor, length, at)

    monkeypatch.setattr(os, "pread", cutting)
    with pytest.raises(Unavailable):
        instance.part(0, 100_000)


def test_a_part_may_be_fetched_while_others_are(shared: RunningCustodian, borrow: Borrow) -> None:
    loan = shared.lend(bytes(range(256)) * 10_000)
    instance = borrow(loan, shared.enclaves)
    sealed = loan.artefact.read_bytes()
    lines = [instance.another_line() for _ in range(4)]
    offsets = range(0, len(sealed), 100_000)

    def fetch(number: int) -> dict[int, bytes]:
        return {at: lines[number].part(at, 100_000) for at in offsets[number::4]}

    with ThreadPoolExecutor(4) as pool:
        fetched = [part for parts in pool.map(fetch, range(4)) for part in parts.items()]
    assert b"".join(part for _, part in sorted(fetched)) == sealed


def test_an_instance_of_an_unknown_lease_stays_outside(shared: RunningCustodian, loan: Loan) -> None:
    stranger = CallingInstance(replace(loan, lease="lease-" + "a" * 16), shared.enclaves)
    with pytest.raises(BlindAIError) as caught:
        stranger.call()
    assert caught.value.code == "lease.unknown"


def test_an_enclave_that_was_configured_for_another_custodian_stays_outside(
    shared: RunningCustodian, loan: Loan
) -> None:
    stranger = CallingInstance(loan, shared.enclaves)
    stranger.config["custody"]["public_key"] = secrets.token_hex(32)
    stranger.end = CallingEnd(SimulatedAttester(), stranger.config)
    with pytest.raises(BlindAIError) as caught:
        stranger.call()
    assert caught.value.code == "lease.config"


def test_every_refusal_of_a_message_is_known_to_the_enclave() -> None:
    for code in ("lease.foreign", "lease.instance", "lease.not_admitted", "lease.unknown"):
        assert code in PROBLEMS
