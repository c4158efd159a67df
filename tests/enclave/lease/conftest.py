"""A custodian that says whatever a test wants, signed; and an enclave that has a model on loan from it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from blindai.channel.http1 import Answer
from blindai.channel.keyset import PrivateKeyset
from blindai.crypto import hpke
from blindai.custody.sealing import new_data_key, seal
from blindai.enclave.api.receipts import Receipts
from blindai.enclave.config import Custody, EnclaveConfig
from blindai.enclave.http.reply import Reply
from blindai.enclave.lease.keeper import Keeper
from blindai.enclave.lease.model import LoanedModel
from blindai.enclave.running.inference import Inference
from blindai.errors import BlindAIError, InvalidInput, LeaseStopped, Unavailable
from blindai.wire import custody as wire
from blindai.wire.consumer_token import ConsumerToken
from blindai.wire.custody import (
    FIRST,
    Grant,
    GrantAnswer,
    LeaseState,
    LeaseStatus,
    Record,
    Renewal,
    RequestState,
    RequestStatus,
    SignedRecord,
    Standing,
    Unit,
)
from blindai.wire.problems import problem_body, status_of
from enclave_server import binary_request, node_model
from repositories import ThreadRepository

LEASE = "lease-aaaaaaaaaaaaaaaa"
INSTANCE = "1" * 64
MODEL = "3" * 64
SECOND = 1_000_000_000


class Signer:
    """The custodian's key, and what it signs."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()

    @property
    def public(self) -> Ed25519PublicKey:
        return self.key.public_key()

    def answer(
        self,
        renewal: Renewal,
        *,
        version: int = 1,
        key: bytes | None = None,
        standings: Mapping[str, Standing] | None = None,
        signer: Ed25519PrivateKey | None = None,
        **changes: Any,
    ) -> GrantAnswer:
        """An honest answer, but for `changes` to the grant."""
        records = renewal.records
        grant = Grant(
            lease=renewal.lease,
            instance=renewal.instance,
            seq=renewal.seq,
            prev=renewal.prev,
            challenge=renewal.challenge,
            unit=Unit.QUERIES,
            quantities=renewal.wanted,
            consumers={"alice": 0, "bob": 0},
            soft_ms=3000,
            ttl_ms=5000,
            model_digest=MODEL,
            policy_digest="4" * 64,
            stop_epoch=0,
            record_seq=records[-1].record.seq if records else 0,
            record_head=records[-1].record.digest if records else FIRST,
        )
        grant = msgspec.structs.replace(grant, **changes)
        return GrantAnswer(
            grant=grant,
            signature=(signer or self.key).sign(grant.message).hex(),
            key=key,
            version=version,
            standings=dict(standings or {}),
        )

    def token(self, consumer: str = "alice", *, epoch: int = 0, lease: str = LEASE) -> str:
        token = ConsumerToken(lease=lease, consumer=consumer, epoch=epoch)
        return token.encode(self.key.sign(token.message))


def status(version: int, state: LeaseState = LeaseState.ACTIVE, **changes: Any) -> LeaseStatus:
    return LeaseStatus(version=version, state=state, **({"stop_epoch": 0} | changes))


@pytest.fixture
def signer() -> Signer:
    return Signer()


class FakeCustodian:
    """A custodian in the same process, without a line or a disk, that can be told to misbehave.

    Attributes:
        budget, granted, spent: units of the one account there is: that of `consumer`.
        seen: what came: (path, body).
        down: whoever connects is refused.
        lose: how many answers are lost on the way, after what was asked has been done.
        answers: changes the bytes of an answer before they leave.
        hold: with a future, no answer leaves before it is done.
        keyless: the model's key is not given, though it was asked for.
    """

    def __init__(
        self, *, budget: int = 100, consumer: str = "alice", soft_ms: int = 30_000, ttl_ms: int = 60_000
    ) -> None:
        self.signer = Signer()
        self.budget = budget
        self.granted = 0
        self.spent = 0
        self.consumer = consumer
        self.soft_ms = soft_ms
        self.ttl_ms = ttl_ms
        self.state = LeaseState.ACTIVE
        self.reason = ""
        self.version = 1
        self.stop_epoch = 0
        self.quarantined = False
        self.model_digest = MODEL
        self.data_key = bytes(32)
        self.hpke_public_key = b""
        self.seen: list[tuple[str, bytes]] = []
        self.down = False
        self.lose = 0
        self.answers: Callable[[str, bytes], bytes] = lambda _, body: body
        self.hold: asyncio.Future[None] | None = None
        self.keyless = False
        self.token_epoch = 0
        self.request: RequestStatus | None = None
        self.applied = 0
        self.final: Record | None = None
        self.records: list[Record] = []
        self.connections = 0
        self._stored: dict[int, tuple[bytes, bytes]] = {}
        self._changed = asyncio.Event()

    def change(self, **changes: Any) -> None:
        """What an operator does: enclaves hear of it."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def stop(self, reason: str = "") -> None:
        self.change(state=LeaseState.STOPPED, stop_epoch=self.stop_epoch + 1, reason=reason)

    def resume(self) -> None:
        self.change(state=LeaseState.ACTIVE, reason="")

    def bodies(self, path: str) -> list[bytes]:
        return [body for seen, body in self.seen if seen == path]

    async def connect(self) -> FakeConnection:
        if self.down:
            raise Unavailable("nobody is there", code="unavailable.connect")
        self.connections += 1
        return FakeConnection(self)

    async def answer_to(self, path: str, body: bytes) -> bytes:
        """The body of the answer, or a refusal.

        Raises:
            BlindAIError: see there.
        """
        match path:
            case wire.RENEWALS:
                return self._renew(body)
            case wire.WATCHES:
                return await self._watch(msgspec.json.decode(body, type=wire.Watch))
            case wire.BUDGET_REQUESTS:
                return self._request_budget()
            case wire.CLOSINGS:
                self._take(msgspec.json.decode(body, type=wire.Closing).records)
                return msgspec.json.encode(wire.Closed({self.consumer: self.granted - self.spent}))
        raise AssertionError(path)

    def _renew(self, body: bytes) -> bytes:
        renewal = msgspec.json.decode(body, type=Renewal)
        self._take(renewal.records)
        if self.quarantined:
            raise LeaseStopped("forked", code="lease.quarantined")
        if self.state is not LeaseState.ACTIVE:
            raise LeaseStopped(self.reason or "no", code=f"lease.{self.state}")
        if stored := self._stored.get(renewal.seq):
            assert stored[0] == body, "a fork"
            return stored[1]
        given = {name: min(units, self.budget - self.granted) for name, units in renewal.wanted.items()}
        quantities = {name: units for name, units in given.items() if units}
        self.granted += sum(quantities.values())
        answer = self.signer.answer(
            renewal,
            version=self.version,
            quantities=quantities,
            consumers={self.consumer: self.token_epoch},
            soft_ms=self.soft_ms,
            ttl_ms=self.ttl_ms,
            stop_epoch=self.stop_epoch,
            model_digest=self.model_digest,
            record_seq=len(self.records),
            record_head=self.records[-1].digest if self.records else FIRST,
            standings={self.consumer: Standing(self.spent, self.budget, self.request)},
        )
        if renewal.key and not self.keyless:
            sealed = hpke.seal(self.hpke_public_key, self.data_key, answer.grant.key_info)
            answer = msgspec.structs.replace(answer, key=sealed)
        self._stored[renewal.seq] = body, msgspec.json.encode(answer)
        return self._stored[renewal.seq][1]

    def _take(self, records: tuple[SignedRecord, ...]) -> None:
        for signed in records:
            if signed.record.seq <= len(self.records):
                assert self.records[signed.record.seq - 1] == signed.record
                continue
            assert signed.record.prev == (self.records[-1].digest if self.records else FIRST)
            self.records.append(signed.record)
            self.spent += sum(usage.units for usage in signed.record.counts.values())
            if signed.record.final:
                self.final = signed.record

    async def _watch(self, watch: wire.Watch) -> bytes:
        if watch.applied > self.version:
            raise InvalidInput("that was never", code="lease.version")
        self.applied = watch.applied
        if watch.known == self.version and watch.wait_ms:
            await self._changed.wait()
        return msgspec.json.encode(
            status(
                self.version,
                self.state,
                stop_epoch=self.stop_epoch,
                reason=self.reason,
                quarantined=self.quarantined,
            )
        )

    def _request_budget(self) -> bytes:
        if self.request is None or self.request.state is not RequestState.PENDING:
            number = 0 if self.request is None else 1
            self.request = RequestStatus("request-" + "ab"[number] * 16, self.consumer, RequestState.PENDING)
        return msgspec.json.encode(self.request)


class FakeConnection:
    """As `channel.calling.CalledConnection`."""

    def __init__(self, custodian: FakeCustodian) -> None:
        self._custodian = custodian
        self.usable = True

    async def post(self, path: str, body: bytes, *, max_answer_bytes: int) -> Answer:
        custodian = self._custodian
        custodian.seen.append((path, body))
        if custodian.down:
            raise Unavailable("the line is cut", code="unavailable.closed")
        try:
            status, answer = 200, await custodian.answer_to(path, body)
        except BlindAIError as error:
            status, answer = status_of(error), problem_body(error)
        if custodian.hold is not None and path == wire.RENEWALS:
            await asyncio.shield(custodian.hold)
        if custodian.lose and path == wire.RENEWALS:
            custodian.lose -= 1
            raise Unavailable("the line is cut", code="unavailable.closed")
        return Answer(status, {}, custodian.answers(path, answer), keep_alive=True)

    def cut(self) -> None:
        self.usable = False


def sealed_for(custodian: FakeCustodian, folder: Path, model: bytes) -> Path:
    """The file of `model`, sealed with a key that the custodian has."""
    custodian.data_key = bytes(new_data_key())
    custodian.model_digest = hashlib.sha256(model).hexdigest()
    sealed = seal(
        [model],
        size=len(model),
        model_digest=custodian.model_digest,
        content_type="application/onnx",
        target=folder / "model.sealed",
        key=custodian.data_key,
    )
    return sealed.path


class Borrower:
    """An enclave that has a model on loan from a `FakeCustodian`: all but attestation and TLS."""

    def __init__(
        self, custodian: FakeCustodian, folder: Path, model: bytes, *, config: EnclaveConfig | None = None
    ) -> None:
        self.custodian = custodian
        self.config = config or EnclaveConfig()
        self.keyset = PrivateKeyset(datetime(2026, 1, 1, tzinfo=UTC))
        custodian.hpke_public_key = bytes.fromhex(self.keyset.public.hpke_public_key)
        path = sealed_for(custodian, folder, model)
        custody = Custody(
            address="custodian.example:9444",
            public_key=custodian.signer.public.public_bytes_raw().hex(),
            lease=LEASE,
            model_id="acme/lent",
        )
        self.repository = ThreadRepository(limits=self.config.limits, runtime=self.config.runtime)
        self.inference = Inference(
            self.config, Receipts(None, grant=lambda: None), self.repository, self.repository.threads
        )
        self.refused: list[str] = []
        self.model = LoanedModel(custody, self.repository, self.inference, connect=custodian.connect, path=path)
        self.keeper = Keeper(
            custody,
            self.keyset,
            custodian.connect,
            self.model,
            self.inference,
            refused=lambda error: self.refused.append(error.code),
            places=100,
        )
        self.headers = [(b"authorization", b"Bearer " + custodian.signer.token(custodian.consumer).encode())]

    async def __aenter__(self) -> Self:
        self.keeper.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.keeper.gate.shut()
        await self.inference.close()
        await asyncio.sleep(0)
        await self.keeper.close(5)
        await self.repository.close()

    async def serving(self) -> None:
        await self.eventually(lambda: self.keeper.gate.until_ns != 0)

    async def eventually(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.002)

    async def query(self, value: float = 1.0, *, size: int = 4) -> Reply:
        """One query, answered.

        Raises:
            BlindAIError: it is refused.
        """
        body, length = binary_request(np.full((1, size), value, np.float32))
        headers = [*self.headers, (b"inference-header-content-length", str(length).encode())]
        answer = self.keeper.gate.infer(headers, body)
        return await answer if isinstance(answer, asyncio.Future) else answer

    async def refusal(self, value: float = 1.0, *, size: int = 4) -> BlindAIError:
        """What a query is refused with."""
        try:
            await self.query(value, size=size)
        except BlindAIError as error:
            return error
        raise AssertionError("the query was answered")


@pytest.fixture(scope="session")
def adder() -> bytes:
    """y = x + one, for four columns."""
    return node_model(onnx.helper.make_node("Add", ["x", "one"], ["y"]), size=4, one=np.ones(4, np.float32))
