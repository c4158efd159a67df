"""Custodians in folders of tests, and the models that they lend."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher

from blindai.attestation.measure.local import local_policy
from blindai.custody.clock import SYSTEM_LEDGER_CLOCK, LedgerClock
from blindai.custody.custodian import Custodian, Place
from blindai.custody.operators import Operators, Role
from blindai.custody.sealing import seal
from blindai.custody.terms import Terms
from blindai.custody.unlocking import KeyFile
from blindai.web.passwords import Passwords
from blindai.wire.bundle import ONNX_TYPE

OPERATOR = "alice"
PASSWORD = "correct horse battery staple"

# Enough to sign in with, and no second of every test.
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@dataclass(frozen=True)
class Loan:
    """A model that was lent.

    Attributes:
        lease: its id.
        key: of the sealed model.
        tokens: by consumer.
        public_key: the custodian's.
    """

    lease: str
    model_id: str
    model: bytes
    key: bytes
    artefact: Path
    tokens: Mapping[str, str]
    public_key: str

    def config(self, address: str) -> dict[str, str]:
        """The table [custody] of the borrower's enclave; `address` is where it finds the custodian."""
        return {
            "address": address,
            "public_key": self.public_key,
            "lease": self.lease,
            "model_id": self.model_id,
        }

    def toml(self, address: str) -> str:
        return "\n".join(["[custody]", *(f'{name} = "{value}"' for name, value in self.config(address).items()), ""])


def opened(folder: Path, database_url: str | None = None, *, clock: LedgerClock = SYSTEM_LEDGER_CLOCK) -> Custodian:
    """The custodian in `folder`, with one operator, `OPERATOR`. Whoever opens it closes it."""
    place = Place.at(folder, database_url)
    custodian = Custodian.open(place, lambda lock: KeyFile(place.key_file), clock=clock)
    operators = Operators(custodian.database, passwords=Passwords(CHEAP))
    if not operators.all():
        operators.add(OPERATOR, Role.ADMIN, PASSWORD)
    return custodian


def lend(custodian: Custodian, model: bytes = b"a model", **changes: Any) -> Loan:
    """Seal a model and lend it to the simulated platform of this installation: 100 queries of the consumer `clinic`.

    `changes` are of `Terms`.
    """
    key = secrets.token_bytes(32)
    folder = custodian.place.artefacts
    folder.mkdir(exist_ok=True)
    sealed = seal(
        [model],
        size=len(model),
        model_digest=hashlib.sha256(model).hexdigest(),
        content_type=ONNX_TYPE,
        target=folder / f"{secrets.token_hex(8)}.sealed",
        key=key,
    )
    settings: dict[str, Any] = {
        "name": "A model",
        "borrower": "A hospital",
        "model_id": "acme/model",
        "model_digest": sealed.header.model_digest,
        "artefact": sealed.path,
        "policy": local_policy().to_toml(),
        "budget": 100,
        "consumers": {} if changes.get("open_to_anyone") else {"clinic": None},
        "any_chip": True,
    }
    terms = Terms(**(settings | changes))
    lease = custodian.ledger.create(terms, model_key=key, by=OPERATOR)
    tokens = {name: custodian.ledger.issue_token(lease.id, name, by=OPERATOR) for name in terms.consumers}
    return Loan(lease.id, terms.model_id, model, key, sealed.path, tokens, custodian.keys.public_key)
