"""The attack that filled the predecessor's memory (audit, LOW 1): one model again and again, another doc_string each.

Once with the accounting of a repository alone, once with a real server and what the system says of its processes.
`benchmarks/crowding.py` does the same with models of full size.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import numpy as np
import onnx
import psutil
import pytest

from blindai import Connection
from blindai.demo.enclaves import served
from blindai.enclave.config import Limits
from blindai.enclave.limits import LOAD_BYTES, MIB
from blindai.enclave.models.model_id import ModelId
from blindai.enclave.models.model_version import State
from blindai.enclave.sandbox.process import PROCESS_BYTES
from blindai.wire.tensor import Tensor
from enclave_server import node_model
from repositories import ThreadRepository, upload

UPLOADS = 13
WIDTH = 1024

# What models may take of the real server's memory; all of them together would take several times as much.
BUDGET: Final = 64 * MIB
CROWD: Final = 30

# What a real server takes besides: its own process, of which some 110 MiB are there before any model is; and what is in
# memory of models that are just leaving, or were just measured to hold more than was estimated.
SERVER_BYTES: Final = 160 * MIB


def copy_of(model: bytes, number: int) -> bytes:
    """The same model with another `doc_string`: field 6 of ModelProto, of which the last one counts."""
    text = f"copy {number:04}".encode()
    return model + bytes([6 << 3 | 2, len(text)]) + text


def product(weights: np.ndarray) -> bytes:
    return node_model(onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), size=WIDTH, w=weights)


class Watch:
    """A context manager that looks at the memory of a server and of its models' processes, again and again.

    A process of a model starts with the pages of the nursery, and has a few of its own soon (`PROCESS_BYTES`).

    Attributes:
        peak: the most bytes that were seen.
        most_processes: of models, at one time.
    """

    def __init__(self, server: psutil.Process) -> None:
        self.peak = self.most_processes = 0
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            (nursery,) = self._server.children()
            shared, models = own_bytes(nursery), nursery.children()
            held = sum(PROCESS_BYTES + max(0, own_bytes(model) - shared) for model in models)
            self.most_processes = max(self.most_processes, len(models))
            self.peak = max(self.peak, self._server.memory_info().rss + held)


def own_bytes(process: psutil.Process) -> int:
    """Memory that is no part of a file; 0 where the process has ended."""
    try:
        memory = process.memory_info()
    except psutil.NoSuchProcess:
        return 0
    return int(memory.rss - memory.shared)


@pytest.mark.timeout(120)
def test_a_real_server_stays_within_its_budget_and_every_answer_is_right(
    tmp_path: Path, figures: Callable[[str], None]
) -> None:
    config = tmp_path / "enclave.toml"
    config.write_text(f"[limits]\nmodel_memory_bytes = {BUDGET}\n[runtime]\nmax_batch = 1\n")
    random = np.random.default_rng(1)
    weights = random.standard_normal((WIDTH, WIDTH), np.float32)
    large = product(weights)
    question = random.standard_normal((1, WIDTH), np.float32)
    expected = {f"mallory/copy{number}": question @ weights for number in range(UPLOADS)}
    expected |= {f"crowd/model{number}": question + number for number in range(CROWD)}
    before = set(psutil.Process().children())
    with served(config=config) as address, Connection(address, simulation=True, progress=False) as connection:
        (server,) = (one for one in psutil.Process().children() if one not in before)
        with Watch(server) as watch:
            idle = server.memory_info().rss
            for number in range(UPLOADS):
                connection.upload_model(copy_of(large, number), model_id=f"mallory/copy{number}")
            for number in range(CROWD):
                adder = node_model(
                    onnx.helper.make_node("Add", ["x", "by"], ["y"]), size=WIDTH, by=np.full(1, number, np.float32)
                )
                connection.upload_model(adder, model_id=f"crowd/model{number}")
            asked = random.permutation(list(expected))
            for name in asked.tolist():
                answer = connection.predict(name, question).output[0].as_numpy()
                np.testing.assert_allclose(answer, expected[name], rtol=1e-3, atol=1e-3)
        assert 0 < watch.most_processes < len(expected)
    figures(
        f"{len(expected)} models, budget {BUDGET / MIB:.0f} MiB: peak {watch.peak / MIB:.0f} MiB"
        f" (server without models {idle / MIB:.0f}), at most {watch.most_processes} processes, all answers right"
    )
    assert watch.peak < BUDGET + SERVER_BYTES


def test_uploads_beyond_the_budget_leave_memory_within_it_and_every_answer_right() -> None:
    model = product(np.eye(WIDTH, dtype=np.float32))
    budget = LOAD_BYTES + 9 * MIB

    async def main() -> None:
        repository = ThreadRepository(limits=Limits(model_memory_bytes=budget))
        peak = 0
        ids = [ModelId("mallory", f"copy{number}") for number in range(UPLOADS)]
        for number, model_id in enumerate(ids):
            await upload(repository, model_id, copy_of(model, number))
            peak = max(peak, repository.memory.used)
        question = np.random.default_rng(1).random((1, WIDTH), np.float32)
        for model_id in ids * 2:
            version = repository.resolve(model_id)
            assert version.state is State.READY
            version.begin_run()
            session = (await repository.bring(version)).session
            assert session is not None
            (answer,) = session.run({"x": Tensor.from_array("x", question)})
            np.testing.assert_array_equal(answer.data, question)
            version.end_run()
            peak = max(peak, repository.memory.used)
        assert UPLOADS * len(model) > 2 * budget
        assert sum(version.loaded is not None for version in repository) < UPLOADS
        assert peak <= budget
        await repository.close()

    asyncio.run(main())
