"""A custodian that says whatever a test wants, signed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from blindai.wire.consumer_token import ConsumerToken
from blindai.wire.custody import FIRST, Grant, GrantAnswer, LeaseState, LeaseStatus, Renewal, Standing, Unit

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
