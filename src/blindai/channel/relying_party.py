"""What a relying party keeps between its connections: the policy, and the keyset that it verified last."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from blindai.attestation.policy import Policy
from blindai.attestation.result import AttestationResult
from blindai.channel.clock import SYSTEM_CLOCK, Clock
from blindai.channel.tls import client_context
from blindai.channel.transcript import Transcript


class RememberedKeyset(msgspec.Struct, frozen=True):
    """A keyset whose evidence was verified in full, and when.

    Attributes:
        transcript: of the fresh gate in which that was done.
        result: its verdict.
        verified_at: seconds since the epoch.
        verified_at_monotonic: seconds of the monotonic clock.
    """

    transcript: Transcript
    result: AttestationResult
    verified_at: float
    verified_at_monotonic: float


class RelyingParty:
    """What one client keeps between its connections to one address: its policy and the keyset it last verified."""

    def __init__(self, address: str, policy: Policy, *, clock: Clock = SYSTEM_CLOCK) -> None:
        """`address` is `host:port`, as it goes into the Host header and into messages."""
        self.address = address
        self.policy = policy
        self.clock = clock
        self.context = client_context()
        self.remembered: RememberedKeyset | None = None

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.now(), UTC)

    def recall(self) -> RememberedKeyset | None:
        """The remembered keyset, if it is still young enough for a resumed gate."""
        kept = self.remembered
        if kept is None:
            return None
        # The monotonic clock stands still while a laptop sleeps, and the other can be set back: the older age counts.
        age = max(self.clock.monotonic() - kept.verified_at_monotonic, self.clock.now() - kept.verified_at)
        if age >= self.policy.max_age_seconds or kept.result.has_expired(self.now()):
            self.remembered = None
            return None
        return kept

    def remember(self, transcript: Transcript, result: AttestationResult) -> None:
        """Keep a keyset whose evidence was verified in full just now."""
        self.remembered = RememberedKeyset(transcript, result, self.clock.now(), self.clock.monotonic())
