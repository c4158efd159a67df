"""Where the model on loan comes from, and that it goes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from blindai.channel.http1 import Answer
from blindai.crypto.wipe import fresh_bytes
from blindai.enclave.api.receipts import Receipts
from blindai.enclave.config import Custody, EnclaveConfig
from blindai.enclave.lease.model import LoanedModel
from blindai.enclave.models.model_version import State
from blindai.enclave.running.inference import Inference
from blindai.errors import BlindAIError, InvalidModel, Unavailable
from blindai.wire import custody as wire
from blindai.wire.problems import problem_body
from repositories import ThreadRepository

from .conftest import LEASE, FakeCustodian, sealed_for


class Shelf:
    """Connections to a custodian that has the sealed model, and serves nothing else."""

    def __init__(self, sealed: bytes) -> None:
        self.sealed = sealed
        self.asked: list[wire.ArtefactRange] = []
        self.cuts = 0
        self.hold: asyncio.Event | None = None
        self.refusal: BlindAIError | None = None
        self.usable = True

    async def connect(self) -> Shelf:
        return self

    async def post(self, path: str, body: bytes, *, max_answer_bytes: int) -> Answer:
        assert path == wire.ARTEFACTS
        message = msgspec.json.decode(body, type=wire.ArtefactRange)
        assert message.length <= max_answer_bytes
        self.asked.append(message)
        if self.hold is not None:
            await self.hold.wait()
        if self.refusal is not None:
            return Answer(404, {}, problem_body(self.refusal), keep_alive=True)
        return Answer(200, {}, self.sealed[message.offset :][: message.length], keep_alive=True)

    def cut(self) -> None:
        self.cuts += 1


class Loan:
    """A sealed model and where it is loaded."""

    def __init__(self, folder: Path, model: bytes) -> None:
        self.custodian = FakeCustodian()
        self.path = sealed_for(self.custodian, folder, model)
        self.shelf = Shelf(self.path.read_bytes())
        config = EnclaveConfig()
        self.repository = ThreadRepository(limits=config.limits)
        self.inference = Inference(config, Receipts(None, grant=lambda: None), self.repository, self.repository.threads)
        self.custody = Custody(address="x:1", public_key="ab" * 32, lease=LEASE, model_id="acme/lent")

    def model(self, path: Path | None) -> LoanedModel:
        return LoanedModel(self.custody, self.repository, self.inference, connect=self.shelf.connect, path=path)

    def key(self) -> bytes:
        made, view = fresh_bytes(32)
        view[:] = self.custodian.data_key
        return made

    async def close(self) -> None:
        await self.inference.close()
        await self.repository.close()


@pytest.fixture
def loan(tmp_path: Path, adder: bytes) -> Loan:
    return Loan(tmp_path, adder)


@pytest.mark.parametrize("from_file", [True, False])
def test_it_is_opened_and_wiped(loan: Loan, from_file: bool) -> None:
    async def test() -> None:
        model = loan.model(loan.path if from_file else None)
        key = loan.key()
        version = await model.load(key, loan.custodian.model_digest)
        assert key == bytes(32)
        assert (version.state, version.model_name, version.leased) == (State.READY, "acme/lent", True)
        assert bool(loan.shelf.asked) is not from_file
        assert loan.shelf.cuts == (0 if from_file else 1)
        await model.wipe(lambda: None, "lease.stopped")
        assert (version.state, version.session, version.reason) == (State.UNAVAILABLE, None, "lease.stopped")
        await model.wipe(lambda: None, "lease.stopped")
        again = await model.load(loan.key(), loan.custodian.model_digest)
        assert again.state is State.READY
        await model.wipe(lambda: None, "closing")
        await loan.close()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("digest", "code"), [("9" * 64, "model.sealed_digest"), (None, "model.sealed_key")], ids=["another model", "key"]
)
def test_what_is_not_the_model_that_was_granted_is_refused(loan: Loan, digest: str | None, code: str) -> None:
    async def test() -> None:
        key = loan.key() if digest else bytes(range(32))
        with pytest.raises(InvalidModel) as caught:
            await loan.model(loan.path).load(bytes(bytearray(key)), digest or loan.custodian.model_digest)
        assert caught.value.code == code
        assert not list(loan.repository)
        await loan.close()

    asyncio.run(test())


def test_a_file_that_is_not_there(loan: Loan, tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(InvalidModel) as caught:
            await loan.model(tmp_path / "none").load(loan.key(), loan.custodian.model_digest)
        assert caught.value.code == "model.file_unreadable"
        await loan.close()

    asyncio.run(test())


def test_what_the_custodian_refuses_is_said(loan: Loan) -> None:
    async def test() -> None:
        loan.shelf.refusal = Unavailable("no such file", code="lease.artefact")
        with pytest.raises(BlindAIError) as caught:
            await loan.model(None).load(loan.key(), loan.custodian.model_digest)
        assert caught.value.code == "lease.artefact"
        assert loan.shelf.cuts == 1
        await loan.close()

    asyncio.run(test())


def test_a_load_that_is_aborted_leaves_nothing(loan: Loan) -> None:
    async def test() -> None:
        model = loan.model(None)
        model.abort()  # harmless where nothing is being loaded
        loan.shelf.hold = asyncio.Event()
        loading = asyncio.ensure_future(model.load(loan.key(), loan.custodian.model_digest))
        while not loan.shelf.asked:
            await asyncio.sleep(0.001)
        model.abort()
        loan.shelf.hold.set()
        with pytest.raises(Unavailable) as caught:
            await loading
        assert caught.value.code == "lease.waiting"
        assert not list(loan.repository)
        await loan.close()

    asyncio.run(test())
