"""The attack that filled the predecessor's memory (audit, LOW 1): one model again and again, another doc_string each.

`benchmarks/crowding.py` does the same with models of full size, in processes of their own.
"""

from __future__ import annotations

import asyncio

import numpy as np
import onnx

from blindai.enclave.config import Limits
from blindai.enclave.limits import LOAD_BYTES, MIB
from blindai.enclave.model_id import ModelId
from blindai.enclave.model_version import State
from blindai.wire.tensor import Tensor
from enclave_server import node_model
from repositories import ThreadRepository, upload

UPLOADS = 13
WIDTH = 1024


def test_uploads_beyond_the_budget_leave_memory_within_it_and_every_answer_right() -> None:
    weights = np.eye(WIDTH, dtype=np.float32)
    model = node_model(onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), size=WIDTH, w=weights)
    budget = LOAD_BYTES + 9 * MIB

    async def main() -> None:
        repository = ThreadRepository(limits=Limits(model_memory_bytes=budget))
        peak = 0
        ids = [ModelId("mallory", f"copy{number}") for number in range(UPLOADS)]
        for number, model_id in enumerate(ids):
            text = f"copy {number:04}".encode()
            await upload(repository, model_id, model + bytes([6 << 3 | 2, len(text)]) + text)
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
