"""An enclave's instance that speaks to a real custodian over the gate, without an enclave's server."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.channel.calling import AttestedCall, CallingEnd
from blindai.channel.flow import BlockingStream
from blindai.channel.http1 import Answer, request_head
from blindai.wire import custody as wire
from blindai.wire.problems import error_from
from lending import Instance
from lent_models import Loan

T = TypeVar("T")


@dataclass
class Line:
    """One attested connection of an instance to a custodian. It has the methods of a `Ledger` that enclaves reach."""

    end: CallingEnd
    address: str
    public_key: str
    lease: str
    _call: AttestedCall = field(init=False)
    _stream: BlockingStream = field(init=False)

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        self._stream = BlockingStream(host, int(port), connect_seconds=10, seconds=60)
        custodian = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key))
        self._call = AttestedCall(self.end, self.address, custodian, self.lease)
        try:
            self._stream.run(self._call.open())
        except BaseException:
            self._stream.close()
            raise

    def post(self, path: str, body: bytes) -> Answer:
        """One request, whatever is in it."""
        fields = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        head = request_head("POST", path, self.address, fields)
        return self._stream.run(self._call.exchange(head, [body], max_answer_bytes=1 << 24))

    def ask(self, path: str, message: msgspec.Struct, kind: type[T]) -> T:
        """The answer to a message. A refusal is raised."""
        return msgspec.json.decode(self._answer(path, message), type=kind)

    def renew(self, renewal: wire.Renewal) -> wire.GrantAnswer:
        return self.ask(wire.RENEWALS, renewal, wire.GrantAnswer)

    def watch(self, *, known: int = 0, applied: int = 0, wait_ms: int = 20_000) -> wire.LeaseStatus:
        message = wire.Watch(
            lease=self.lease, instance=self.end.instance, known=known, applied=applied, wait_ms=wait_ms
        )
        return self.ask(wire.WATCHES, message, wire.LeaseStatus)

    def request_budget(self, asked: wire.BudgetRequest) -> wire.RequestStatus:
        return self.ask(wire.BUDGET_REQUESTS, asked, wire.RequestStatus)

    def close(self, closing: wire.Closing) -> wire.Closed:
        return self.ask(wire.CLOSINGS, closing, wire.Closed)

    def part(self, offset: int, length: int) -> bytes:
        """A part of the sealed model."""
        return self._answer(wire.ARTEFACTS, wire.ArtefactRange(lease=self.lease, offset=offset, length=length))

    def hang_up(self) -> None:
        self._stream.close()

    def _answer(self, path: str, message: msgspec.Struct) -> bytes:
        answer = self.post(path, msgspec.json.encode(message))
        if answer.status != 200:
            raise error_from(answer.status, answer.body)
        return answer.body


class CallingInstance(Instance):
    """An enclave's instance that speaks to a custodian over the gate, attested on the simulated platform.

    Attributes:
        end: its keys and its evidence.
        line: its connection; `call` makes another.
    """

    def __init__(self, loan: Loan, address: str) -> None:
        super().__init__(None, loan.lease, loan.public_key)  # type: ignore[arg-type] # `call` sets it
        self.loan = loan
        self.address = address
        self.config = {"custody": loan.config(address)}
        self.end = CallingEnd(SimulatedAttester(), self.config)
        self.keyset = self.end.keyset
        self.id = self.end.instance
        self.line: Line | None = None
        self._lines: list[Line] = []

    def call(self, address: str | None = None) -> Self:
        """Open a connection, and use it from now on."""
        line = Line(self.end, address or self.address, self.loan.public_key, self.lease)
        self._lines.append(line)
        self.line = self.ledger = line  # type: ignore[assignment] # it has the methods that an instance needs
        return self

    def another_line(self, address: str | None = None) -> Line:
        """Open a connection beside the one in use."""
        line = Line(self.end, address or self.address, self.loan.public_key, self.lease)
        self._lines.append(line)
        return line

    def watch(self, *, known: int = 0, applied: int = 0, wait_ms: int = 20_000) -> wire.LeaseStatus:
        assert self.line is not None
        return self.line.watch(known=known, applied=applied, wait_ms=wait_ms)

    def part(self, offset: int, length: int) -> bytes:
        assert self.line is not None
        return self.line.part(offset, length)

    def key_of(self, answer: wire.GrantAnswer) -> bytes:
        """The model's key in an answer."""
        assert answer.key is not None
        return self.keyset.open_sealed(answer.key, answer.grant.key_info)

    def record(self, counts: Mapping[str, wire.Usage], **changes: Any) -> wire.SignedRecord:
        """As `Instance.record`, about the model that was lent."""
        digest = hashlib.sha256(self.loan.model).hexdigest() if self.answer is not None else wire.FIRST
        return super().record(counts, **({"model_digest": digest} | changes))

    def hang_up(self) -> None:
        """Close all its connections."""
        while self._lines:
            self._lines.pop().hang_up()
