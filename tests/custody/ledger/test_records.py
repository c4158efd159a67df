"""Which records are taken: those that are signed, that follow each other, and that spend what was held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from blindai.channel.keyset import PrivateKeyset
from blindai.custody.ledger.records import Chain, examine
from blindai.errors import InvalidInput
from blindai.wire.custody import FIRST, Record, SignedRecord, Usage

LEASE = "lease-aaaaaaaaaaaaaaaa"
MODEL, POLICY, HEAD = "11" * 32, "22" * 32, "33" * 32

Sign = Callable[..., SignedRecord]


@pytest.fixture(scope="module")
def keyset() -> PrivateKeyset:
    return PrivateKeyset(datetime.now(UTC))


@pytest.fixture
def chain(keyset: PrivateKeyset) -> Chain:
    """Of an instance that has sent two records and holds ten units."""
    return Chain(
        lease=LEASE,
        instance=keyset.digest,
        receipt_key=keyset.public.receipt_key,
        seq=2,
        head=HEAD,
        closed_ms=2000,
        grant_seq=5,
        stop_epoch=1,
        known={2: HEAD},
        outstanding={"alice": 10, "bob": 0},
        model_digest=MODEL,
        policy_digest=POLICY,
    )


@pytest.fixture
def sign(keyset: PrivateKeyset) -> Sign:
    def signed(**changes: Any) -> SignedRecord:
        fields: dict[str, Any] = {
            "lease": LEASE,
            "instance": keyset.digest,
            "seq": 3,
            "prev": HEAD,
            "grant": 5,
            "opened_ms": 2000,
            "closed_ms": 3000,
            "counts": {"alice": Usage(units=4, queries=4)},
            "model_digest": MODEL,
            "policy_digest": POLICY,
            "stop_epoch": 1,
        }
        record = Record(**(fields | changes))
        return SignedRecord(record, keyset.sign(record.message).hex())

    return signed


def test_the_next_record_is_taken(chain: Chain, sign: Sign) -> None:
    intake = examine([sign()], chain, closing=False)
    assert (intake.taken, intake.fault) == ((sign(),), None)


def test_all_that_is_held_can_be_spent(chain: Chain, sign: Sign) -> None:
    assert examine([sign(counts={"alice": Usage(units=10, queries=10)})], chain, closing=False).fault is None


def test_records_follow_each_other_in_one_message(chain: Chain, sign: Sign) -> None:
    first = sign()
    second = sign(seq=4, prev=first.record.digest, opened_ms=3000, closed_ms=3000)
    assert examine([first, second], chain, closing=False).taken == (first, second)


def test_what_was_taken_is_passed_over(chain: Chain, sign: Sign) -> None:
    old = sign(seq=2, prev=FIRST)
    new = sign()
    intake = examine([old, new], replace(chain, known={2: old.record.digest}), closing=False)
    assert (intake.taken, intake.fault) == ((new,), None)


def test_another_record_with_a_number_that_was_taken_is_a_fork(chain: Chain, sign: Sign) -> None:
    intake = examine([sign(seq=2)], chain, closing=False)
    assert intake.taken == ()
    assert intake.fault is not None
    assert intake.fault.code == "lease.forked"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"prev": "44" * 32}, "lease.forked"),
        ({"grant": 6}, "lease.forked"),
        ({"stop_epoch": 2}, "lease.forked"),
        ({"counts": {"alice": Usage(units=11, queries=11)}}, "lease.overspent"),
        ({"counts": {"bob": Usage(units=1, queries=1)}}, "lease.overspent"),
    ],
)
def test_what_no_honest_instance_sends_is_a_fault_and_what_came_before_it_is_taken(
    chain: Chain, sign: Sign, changes: dict[str, Any], code: str
) -> None:
    first = sign(counts={})
    second = sign(**({"seq": 4, "prev": first.record.digest, "opened_ms": 3000} | changes))
    intake = examine([first, second], chain, closing=False)
    assert intake.taken == (first,)
    assert intake.fault is not None
    assert intake.fault.code == code


def test_units_are_not_spent_twice_in_one_message(chain: Chain, sign: Sign) -> None:
    first = sign(counts={"alice": Usage(units=6, queries=6)})
    second = sign(seq=4, prev=first.record.digest, opened_ms=3000, counts={"alice": Usage(units=5, queries=5)})
    fault = examine([first, second], chain, closing=False).fault
    assert fault is not None
    assert fault.reason == "record 4 counts 5 units where 4 were held"


@pytest.mark.parametrize(
    "changes",
    [
        {"lease": "lease-bbbbbbbbbbbbbbbb"},
        {"instance": "55" * 32},
        {"model_digest": POLICY},
        {"policy_digest": MODEL},
        # Whoever has had a grant knows what it serves.
        {"model_digest": FIRST},
        {"grant": 0},
        {"grant": 0, "model_digest": FIRST},
        {"counts": {"mallory": Usage()}},
        {"counts": {"alice": Usage(units=1, queries=1, failed=2)}},
        {"opened_ms": 1999},
        {"opened_ms": 3001},
        {"final": True},
    ],
)
def test_a_record_that_is_wrong_is_refused(chain: Chain, sign: Sign, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refused:
        examine([sign(**changes)], chain, closing=False)
    assert refused.value.code == "lease.record"


def test_before_the_first_grant_it_is_not_known_what_is_served(chain: Chain, sign: Sign) -> None:
    blank = sign(grant=0, model_digest=FIRST, policy_digest=FIRST, counts={}, stop_epoch=0)
    assert examine([blank], chain, closing=False).taken == (blank,)


def test_a_record_signed_by_another_instance_is_refused(chain: Chain, sign: Sign) -> None:
    record = sign().record
    forged = SignedRecord(record, PrivateKeyset(datetime.now(UTC)).sign(record.message).hex())
    with pytest.raises(InvalidInput) as refused:
        examine([forged], chain, closing=False)
    assert refused.value.code == "lease.record"


@pytest.mark.parametrize("field", ["seq", "counts", "final", "closed_ms"])
def test_a_record_that_was_edited_is_refused(chain: Chain, sign: Sign, field: str) -> None:
    edited = {"seq": 4, "counts": {}, "final": True, "closed_ms": 2001}[field]
    with pytest.raises(InvalidInput) as refused:
        examine([SignedRecord(sign(**{field: edited}).record, sign().signature)], chain, closing=False)
    assert refused.value.code == "lease.record"


@pytest.mark.parametrize("seq", [4, 9])
def test_a_missing_record_is_refused(chain: Chain, sign: Sign, seq: int) -> None:
    with pytest.raises(InvalidInput) as refused:
        examine([sign(seq=seq)], chain, closing=False)
    assert refused.value.code == "lease.record_gap"


def test_the_same_number_twice_in_one_message_is_refused(chain: Chain, sign: Sign) -> None:
    with pytest.raises(InvalidInput) as refused:
        examine([sign(), sign(counts={})], chain, closing=False)
    assert refused.value.code == "lease.record_gap"


def test_a_closing_ends_with_the_final_record(chain: Chain, sign: Sign) -> None:
    first = sign()
    last = sign(seq=4, prev=first.record.digest, opened_ms=3000, counts={}, final=True)
    assert examine([first, last], chain, closing=True).taken == (first, last)


def test_a_closing_without_a_final_record_is_refused(chain: Chain, sign: Sign) -> None:
    with pytest.raises(InvalidInput) as refused:
        examine([sign()], chain, closing=True)
    assert refused.value.code == "lease.record"


def test_a_final_record_is_the_last_one(chain: Chain, sign: Sign) -> None:
    first = sign(final=True)
    second = sign(seq=4, prev=first.record.digest, opened_ms=3000, final=True)
    with pytest.raises(InvalidInput) as refused:
        examine([first, second], chain, closing=True)
    assert refused.value.code == "lease.record"
