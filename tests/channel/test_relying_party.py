"""How long a verified keyset is remembered, whatever the clocks do."""

from __future__ import annotations

import pytest

from blindai.attestation.policy import Policy
from blindai.channel.relying_party import RelyingParty

from .conftest import RunningEnd, Victim


class TwoClocks:
    def __init__(self, now: float) -> None:
        self.wall = now
        self.steady = 0.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady


@pytest.mark.parametrize(
    ("wall", "steady", "kept"),
    [
        (0, 0, True),
        (599, 599, True),
        (600, 600, False),
        (600, 0, False),  # the computer slept, and its monotonic clock with it
        (-86_400, 600, False),  # the wall clock was set back
        (-86_400, 599, True),
    ],
)
def test_the_clock_that_shows_more_time_counts(
    enclave: RunningEnd, victim: Victim, policy: Policy, wall: float, steady: float, kept: bool
) -> None:
    victim.attest(enclave.address)
    verified = victim.party(enclave.address).remembered
    assert verified is not None
    clocks = TwoClocks(verified.verified_at)
    party = RelyingParty(enclave.address, policy, clock=clocks)
    party.remember(verified.transcript, verified.result)
    clocks.wall += wall
    clocks.steady += steady
    assert (party.recall() is not None) is kept
