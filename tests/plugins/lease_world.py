"""A custodian with a real ledger, a borrower with a machine, and the leases between them, without any process."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from blindai.custody.keys import CustodianKeys
from blindai.custody.ledger import Ledger
from blindai.custody.migrations import upgrade
from blindai.custody.terms import Terms
from blindai.errors import LeaseStopped
from blindai.web.database import Database
from blindai.wire.custody import BudgetRequest
from lease_enclaves import MODEL_DIGEST, MODEL_KEY, Clock, Enclave, Platform


class World:
    """A custodian with a ledger, and a borrower with a machine."""

    def __init__(self, folder: Path, database: str | Path | None = None) -> None:
        self.folder = folder
        self.clock = Clock()
        self.platform = Platform()
        self.keys = CustodianKeys.generate()
        self.database = Database.open(database or folder / "ledger.sqlite3")
        upgrade(self.database)
        self.ledger = Ledger(self.database, self.keys, clock=self.clock)
        (folder / "model.sealed").touch()

    def lend(self, **changes: Any) -> str:
        terms = Terms(
            name="Tumours",
            borrower="A clinic",
            model_id="lab/tumours",
            model_digest=MODEL_DIGEST,
            artefact=self.folder / "model.sealed",
            policy=self.platform.manifest,
            budget=100,
            consumers={"alice": 60, "bob": None},
            max_instances=3,
            any_chip=True,
        )
        return self.ledger.create(replace(terms, **changes), model_key=MODEL_KEY, by="anna").id

    def boot(self, lease: str) -> Enclave:
        enclave = Enclave(lease, self.keys.public, self.clock)
        transcript, result = self.platform.admission(enclave.keyset, enclave.config)
        self.ledger.admit(lease, transcript, result)
        return enclave

    def renew(self, enclave: Enclave, consumer: str = "alice", units: int = 8) -> None:
        if units:
            enclave.want(consumer, units)
        enclave.take(self.ledger.renew(enclave.renewal()))

    def export(self, lease: str) -> list[bytes]:
        return [line.encode() + b"\n" for line in self.ledger.export(lease)]

    def close(self) -> None:
        self.database.dispose()

    def later(self, seconds: float = 1) -> None:
        self.clock.ms += int(seconds * 1000)
        self.clock.wall += timedelta(seconds=seconds)


def full_life(world: World) -> str:
    """A lease in whose log an entry of every kind stands."""
    ledger = world.ledger
    lease = world.lend(approvals=2)
    ledger.add_consumer(lease, "carol", 0, by="anna")
    first, second = world.boot(lease), world.boot(lease)
    world.renew(first)
    world.renew(second, "bob", 5)
    assert first.query("alice", 5) == 5
    assert second.query("bob", 2) == 2
    world.later()
    world.renew(first, units=0)
    ledger.revoke_tokens(lease, "alice", by="bert")
    ledger.issue_token(lease, "alice", by="anna")
    # Two who must agree on a request, and one who denies another.
    asked = ledger.request_budget(BudgetRequest(lease=lease, instance=first.instance, consumer="carol", wanted=5))
    proposal = ledger.approve(asked.id, amount=7, by="anna", reason="for the trial")
    assert proposal is not None
    ledger.agree(proposal.id, by="bert")
    other = ledger.request_budget(BudgetRequest(lease=lease, instance=first.instance, consumer="bob", wanted=500))
    ledger.deny(other.id, by="bert", reason="not this year")
    for consumer in ("alice", None):
        proposal = ledger.raise_budget(lease, consumer=consumer, amount=20, by="bert")
        assert proposal is not None
        ledger.agree(proposal.id, by="anna")
    # A stop that somebody wants to end at once, and a pause.
    stopped = ledger.stop(lease, by="anna", reason="\u00fcbung")
    first.hear(ledger.status(lease, first.instance))
    ledger.acknowledge(lease, first.instance, stopped.version)
    proposal = ledger.resume(lease, by="bert")
    assert proposal is not None
    ledger.withdraw(proposal.id, by="anna")
    proposal = ledger.resume(lease, by="bert")
    assert proposal is not None
    ledger.agree(proposal.id, by="anna")
    first.hear(ledger.status(lease, first.instance))
    world.later()
    world.renew(first, "alice", 9)
    ledger.pause(lease, by="bert")
    proposal = ledger.resume(lease, by="bert")
    assert proposal is not None
    ledger.agree(proposal.id, by="anna")
    # One ends in good order, one is found to be two.
    twin = second.forked()
    world.later()
    world.renew(second, "bob", 3)
    with pytest.raises(LeaseStopped):
        ledger.renew(twin.renewal(empty=True))
    # Its records are taken all the same, the final one too.
    last = second.closing()
    assert last is not None
    with pytest.raises(LeaseStopped):
        ledger.close(last)
    first.query("alice", 3)
    closing = first.closing()
    assert closing is not None
    ledger.close(closing)
    return lease
