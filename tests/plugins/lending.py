"""What drives a ledger in tests: terms of a lease, and an enclave that asks, spends and reports without any network."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from blindai.attestation.result import AttestationResult, Mode, Status
from blindai.channel.keyset import PrivateKeyset
from blindai.channel.statement import NO_DEVICES, Role, Statement, config_digest
from blindai.channel.transcript import Transcript
from blindai.custody import tables
from blindai.custody.keys import CustodianKeys
from blindai.custody.ledger import Ledger
from blindai.custody.log import Chain, Entry, Kind, SignedEntry
from blindai.custody.log import public_key as log_key
from blindai.custody.terms import Terms
from blindai.custody.views import Event
from blindai.web.database import Database
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


@dataclass
class Clocks:
    """The custodian's clocks, turned by hand."""

    boot: str = "boot 1"
    ms: int = 1_000_000
    wall: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def elapsed_ms(self) -> int:
        return self.ms

    def now(self) -> datetime:
        return self.wall

    def sleep(self, seconds: float) -> None:
        """Both go on."""
        self.ms += int(seconds * 1000)
        self.wall += timedelta(seconds=seconds)


class Custodian:
    """A ledger in a new database, and what a test looks at it with."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.keys = CustodianKeys.generate()
        self.clocks = Clocks()
        self.ledger = Ledger(database, self.keys, clock=self.clocks)

    def lend(self, **changes: Any) -> str:
        """Open a lease on `terms`, and return its id."""
        return self.ledger.create(terms(self.folder, **changes), model_key=MODEL_KEY, by="ann").id

    def unknown(self, lease: str) -> Instance:
        """An enclave that has not attested itself."""
        return Instance(self.ledger, lease, self.keys.public_key)

    def instance(self, lease: str) -> Instance:
        """An enclave that has."""
        return self.unknown(lease).admit()

    def kinds(self, lease: str) -> list[str]:
        """What the log tells, after the opening."""
        return [event.kind for event in self.ledger.events(lease)][1:]

    def last(self, lease: str) -> Event:
        """The latest entry of the log."""
        return self.ledger.events(lease)[-1]


def assert_sound(database: Database, public_key: str, lease: str) -> None:
    """0 <= spent <= granted <= budget in every place, the same sums in all of them, and a log without a gap."""
    with database.read() as connection:
        row = connection.execute(sa.select(tables.leases).where(tables.leases.c.id == lease)).one()
        accounts = connection.execute(sa.select(tables.accounts).where(tables.accounts.c.lease == lease)).all()
        holdings = connection.execute(sa.select(tables.holdings).where(tables.holdings.c.lease == lease)).all()
        used = connection.execute(
            sa.select(sa.func.coalesce(sa.func.sum(tables.usage.c.units), 0)).where(tables.usage.c.lease == lease)
        ).scalar_one()
        entries = connection.execute(
            sa.select(tables.events).where(tables.events.c.lease == lease).order_by(tables.events.c.seq)
        ).all()
    assert 0 <= row.spent <= row.granted <= row.budget
    for account in accounts:
        assert 0 <= account.spent <= account.granted
        assert account.budget is None or account.granted <= account.budget
        of_account = [holding for holding in holdings if holding.consumer == account.consumer]
        assert sum(holding.granted for holding in of_account) == account.granted
        assert sum(holding.spent for holding in of_account) == account.spent
    assert all(0 <= holding.spent <= holding.granted for holding in holdings)
    assert sum(account.granted for account in accounts) == row.granted
    assert sum(account.spent for account in accounts) == row.spent == used
    chain = Chain(lease, log_key(public_key))
    for entry in entries:
        chain.extend(
            SignedEntry(
                Entry(
                    lease=entry.lease,
                    seq=entry.seq,
                    at=entry.at,
                    kind=Kind(entry.kind),
                    by=entry.by,
                    detail=entry.detail,
                    prev=entry.prev,
                ),
                entry.signature,
            )
        )
    assert (chain.count, chain.head) == (row.log_count, row.log_head)


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
