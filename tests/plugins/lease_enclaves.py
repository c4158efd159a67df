"""Enclaves that hold leases, without a process or a network: a test carries their messages, and loses them as it likes.

What decides is the enclave's own code: its terms, its meter and its chain of records. Their evidence is real evidence
of a simulated platform, so that the custodian's verdict and a later audit are real ones.
"""

from __future__ import annotations

import copy
import secrets
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blindai.attestation.anchors import Vendor
from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.policy import Policy
from blindai.attestation.result import AttestationResult
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.channel.keyset import PrivateKeyset
from blindai.channel.statement import NO_DEVICES, Role, Statement, config_digest
from blindai.channel.transcript import Transcript
from blindai.enclave.lease.chain import RecordChain
from blindai.enclave.lease.meter import Meter
from blindai.enclave.lease.state import Terms
from blindai.wire.custody import Closing, GrantAnswer, LeaseStatus, Renewal

MODEL_DIGEST = "ab" * 32
MODEL_KEY = b"k" * 32

# Registers of a TD that runs some program; the policy of `Platform` approves these.
MEASUREMENTS = {"mrtd": "11" * 48, "rtmr1": "22" * 48, "rtmr2": "33" * 48}


@dataclass
class Clock:
    """The enclaves' own clock, and the custodian's: all of them in one world, each moved by the test."""

    boot: str = "boot 1"
    ms: int = 1_000_000
    wall: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def elapsed_ms(self) -> int:
        return self.ms

    def now(self) -> datetime:
        return self.wall


class Platform:
    """A machine that attests one program.

    Attributes:
        attester: of that program.
    """

    def __init__(self) -> None:
        self.root = SimulatedRoot.generate()
        self.attester = SimulatedAttester(root=self.root, measurements=MEASUREMENTS)

    @cached_property
    def policy(self) -> Policy:
        """What accepts that program on this machine."""
        return Policy.parse(self.manifest, "the test")

    @cached_property
    def manifest(self) -> str:
        return Policy.simulated({Vendor.INTEL: self.root.anchor.spki_sha256}, MEASUREMENTS, name="test").to_toml()

    def transcript(self, keyset: PrivateKeyset, config: dict[str, Any]) -> Transcript:
        """What a relying party keeps of a connection on which `keyset` and `config` were attested just now."""
        statement = Statement(
            role=Role.CLIENT,
            nonce=secrets.token_hex(32),
            ekm=secrets.token_hex(32),
            spki_sha256=keyset.public.tls_spki_sha256,
            keyset_digest=keyset.digest,
            devices_digest=NO_DEVICES,
            config_digest=config_digest(config),
        )
        evidence = self.attester.attest(statement.report_data)
        return Transcript(
            at=datetime.now(UTC),
            statement=statement,
            keyset=keyset.public,
            config=config,
            evidence=msgspec.Raw(evidence.encode()),
        )

    def admission(self, keyset: PrivateKeyset, config: dict[str, Any]) -> tuple[Transcript, AttestationResult]:
        """A transcript, and the verdict on it."""
        transcript = self.transcript(keyset, config)
        return transcript, transcript.appraise(self.policy, now=transcript.at)


@dataclass
class Enclave:
    """One boot of an enclave with a lease.

    Attributes:
        spent: units by consumer, every one of which let a query run: the truth, whatever anybody was told of it.
        acknowledged: digests of records that the custodian said it has.
        key: the model's key, once a grant brought it.
    """

    lease: str
    custodian: Ed25519PublicKey
    clock: Clock
    keyset: PrivateKeyset = field(default_factory=lambda: PrivateKeyset(datetime.now(UTC)))
    spent: Counter[str] = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)
    key: bytes | None = None

    def __post_init__(self) -> None:
        self.terms = Terms(self.lease, self.keyset.digest, self.custodian)
        self.meter = Meter(lambda: None)
        self.chain = RecordChain(self.keyset.sign, self.now_ns)

    @property
    def instance(self) -> str:
        return self.keyset.digest

    @property
    def now_ns(self) -> int:
        return self.clock.ms * 1_000_000

    @property
    def config(self) -> dict[str, Any]:
        key = self.custodian.public_bytes_raw().hex()
        return {"custody": {"address": "custodian.test:9444", "public_key": key, "lease": self.lease}}

    @property
    def may_serve(self) -> bool:
        """Whether a query may start."""
        return self.now_ns < self.terms.until_ns

    @property
    def has_weights(self) -> bool:
        """Whether the model is in its memory."""
        return self.terms.loaded and not self.terms.wipe(self.now_ns)

    def forked(self) -> Enclave:
        """The same enclave twice, as no TEE would allow: same keys, same memory, from now on each on its own."""
        twin = copy.copy(self)
        shared = {id(value): value for value in (self.custodian, self.keyset, self.chain._sign)}
        twin.terms = copy.deepcopy(self.terms, shared)
        twin.meter = copy.deepcopy(self.meter, shared)
        twin.chain = copy.deepcopy(self.chain, shared)
        twin.spent = Counter()
        twin.acknowledged = set(self.acknowledged)
        return twin

    def query(self, consumer: str, count: int = 1) -> int:
        """Ask the model `count` times. How many times it answered."""
        ran = 0
        self.expire()
        for _ in range(count):
            if not self.may_serve or consumer not in self.terms.consumers:
                break
            account = self.meter.account(consumer)
            if not self.meter.reserve(account):
                break
            account.spend(failed=False)
            ran += 1
        self.spent[consumer] += ran
        return ran

    def want(self, consumer: str, units: int) -> None:
        """Let so many queries wait for units."""
        account = self.meter.account(consumer)
        account.waiting = units
        self.meter.want(account)

    def renewal(self, *, empty: bool = False) -> Renewal:
        """What to send now: the same as before until it is answered. `empty`: it asks for time alone."""
        self.expire()
        if self.terms.pending is None:
            self._close_window()
        return self.terms.renewal(
            self.now_ns,
            challenge=secrets.token_bytes(32),
            wanted={} if empty else self.meter.wanted(self.now_ns),
            key=not self.terms.loaded,
            records=self.chain.pending,
        )

    def take(self, answer: GrantAnswer) -> None:
        """Take the answer to `renewal`.

        Raises:
            Unavailable: `lease.grant`.
        """
        self.terms.check(answer)
        pending = self.terms.pending
        assert pending is not None
        settled = self.chain.acknowledge(answer.grant.record_seq, answer.grant.record_head)
        self.acknowledged.add(answer.grant.record_head)
        self.terms.accept(answer)
        self.meter.credit(pending.wanted, answer.grant.quantities, answer.standings, settled=settled)
        for account in self.meter._accounts.values():
            account.waiting = 0
        if answer.key is not None:
            self.key = self.keyset.open_sealed(answer.key, answer.grant.key_info)
            self.terms.loaded = True

    def hear(self, status: LeaseStatus) -> None:
        """Take what the custodian says of the lease."""
        self.terms.hear(status)
        self.expire()

    def closing(self) -> Closing | None:
        """The last message; None before the first grant. No query runs after it."""
        if self.terms.grant is None:
            return None
        self.terms.quarantined = True
        self.expire()
        if not self.chain.pending or not self.chain.pending[-1].record.final:
            self._append(final=True)
        return Closing(lease=self.lease, instance=self.instance, records=self.chain.pending)

    def expire(self) -> None:
        """Wipe the weights when their time is over."""
        if self.terms.loaded and self.terms.wipe(self.now_ns):
            self.terms.loaded = False
            self.key = None

    def _close_window(self) -> None:
        if self.terms.grant is not None and not self.chain.pending:
            self._append()

    def _append(self, *, final: bool = False) -> None:
        grant = self.terms.grant
        assert grant is not None
        counts = self.meter.close_window()
        if counts or final:
            self.chain.append(counts, self.now_ns, grant=grant, stop_epoch=self.terms.stop_epoch, final=final)
