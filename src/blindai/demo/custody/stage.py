"""What all scenes of the story share: the parties, what each of them holds, and how the audience is told."""

from __future__ import annotations

import itertools
import math
import operator
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.measure.local import local_policy
from blindai.attestation.result import Checklist
from blindai.attestation.verifiers import verify
from blindai.client.connection import Connection
from blindai.client.model_file import ModelBody
from blindai.custody import custodian as custody
from blindai.custody.operators import Role
from blindai.custody.sealing import new_data_key, seal
from blindai.custody.terms import Terms
from blindai.custody.unlocking import KeyFile
from blindai.demo.audience import Audience
from blindai.demo.custody.line import Line
from blindai.demo.custody.processes import Custodian, Enclave, Hospital
from blindai.demo.enclaves import RUNTIME
from blindai.demo.patients import load_model, load_patients
from blindai.demo.processes import until
from blindai.demo.story import StoryFailed

if TYPE_CHECKING:
    from rich.console import Console

    from blindai.attestation.policy import Policy
    from blindai.custody.views import Instance, Lease
    from blindai.demo.custody.hospital import Answer

MODEL_ID: Final = "clinic/breast-cancer"
HOSPITAL: Final = "hospital"
INSURER: Final = "insurer"

# Two operators: one stops, both must agree to what gives something away.
LEAD: Final = "lead"
DEPUTY: Final = "deputy"

LEASE_BUDGET: Final = 100
HOSPITAL_BUDGET: Final = 10
INSURER_BUDGET: Final = 1

# What an enclave may hold of it: not all, so that something is left when one is killed.
TRANCHE: Final = 6

# Short, so that the audience sees the dead man's switch at work: the lease is renewed after a third of the soft time.
SOFT_MS: Final = 5_000
TTL_MS: Final = 7_000

# Between two queries of a hospital that goes on asking. Each pause is longer than the one before, so that on a machine
# that is busy it does not use up its budget.
_PAUSE_SECONDS: Final = 0.02
_LONGER: Final = 1.15


class Sealed(NamedTuple):
    """The model as it is shipped.

    Attributes:
        path: the custodian's file.
        key: opens it; in the ledger, and here for the audience alone.
        digest: of the model in clear.
    """

    path: Path
    key: bytes
    digest: str


class Stage(Audience):
    """Everything on it. Made by `staged`.

    Attributes:
        folder: `custodian/`, `borrower/` and `hospital/` lie in it.
        office: the custodian's database as the command line opens it.
        model, sealed: in clear and shipped.
        line: the borrower's network, through which the enclave calls the custodian.
        custodian, enclave, hospital: the processes.
    """

    def __init__(self, console: Console, folder: Path, stack: ExitStack) -> None:
        super().__init__(console)
        self.folder = folder
        self.stack = stack
        self.model = load_model()
        self.patients = load_patients()
        for party in ("custodian", "borrower", "hospital"):
            (folder / party).mkdir(mode=0o700)
        self.line = stack.enter_context(Line())
        self.office: custody.Custodian
        self.sealed: Sealed
        self.lease_id = ""
        self.tokens: dict[str, str] = {}
        self.custodian: Custodian
        self.enclave: Enclave
        self.hospital: Hospital
        # What ran, by consumer: the truth, whatever anybody was told of it.
        self.ran: Counter[str] = Counter()

    # The custodian.

    @property
    def data(self) -> Path:
        """The custodian's folder."""
        return self.folder / "custodian"

    def start_custodian(self) -> None:
        """Its process, at the end of the line."""
        self.custodian = self.stack.enter_context(Custodian(self.data, self.folder / "custodian.log"))
        self.line.bend(self.custodian.port)

    def open_office(self) -> None:
        """The command line of the custodian, and its operators."""
        place = custody.Place.at(self.data)
        self.office = self.stack.enter_context(custody.Custodian.open(place, lambda _: KeyFile(place.key_file)))
        for name, role in ((LEAD, Role.ADMIN), (DEPUTY, Role.OPERATOR)):
            self.office.operators.add(name, role, secrets.token_urlsafe())

    def seal_model(self) -> None:
        """Encrypt the model into the custodian's folder."""
        body, key = ModelBody.open(self.model), new_data_key()
        target = self.office.place.artefacts / "breast-cancer.sealed"
        target.parent.mkdir(exist_ok=True)
        sealed = seal(
            body.chunks(),
            size=body.content_length,
            model_digest=body.sha256.hex(),
            content_type=body.content_type,
            target=target,
            key=key,
        )
        self.sealed = Sealed(target, bytes(key), sealed.header.model_digest)

    def lend(self, policy: Policy | None = None) -> None:
        """Make the lease, and a token for each consumer.

        Args:
            policy: by which enclaves are appraised; by default this package's code on this machine's processor.
        """
        policy = policy or replace(local_policy(), chips=(own_chip(),))
        terms = Terms(
            name="breast cancer, for the clinic",
            borrower="clinic",
            model_id=MODEL_ID,
            model_digest=self.sealed.digest,
            artefact=self.sealed.path,
            policy=policy.to_toml(),
            budget=LEASE_BUDGET,
            consumers={HOSPITAL: HOSPITAL_BUDGET, INSURER: INSURER_BUDGET},
            tranche_max=TRANCHE,
            soft_ms=SOFT_MS,
            ttl_ms=TTL_MS,
            approvals=2,
        )
        ledger = self.office.ledger
        self.lease_id = ledger.create(terms, model_key=self.sealed.key, by=LEAD).id
        self.tokens = {name: ledger.issue_token(self.lease_id, name, by=LEAD) for name in (HOSPITAL, INSURER)}

    @property
    def lease(self) -> Lease:
        """The lease as the ledger has it now."""
        return self.office.ledger.lease(self.lease_id)

    def instance(self) -> Instance:
        """The enclave that was granted something last, as the ledger has it now."""
        return max((one for one in self.lease.instances if one.grant_seq), key=lambda one: one.first_seen)

    # The borrower.

    @property
    def shipped(self) -> Path:
        """The sealed model on the borrower's disk."""
        return self.folder / "borrower" / "model.sealed"

    @property
    def enclave_config(self) -> Path:
        """The enclave's measured configuration, which names the custodian."""
        path = self.folder / "borrower" / "enclave.toml"
        if not path.exists():
            path.write_text(
                f'[custody]\naddress = "127.0.0.1:{self.line.port}"\npublic_key = "{self.office.keys.public_key}"\n'
                f'lease = "{self.lease_id}"\nmodel_id = "{MODEL_ID}"\n{RUNTIME}',
                encoding="utf-8",
            )
        return path

    def ship(self) -> bytes:
        """Copy the sealed model to the borrower; its bytes."""
        shutil.copyfile(self.sealed.path, self.shipped)
        return self.shipped.read_bytes()

    def new_enclave(self, log: str = "enclave.log", *, package_parent: Path | None = None) -> Enclave:
        """Another process of the borrower's; the caller ends it, or the end of the story does."""
        enclave = Enclave(self.enclave_config, self.shipped, self.folder / log, package_parent=package_parent)
        return self.stack.enter_context(enclave)

    # The hospital.

    def start_hospital(self) -> None:
        """Its process; it does not know yet whom to ask."""
        self.manifest.write_text(local_policy().to_toml(), encoding="utf-8")
        self.hospital = self.stack.enter_context(Hospital(self.folder / "hospital.log"))

    @property
    def manifest(self) -> Path:
        """What the hospital requires of an enclave."""
        return self.folder / "hospital" / "manifest.toml"

    def admit_hospital(self, enclave: Enclave) -> None:
        """Give the hospital its token, and tell it whom to ask."""
        self.hospital.at(enclave.address, policy=self.manifest, token=self.tokens[HOSPITAL], model_id=MODEL_ID)

    def ask(self, patient: int) -> Answer:
        """One query of the hospital's."""
        answer = self.hospital.ask(patient)
        if not answer.code:
            self.ran[HOSPITAL] += 1
        return answer

    def ask_until(self, code: str) -> Answer:
        """Queries of the hospital's, one after the other, until one ends with `code`; "" is an answer.

        Raises:
            Unavailable: `unavailable.log`, none did.
        """
        pauses = itertools.accumulate(itertools.repeat(_LONGER), operator.mul, initial=_PAUSE_SECONDS)

        def asked() -> Answer | None:
            answer = self.ask(0)
            if answer.code == code:
                return answer
            time.sleep(next(pauses))
            return None

        return until(asked, f"a query that ends with {code or 'an answer'}")

    def connected(self, enclave: Enclave, consumer: str) -> Connection:
        """A connection to an enclave with a consumer's token, for those who need more than one at a time."""
        return Connection(enclave.address, api_key=self.tokens[consumer], policy=self.manifest, progress=False)

    # What the ledger says.

    def spent(self, consumer: str) -> int:
        """Units of a consumer's, as far as records have come in."""
        return next(account.spent for account in self.lease.accounts if account.consumer == consumer)

    def granted(self, consumer: str) -> int:
        """Units of a consumer's that are in the hands of enclaves, or spent."""
        return next(account.granted for account in self.lease.accounts if account.consumer == consumer)

    def acknowledged(self, version: int) -> float | None:
        """The time now, by the monotonic clock, if the enclave has said that it acts upon `version`."""
        return time.monotonic() if self.instance().acknowledged_version >= version else None

    def expect(self, answer: Answer, code: str, what: str) -> None:
        """Hold the story to its course.

        Raises:
            StoryFailed: `what` has ended otherwise.
        """
        if answer.code != code:
            ended = f"{answer.code} ({answer.message})" if answer.code else "a success"
            raise StoryFailed(f"{what} ended as {ended}, not as {code or 'a success'}")


@contextmanager
def staged(console: Console, folder: Path) -> Iterator[Stage]:
    """An empty stage; at the end all processes on it are ended."""
    # This process plays operators and attackers, whose logs are nobody's business.
    with structlog.testing.capture_logs(), ExitStack() as stack:
        yield Stage(console, folder, stack)


def own_chip() -> str:
    """The processor of this machine's simulated platform, as a borrower would name theirs."""
    attester = SimulatedAttester()
    evidence = attester.attest(bytes(64))
    return verify(evidence, anchors=[attester.anchor], now=datetime.now(UTC), checks=Checklist()).chip_id


def entropy(data: bytes) -> float:
    """Shannon's entropy of the bytes, in bits for each; 8 is the most."""
    return -sum(count / len(data) * math.log2(count / len(data)) for count in Counter(data).values())


class StopWatch:
    """A stop watch that runs from when it is made."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    @property
    def ms(self) -> float:
        return (time.monotonic() - self.started) * 1000
