"""A custodian and an enclave that has a model on loan from it, in processes of their own."""

from __future__ import annotations

import hashlib
import logging
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from processes import Server, started

from blindai import BlindAIError, Connection
from blindai.attestation.measure.local import local_policy
from blindai.custody.custodian import Custodian, Place
from blindai.custody.operators import Role
from blindai.custody.sealing import seal
from blindai.custody.terms import Terms
from blindai.custody.unlocking import KeyFile

LENT = "bench/lent"
CONSUMER = "bench"
OPERATOR = "bench"
PASSWORD = secrets.token_urlsafe(24)

# More than any run here asks for.
BUDGET = 10**9

_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Loan:
    """What runs, and how to reach it.

    Attributes:
        custodian: its ledger is that of the process, which reads the same database.
        lease: its id.
        token: of the one consumer.
        server: the custodian's process.
        borrower: the enclave's process.
        address: of the enclave.
        client: connected to it, with the token.
    """

    custodian: Custodian
    lease: str
    token: str
    server: Server
    borrower: Server
    address: str
    client: Connection

    def serving(self) -> None:
        """Wait until a query may run."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                if self.client.lease(LENT).state == "serving":
                    return
            except BlindAIError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.005)


@contextmanager
def lent(model: bytes, *, soft_ms: int = 45_000, ttl_ms: int = 60_000) -> Iterator[Loan]:
    """Seal `model`, lend it, and serve it; on a simulated platform, with the custodian's database on this disk."""
    logging.getLogger("blindai").setLevel(logging.ERROR)  # that it is simulated goes without saying here
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place = Place.at(folder / "custodian")
        custodian = stack.enter_context(Custodian.open(place, lambda _: KeyFile(place.key_file)))
        custodian.operators.add(OPERATOR, Role.ADMIN, PASSWORD)
        key = secrets.token_bytes(32)
        digest = hashlib.sha256(model).hexdigest()
        sealed = seal(
            [model],
            size=len(model),
            model_digest=digest,
            content_type="application/onnx",
            target=folder / "model.sealed",
            key=key,
        )
        terms = Terms(
            name="Bench",
            borrower="Bench",
            model_id=LENT,
            model_digest=digest,
            artefact=sealed.path,
            policy=local_policy().to_toml(),
            budget=BUDGET,
            consumers={CONSUMER: None},
            soft_ms=soft_ms,
            ttl_ms=ttl_ms,
            any_chip=True,
        )
        lease = custodian.ledger.create(terms, model_key=key, by=OPERATOR).id
        token = custodian.ledger.issue_token(lease, CONSUMER, by=OPERATOR)
        command = [sys.executable, "-m", "blindai"]
        ports = ["--enclave-port", "0", "--dashboard-port", "0"]
        server = stack.enter_context(
            started([*command, "custodian", "serve", "--data", str(place.data), *ports, "--json"])
        )
        config = folder / "enclave.toml"
        config.write_text(
            f'[custody]\naddress = "{server.said["enclaves"]}"\npublic_key = "{custodian.keys.public_key}"\n'
            f'lease = "{lease}"\nmodel_id = "{LENT}"\n',
            "utf-8",
        )
        arguments = ["--platform", "simulated-tdx", "--port", "0", "--config", str(config), "--json"]
        arguments += ["--sealed-model", str(sealed.path)]
        borrower = stack.enter_context(started([*command, "serve", *arguments]))
        address = str(borrower.said["address"])
        client = stack.enter_context(Connection(address, simulation=True, api_key=token, progress=False))
        loan = Loan(custodian, lease, token, server, borrower, address, client)
        loan.serving()
        yield loan
