"""What drives a ledger in tests: terms of a lease, and an enclave that asks, spends and reports without any network."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from blindai.attestation.result import AttestationResult, Mode, Status
from blindai.channel.keyset import PrivateKeyset
from blindai.channel.statement import NO_DEVICES, Role, Statement, config_digest
from blindai.channel.transcript import Transcript
from blindai.custody.ledger import Ledger
from blindai.custody.terms import Terms
from blindai.wire.custody import (
    FIRST,
    BudgetRequest,
    Closed,
    Closing,
    GrantAnswer,
    Record,
    Renewal,
    RequestStatus,
    SignedRecord,
    Usage,
)

MODEL_KEY = bytes(range(32))
MODEL_DIGEST = "5e" * 32

POLICY = """\
version = 1
accepted_tees = ["intel-tdx"]

[[code]]
tee = "intel-tdx"
name = "any release"
mrtd = "{mrtd}"
rtmr1 = "{mrtd}"
rtmr2 = "{mrtd}"
""".format(mrtd="ab" * 48)


def terms(folder: Path, **changes: Any) -> Terms:
    """A lease of 100 units to one consumer, `alice`; `changes` are of `Terms`."""
    artefact = folder / "model.sealed"
    artefact.touch()
    return replace(
        Terms(
            name="A model",
            borrower="A hospital",
            model_id="acme/model",
            model_digest=MODEL_DIGEST,
            artefact=artefact,
            policy=POLICY,
            budget=100,
            any_chip=True,
        ),
        **({"consumers": {} if changes.get("open_to_anyone") else {"alice": None}} | changes),
    )


class Instance:
    """One run of an enclave, without its TEE and its line.

    Attributes:
        held: units that it was granted and has not spent, by consumer.
        renewal: the one that it sent last.
        answer: to the last one that was granted.
        pending: records that were not acknowledged.
    """

    def __init__(self, ledger: Ledger, lease: str, public_key: str) -> None:
        self.ledger = ledger
        self.lease = lease
        self.keyset = PrivateKeyset(datetime.now(UTC))
        self.id = self.keyset.digest
        self.config: dict[str, Any] = {"custody": {"public_key": public_key, "lease": lease}}
        self.held: dict[str, int] = {}
        self.pending: list[SignedRecord] = []
        self.renewal: Renewal | None = None
        self.answer: GrantAnswer | None = None
        self._policy_digest = FIRST
        self._grant_seq = 0
        self._grant_head = FIRST
        self._record_seq = 0
        self._record_head = FIRST

    def transcript(self) -> Transcript:
        statement = Statement(
            role=Role.CLIENT,
            nonce=secrets.token_hex(32),
            ekm=secrets.token_hex(32),
            spki_sha256=self.keyset.public.tls_spki_sha256,
            keyset_digest=self.id,
            devices_digest=NO_DEVICES,
            config_digest=config_digest(self.config),
        )
        return Transcript(
            at=datetime.now(UTC),
            statement=statement,
            keyset=self.keyset.public,
            config=self.config,
            evidence=msgspec.Raw(b'{"tee":"none"}'),
        )

    def result(self) -> AttestationResult:
        return AttestationResult(
            status=Status.AFFIRMING, checks=(), mode=Mode.FRESH, policy_digest=FIRST, keyset_digest=self.id
        )

    def admit(self) -> Instance:
        self.ledger.admit(self.lease, self.transcript(), self.result())
        return self

    def next_renewal(self, wanted: Mapping[str, int] | None = None, *, key: bool = False) -> Renewal:
        """The renewal after the last one that was granted; every call makes another."""
        return Renewal(
            lease=self.lease,
            instance=self.id,
            seq=self._grant_seq + 1,
            prev=self._grant_head,
            challenge=secrets.token_hex(32),
            wanted=dict(wanted or {}),
            key=key,
            records=tuple(self.pending),
        )

    def renew(self, wanted: Mapping[str, int] | None = None, *, key: bool = False) -> GrantAnswer:
        self.renewal = self.next_renewal(wanted, key=key)
        return self.take(self.ledger.renew(self.renewal))

    def take(self, answer: GrantAnswer) -> GrantAnswer:
        """Act on an answer, once however often it comes."""
        grant = answer.grant
        if grant.seq <= self._grant_seq:
            return answer
        self._grant_seq, self._grant_head = grant.seq, grant.digest
        self._policy_digest = grant.policy_digest
        self.answer = answer
        for consumer, units in grant.quantities.items():
            self.held[consumer] = self.held.get(consumer, 0) + units
        self.pending = [signed for signed in self.pending if signed.record.seq > grant.record_seq]
        return answer

    def spend(self, consumer: str, units: int = 1) -> SignedRecord:
        """Spend units that it holds, and note that in a record for the next renewal."""
        assert units <= self.held.get(consumer, 0)
        self.held[consumer] -= units
        return self.record({consumer: Usage(units=units, queries=units)})

    def record(self, counts: Mapping[str, Usage], **changes: Any) -> SignedRecord:
        """The next record; `changes` are of `Record`."""
        fields: dict[str, Any] = {
            "lease": self.lease,
            "instance": self.id,
            "seq": self._record_seq + 1,
            "prev": self._record_head,
            "grant": self._grant_seq,
            "opened_ms": self._record_seq * 1000,
            "closed_ms": (self._record_seq + 1) * 1000,
            "counts": dict(counts),
            "model_digest": MODEL_DIGEST if self._grant_seq else FIRST,
            "policy_digest": self._policy_digest,
            "stop_epoch": 0,
        }
        record = Record(**(fields | changes))
        signed = self.signed(record)
        self._record_seq, self._record_head = record.seq, record.digest
        self.pending.append(signed)
        return signed

    def signed(self, record: Record) -> SignedRecord:
        return SignedRecord(record, self.keyset.sign(record.message).hex())

    def request(self, consumer: str, wanted: int = 10) -> RequestStatus:
        return self.ledger.request_budget(
            BudgetRequest(lease=self.lease, instance=self.id, consumer=consumer, wanted=wanted)
        )

    def closing(self) -> Closing:
        """Its last message; the same at every call."""
        if not self.pending or not self.pending[-1].record.final:
            self.record({}, final=True)
        return Closing(lease=self.lease, instance=self.id, records=tuple(self.pending))

    def close(self) -> Closed:
        return self.ledger.close(self.closing())
