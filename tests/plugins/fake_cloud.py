"""A control plane as an enclave meets it past its gate: it speaks the wire of `wire.cloud`, and does what a test says.

The connection itself, with its evidence and its proof of the key, is the business of `tests/channel` and of
`tests/e2e/test_cloud.py`; here a connection begins where the gate is open.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from blindai.channel.calling import CallingEnd
from blindai.channel.http1 import Answer
from blindai.errors import BlindAIError, Unavailable
from blindai.wire import cloud as wire
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import (
    Assertion,
    AuthorisationAnswer,
    AuthorisationRequest,
    ModelListing,
    Quotas,
    Refused,
    Report,
    Reported,
    Scope,
    SignedAssertion,
    UsageTotal,
)
from blindai.wire.problems import problem_body, status_of

EVERYTHING = (Scope.QUERY, Scope.UPLOAD, Scope.DELETE)

PLENTY = Quotas(models=100, model_bytes=1 << 30, requests_per_minute=1_000_000)


class Held(msgspec.Struct):
    """A key, as the database has it."""

    namespace: str
    key_id: str
    scopes: tuple[Scope, ...]
    quotas: Quotas


class FakeControlPlane:
    """Says who holds which key.

    Attributes:
        keys: in force, by digest.
        ttl_ms: of its assertions.
        fault: what connecting, or else each question, ends with.
        delay: seconds before each answer.
        closed: accounts that it says were closed, to whoever reports.
        tamper: changes an answer before it is sent; what it returns is encoded as it is.
        received: all bodies that it was sent, with their paths.
        connected: how many connections were made.
        under_way: questions that wait for their answer now, by path; `most` is the most there were.
    """

    def __init__(self) -> None:
        self._private_key = Ed25519PrivateKey.generate()
        self.keys: dict[str, Held] = {}
        self.ttl_ms = wire.MAX_TTL_MS
        self.fault: BlindAIError | None = None
        self.delay = 0.0
        self.closed: tuple[str, ...] = ()
        self.tamper: Callable[[AuthorisationRequest, AuthorisationAnswer], Any] | None = None
        self.received: list[tuple[str, bytes]] = []
        self.connected = 0
        self.under_way: Counter[str] = Counter()
        self.most = 0
        self.instance = ""

    @property
    def public_key(self) -> str:
        return self._private_key.public_key().public_bytes_raw().hex()

    def config(self, **changes: Any) -> dict[str, Any]:
        """The table [cloud] of an enclave's configuration."""
        return {
            "address": "127.0.0.1:1",
            "public_key": self.public_key,
            "endpoint": "https://enclave.test:9443",
        } | changes

    def key(self, namespace: str, *scopes: Scope, quotas: Quotas = PLENTY) -> ApiKey:
        """A new key; without `scopes`, for everything."""
        made = ApiKey.new()
        self.keys[made.digest] = Held(namespace, made.id, scopes or EVERYTHING, quotas)
        return made

    def revoke(self, key: ApiKey) -> None:
        del self.keys[key.digest]

    @property
    def questions(self) -> list[AuthorisationRequest]:
        return [
            msgspec.json.decode(body, type=AuthorisationRequest)
            for path, body in self.received
            if path == wire.AUTHORISATIONS
        ]

    @property
    def reports(self) -> list[Report]:
        return [msgspec.json.decode(body, type=Report) for path, body in self.received if path == wire.REPORTS]

    @property
    def totals(self) -> dict[tuple[str | None, str | None], UsageTotal]:
        """The latest total of each key."""
        return {(total.namespace, total.key_id): total for report in self.reports for total in report.totals}

    @property
    def models(self) -> dict[tuple[str, str, int], ModelListing]:
        """The latest listing of each version that is there."""
        found = {(one.namespace, one.name, one.version): one for report in self.reports for one in report.models}
        return {key: one for key, one in found.items() if not one.deleted}

    def signed(self, assertion: Assertion) -> SignedAssertion:
        return SignedAssertion(assertion, self._private_key.sign(assertion.message).hex())

    def answer(self, asked: AuthorisationRequest) -> AuthorisationAnswer:
        """What it truly has to say."""
        return AuthorisationAnswer(
            assertions=tuple(
                self.signed(
                    Assertion(
                        nonce=asked.nonce,
                        instance=self.instance,
                        key=digest,
                        key_id=held.key_id,
                        namespace=held.namespace,
                        scopes=held.scopes,
                        quotas=held.quotas,
                        ttl_ms=self.ttl_ms,
                    )
                )
                for digest in asked.keys
                if (held := self.keys.get(digest)) is not None
            ),
            refused=tuple(Refused(digest) for digest in asked.keys if digest not in self.keys),
        )

    async def call(
        self,
        end: CallingEnd,
        host: str,
        port: int,
        *,
        custodian: Ed25519PublicKey,
        audience: str,
        opening_seconds: float,
        seconds: float,
    ) -> FakeConnection:
        """As `channel.calling.call`."""
        assert (host, port, audience) == ("127.0.0.1", 1, wire.AUDIENCE)
        assert custodian.public_bytes_raw().hex() == self.public_key
        self.instance = end.instance
        return await self.connect()

    async def connect(self) -> FakeConnection:
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        self.connected += 1
        return FakeConnection(self)


class FakeConnection:
    """Past the gate of a `FakeControlPlane`. One exchange at a time."""

    def __init__(self, plane: FakeControlPlane) -> None:
        self._plane = plane
        self._busy = False
        self.usable = True

    async def post(self, path: str, body: bytes, *, max_answer_bytes: int) -> Answer:
        plane = self._plane
        assert self.usable
        assert not self._busy
        assert len(body) <= wire.MAX_MESSAGE_BYTES
        self._busy = True
        plane.received.append((path, body))
        plane.under_way[path] += 1
        plane.most = max(plane.most, plane.under_way[wire.AUTHORISATIONS])
        try:
            if plane.delay:
                await asyncio.sleep(plane.delay)
            return self._answered(path, body)
        finally:
            plane.under_way[path] -= 1
            self._busy = False

    def cut(self) -> None:
        self.usable = False

    def _answered(self, path: str, body: bytes) -> Answer:
        plane = self._plane
        if isinstance(plane.fault, Unavailable):
            raise plane.fault
        if plane.fault is not None:
            return Answer(status_of(plane.fault), {}, problem_body(plane.fault), keep_alive=True)
        if path == wire.REPORTS:
            msgspec.json.decode(body, type=Report)
            return Answer(200, {}, msgspec.json.encode(Reported(plane.closed)), keep_alive=True)
        assert path == wire.AUTHORISATIONS
        asked = msgspec.json.decode(body, type=AuthorisationRequest)
        answer: Any = plane.answer(asked)
        if plane.tamper is not None:
            answer = plane.tamper(asked, answer)
        return Answer(200, {}, answer if isinstance(answer, bytes) else msgspec.json.encode(answer), keep_alive=True)
