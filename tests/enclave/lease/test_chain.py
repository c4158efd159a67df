"""Records of an instance: chained, signed, one at a time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from blindai.enclave.lease.chain import RecordChain
from blindai.errors import Unavailable
from blindai.wire.custody import FIRST, Grant, Renewal, SignedRecord, Usage

from .conftest import INSTANCE, LEASE, MODEL, SECOND, Signer

BEGAN = 500 * SECOND


@pytest.fixture
def receipts() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def grant(signer: Signer) -> Grant:
    return signer.answer(Renewal(lease=LEASE, instance=INSTANCE, seq=1, prev=FIRST, challenge="0" * 64)).grant


@pytest.fixture
def chain(receipts: Ed25519PrivateKey) -> RecordChain:
    return RecordChain(receipts.sign, BEGAN)


def make(chain: RecordChain, grant: Grant, units: int, now: int, *, final: bool = False) -> SignedRecord:
    chain.append({"alice": Usage(units, units, 0)}, now, grant=grant, stop_epoch=0, final=final)
    return chain.pending[-1]


def test_records_follow_each_other_without_gaps(chain: RecordChain, grant: Grant, receipts: Ed25519PrivateKey) -> None:
    made = []
    for step in range(1, 4):
        made.append(make(chain, grant, step, BEGAN + step * SECOND))
        chain.acknowledge(made[-1].record.seq, made[-1].record.digest)
    records = [signed.record for signed in made]
    assert [record.seq for record in records] == [1, 2, 3]
    assert records[0].prev == FIRST
    for before, after in pairwise(records):
        assert (after.prev, after.opened_ms) == (before.digest, before.closed_ms)
    assert [(record.opened_ms, record.closed_ms) for record in records] == [(0, 1000), (1000, 2000), (2000, 3000)]
    for signed in made:
        receipts.public_key().verify(bytes.fromhex(signed.signature), signed.record.message)
    assert records[0].model_digest == MODEL


def test_what_is_not_acknowledged_stays_as_it_is(chain: RecordChain, grant: Grant) -> None:
    record = make(chain, grant, 1, BEGAN + SECOND)
    assert not chain.acknowledge(0, FIRST)
    assert chain.pending == (record,)


def test_an_acknowledgement_drops_what_it_names_and_what_is_before(chain: RecordChain, grant: Grant) -> None:
    first = make(chain, grant, 1, BEGAN + SECOND)
    last = make(chain, grant, 2, BEGAN + 2 * SECOND, final=True)
    assert not chain.acknowledge(1, first.record.digest)
    assert list(chain.pending) == [last]
    assert chain.acknowledge(2, last.record.digest)
    assert not chain.pending
    assert chain.acknowledge(2, last.record.digest)


@pytest.mark.parametrize(("seq", "head"), [(1, "9" * 64), (2, None), (7, "9" * 64), (1, FIRST)])
def test_an_acknowledgement_of_what_was_not_made_is_refused(
    chain: RecordChain, grant: Grant, seq: int, head: str | None
) -> None:
    record = make(chain, grant, 1, BEGAN + SECOND)
    with pytest.raises(Unavailable) as caught:
        chain.acknowledge(seq, head or record.record.digest)
    assert caught.value.code == "lease.grant"
    assert chain.pending == (record,)


def test_an_acknowledgement_does_not_go_back(chain: RecordChain, grant: Grant) -> None:
    record = make(chain, grant, 1, BEGAN + SECOND)
    chain.acknowledge(1, record.record.digest)
    with pytest.raises(Unavailable) as caught:
        chain.acknowledge(0, FIRST)
    assert caught.value.code == "lease.grant"
