"""One custodian process of several on one database: an enclave renews and spends until the budget or its time is up.

For every answer that it has, and so may act upon, it says the digest of the grant and the units that it was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection

from blindai.custody.keys import CustodianKeys
from blindai.custody.ledger import Ledger
from blindai.errors import Unavailable
from blindai.web.database import Database
from lending import Instance

READY = "ready"


@dataclass(frozen=True)
class Task:
    """What a worker is told: which database, whose keys, which lease."""

    database: str
    seed: bytes
    wrapping: bytes
    lease: str
    renewals: int


def work(task: Task, line: Connection) -> None:
    """Say that it is ready, wait for a word, and begin."""
    database = Database.open(task.database)
    keys = CustodianKeys(task.seed, task.wrapping)
    instance = Instance(Ledger(database, keys), task.lease, keys.public_key).admit()
    line.send(READY)
    line.recv()
    for _ in range(task.renewals):
        try:
            answer = instance.renew({"alice": 3}, key=True)
        except Unavailable:
            continue
        line.send((answer.grant.digest, answer.grant.quantities.get("alice", 0)))
        if instance.held.get("alice"):
            instance.spend("alice", instance.held["alice"])
    database.dispose()
