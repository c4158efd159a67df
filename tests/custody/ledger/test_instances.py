"""Instances: who is admitted, who is counted, and whose word is written down."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from blindai.attestation.result import Status
from blindai.channel.transcript import Transcript
from blindai.custody.ledger import instances
from blindai.errors import InvalidInput, LeaseStopped, PermissionDenied, QuotaExceeded
from lending import Custodian


def test_the_first_contact_leaves_the_whole_evidence_in_the_log(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.unknown(lease)
    transcript = instance.transcript()
    custodian.ledger.admit(lease, transcript, instance.result())
    event = custodian.last(lease)
    assert (event.kind, event.by, event.detail["instance"]) == ("instance.attested", "", instance.id)
    kept = msgspec.json.decode(json.dumps(event.detail["transcript"]), type=Transcript)
    assert msgspec.structs.replace(kept, evidence=transcript.evidence) == transcript
    assert msgspec.json.decode(kept.evidence) == msgspec.json.decode(transcript.evidence)


def test_later_contacts_leave_their_verdict_but_no_entry(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    custodian.clocks.sleep(10)
    later = msgspec.structs.replace(instance.result(), policy_digest="77" * 32)
    custodian.ledger.admit(lease, instance.transcript(), later)
    (picture,) = custodian.ledger.lease(lease).instances
    assert picture.verdict["policy_digest"] == "77" * 32
    assert (picture.last_seen - picture.first_seen).total_seconds() == 10
    assert custodian.kinds(lease) == ["instance.attested"]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"custody": "mine"},
        {"custody": {}},
        {"custody": {"public_key": "11" * 32}},
        {"custody": {"public_key": "11" * 32, "lease": "here"}},
    ],
)
def test_an_enclave_configured_for_another_custodian_is_refused(custodian: Custodian, config: dict[str, Any]) -> None:
    lease = custodian.lend()
    instance = custodian.unknown(lease)
    instance.config = json.loads(json.dumps(config).replace('"here"', f'"{lease}"'))
    with pytest.raises(PermissionDenied) as refused:
        instance.admit()
    assert refused.value.code == "lease.config"
    assert custodian.kinds(lease) == []


def test_an_enclave_configured_for_another_lease_is_refused(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.unknown(custodian.lend())
    instance.lease = lease
    with pytest.raises(PermissionDenied) as refused:
        instance.admit()
    assert refused.value.code == "lease.config"


def test_a_refused_attestation_admits_nobody(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.unknown(lease)
    for result in (
        msgspec.structs.replace(instance.result(), status=Status.CONTRAINDICATED),
        msgspec.structs.replace(instance.result(), keyset_digest="11" * 32),
    ):
        with pytest.raises(PermissionDenied) as refused:
            custodian.ledger.admit(lease, instance.transcript(), result)
        assert refused.value.code == "lease.attestation"


@pytest.mark.parametrize(
    "changes",
    [
        {"receipt_key": "no hex"},
        {"receipt_key": "11"},
        {"hpke_public_key": "11"},
        # The point that gives every secret away (RFC 7748, section 6.1).
        {"hpke_public_key": "00" * 32},
    ],
)
def test_keys_that_are_none_are_refused_before_anything_is_debited(
    custodian: Custodian, changes: dict[str, str]
) -> None:
    lease = custodian.lend()
    instance = custodian.unknown(lease)
    keyset = msgspec.structs.replace(instance.keyset.public, **changes)
    transcript = msgspec.structs.replace(instance.transcript(), keyset=keyset)
    result = msgspec.structs.replace(instance.result(), keyset_digest=keyset.digest)
    with pytest.raises(PermissionDenied) as refused:
        custodian.ledger.admit(lease, transcript, result)
    assert refused.value.code == "lease.keyset"


def test_other_keys_under_the_same_name_are_refused(custodian: Custodian, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes two keysets with one SHA-256; should anybody ever have them, the first stays."""
    lease = custodian.lend()
    first, second = custodian.instance(lease), custodian.unknown(lease)
    monkeypatch.setattr(type(second.keyset.public), "digest", first.id)
    second.id = first.id
    with pytest.raises(PermissionDenied) as refused:
        second.admit()
    assert refused.value.code == "lease.keyset"


def test_an_instance_in_quarantine_is_not_admitted_again(custodian: Custodian) -> None:
    instance = custodian.instance(custodian.lend())
    forked = instance.next_renewal()
    instance.renew()
    with pytest.raises(LeaseStopped):
        custodian.ledger.renew(forked)
    with pytest.raises(LeaseStopped) as refused:
        instance.admit()
    assert refused.value.code == "lease.quarantined"


def test_a_closed_instance_is_not_admitted_again(custodian: Custodian) -> None:
    instance = custodian.instance(custodian.lend())
    instance.close()
    with pytest.raises(InvalidInput) as refused:
        instance.admit()
    assert refused.value.code == "lease.closed"


def test_a_borrower_who_restarts_for_ever_does_not_fill_the_disk(
    custodian: Custodian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "MAX_ADMISSIONS", 2)
    lease = custodian.lend()
    first = custodian.instance(lease)
    custodian.instance(lease)
    with pytest.raises(QuotaExceeded) as refused:
        custodian.instance(lease)
    assert refused.value.code == "lease.admissions"
    first.admit()
    custodian.instance(custodian.lend())


# What an instance is told, and what it says.


def test_an_instance_is_told_the_state_of_its_lease(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    custodian.ledger.stop(lease, by="ann", reason="an incident")
    status = custodian.ledger.status(lease, instance.id)
    assert (status.state, status.stop_epoch, status.reason, status.quarantined) == ("stopped", 1, "an incident", False)
    assert status.version == custodian.ledger.versions()[lease]


def test_a_stranger_is_told_nothing(custodian: Custodian) -> None:
    lease = custodian.lend()
    for ask in (
        lambda: custodian.ledger.status(lease, "11" * 32),
        lambda: custodian.ledger.acknowledge(lease, "11" * 32, 1),
        lambda: custodian.unknown(lease).request("alice"),
    ):
        with pytest.raises(PermissionDenied) as refused:
            ask()
        assert refused.value.code == "lease.not_admitted"


@pytest.mark.parametrize("state", ["paused", "stopped"])
def test_the_acknowledgement_of_a_stop_is_logged_once(custodian: Custodian, state: str) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    picture = {"paused": custodian.ledger.pause, "stopped": custodian.ledger.stop}[state](lease, by="ann", reason="")
    custodian.clocks.sleep(1)
    for _ in range(3):
        custodian.ledger.acknowledge(lease, instance.id, picture.version)
    assert custodian.last(lease).kind == "stop.acknowledged"
    assert custodian.last(lease).detail == {"instance": instance.id, "version": picture.version}
    assert custodian.kinds(lease).count("stop.acknowledged") == 1
    (seen,) = custodian.ledger.lease(lease).instances
    assert seen.acknowledged_version == picture.changed_version
    assert seen.acknowledged_at is not None
    assert (seen.acknowledged_at - picture.changed_at).total_seconds() == 1


def test_the_acknowledgement_of_anything_else_is_not_logged(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    custodian.ledger.raise_budget(lease, consumer=None, amount=1, by="ann", reason="")
    custodian.ledger.acknowledge(lease, instance.id, custodian.ledger.versions()[lease])
    custodian.ledger.stop(lease, by="ann", reason="")
    custodian.ledger.resume(lease, by="ann", reason="")
    custodian.ledger.acknowledge(lease, instance.id, custodian.ledger.versions()[lease])
    assert "stop.acknowledged" not in custodian.kinds(lease)


def test_a_version_that_never_was_is_not_acknowledged(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.acknowledge(lease, instance.id, 99)
    assert refused.value.code == "lease.version"


def test_of_two_watches_that_bring_the_same_acknowledgement_one_is_written(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    version = custodian.ledger.stop(lease, by="ann", reason="").version
    # Both have seen that it is news, and wait for the lock.
    for _ in range(2):
        with custodian.ledger._change(lease) as change:
            instances.acknowledge(change, instance.id, version)
    assert custodian.kinds(lease).count("stop.acknowledged") == 1
