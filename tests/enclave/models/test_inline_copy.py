"""Which models of strangers run beside the secrets of the server, and that no word of theirs decides it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from blindai.enclave.config import EnclaveConfig, Runtime
from blindai.enclave.engine import TensorSpec
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.enclave.limits import INLINE_MODEL_BYTES
from blindai.enclave.models.description import Description, Task, Trial
from blindai.enclave.models.inline_copy import may_have_copy, open_copy
from blindai.enclave.models.model_id import ModelId
from blindai.enclave.models.plain_model import PlainModel, in_memory
from blindai.enclave.models.repository import Repository
from blindai.enclave.running.thread_runner import RunningThreads
from blindai.wire.tensor import Tensor
from enclave_server import RunningServer, looping_model
from onnx_models import model, value
from repositories import upload
from sandboxes import sandbox
from text_models import bundle as bundled

Start = Callable[..., RunningServer]

RUNTIME = Runtime(inline_us=1000)
SPEC = TensorSpec("x", "FP32", (-1,))
TRIAL = Trial(engine="onnxruntime", threads=1, precision="float32", run_us=999.0, bounded=True)
QUICK = Description(inputs=(SPEC,), outputs=(SPEC,), platform="onnx_onnxv1", memory=1, trial=TRIAL)


def tried(**changes: Any) -> Description:
    """The model that may have a copy, but for what its trial says."""
    return msgspec.structs.replace(QUICK, trial=msgspec.structs.replace(TRIAL, **changes))


def body(content: bytes, *, bundle: bool = False) -> PlainModel:
    plain = in_memory(len(content), bundle=bundle)
    with plain.filling() as target:
        target[:] = content
    return plain


def test_a_small_and_quick_model_may_have_a_copy() -> None:
    assert may_have_copy(QUICK, INLINE_MODEL_BYTES, RUNTIME)


@pytest.mark.parametrize(
    "description",
    [
        tried(bounded=False),
        tried(engine="openvino"),
        tried(threads=2),
        tried(precision="bfloat16"),
        tried(run_us=1000.0),
        tried(run_us=0.0),
        tried(run_us=-1.0),
        *(msgspec.structs.replace(QUICK, task=task) for task in Task if task is not Task.NONE),
    ],
    ids=lambda description: f"{description.trial.run_us}-{description.trial.engine}-{description.task.value}",
)
def test_other_models_may_not(description: Description) -> None:
    assert not may_have_copy(description, 1, RUNTIME)


def test_a_model_beyond_the_size_may_not() -> None:
    assert not may_have_copy(QUICK, INLINE_MODEL_BYTES + 1, RUNTIME)


def test_nothing_may_where_that_is_off() -> None:
    assert not may_have_copy(tried(run_us=1e-3), 1, Runtime(inline_us=0))


@pytest.mark.parametrize("bundle", [False, True])
def test_a_copy_answers_as_the_model_does(adder: bytes, *, bundle: bool) -> None:
    with body(bundled(adder, {}) if bundle else adder, bundle=bundle) as plain:
        session = open_copy(plain)
    assert session is not None
    (answer,) = session.run({"x": Tensor.from_array("x", np.ones((1, 4), np.float32))})
    np.testing.assert_array_equal(answer.data, np.full((1, 4), 2, np.float32))


@pytest.mark.parametrize("bundle", [False, True])
def test_an_unbounded_model_has_no_copy_whatever_was_said_of_it(slow: bytes, *, bundle: bool) -> None:
    with body(bundled(slow, {}) if bundle else slow, bundle=bundle) as plain:
        assert open_copy(plain) is None


def test_a_model_that_can_end_its_process_has_no_copy() -> None:
    # The smallest integer divided by -1 is an exception of the processor.
    tensors = [value("x", "INT64", ("n",))], [value("y", "INT64", ("n",))]
    divided = model([onnx.helper.make_node("Div", ["x", "x"], ["y"])], inputs=tensors[0], outputs=tensors[1])
    with body(divided) as plain:
        assert open_copy(plain) is None


@pytest.mark.parametrize("bundle", [False, True])
def test_what_does_not_open_has_no_copy(*, bundle: bool) -> None:
    with body(b"\xff" * 2000, bundle=bundle) as plain:
        assert open_copy(plain) is None


def has_copy(content: bytes, conduct: str = "boast") -> bool:
    """Whether a repository runs an upload beside itself; by default one whose process says the best of it."""

    async def main() -> bool:
        threads = RunningThreads(1)
        config = EnclaveConfig(runtime=RUNTIME)
        async with sandbox(conduct=conduct) as made:
            repository = Repository(made, OnnxRuntimeEngine(), config, threads)
            version = await upload(repository, ModelId("mallory", "model"), content)
            assert version.description.trial.bounded
            copied = version.session is not None
            await repository.close()
        threads.close()
        return copied

    return asyncio.run(main())


def test_a_process_that_lies_gets_no_copy(adder: bytes, slow: bytes) -> None:
    assert has_copy(adder)
    assert not has_copy(slow)


def constant_of(count: int) -> bytes:
    """A model of some hundred bytes that picks of a constant of so many numbers."""
    tensors = [value("x", "INT64", (1,))], [value("y", "FP32", (1,))]
    return model(
        [onnx.helper.make_node("Expand", ["one", "count"], ["c"]), onnx.helper.make_node("Gather", ["c", "x"], ["y"])],
        inputs=tensors[0],
        outputs=tensors[1],
        initializers=[
            onnx.numpy_helper.from_array(np.ones(1, np.float32), "one"),
            onnx.numpy_helper.from_array(np.array([count], np.int64), "count"),
        ],
    )


def test_a_small_file_that_needs_much_memory_has_no_copy() -> None:
    assert has_copy(constant_of(1000), conduct="")
    assert not has_copy(constant_of(20_000_000), conduct="")


def counts(server: RunningServer) -> tuple[int, int]:
    """Runs in the server's process, and runs in the model's."""
    metrics = server.application.metrics
    return server.call(lambda: (metrics._inline, metrics._handed_over))  # type: ignore[no-any-return] # a pair of numbers


def test_a_model_with_a_copy_runs_in_its_process_on_shapes_that_are_not_proven(
    start_server: Start, adder: bytes
) -> None:
    server = start_server(EnclaveConfig(runtime=Runtime(inline_us=1_000_000)))
    server.upload("acme/add", adder)
    version = server.call(lambda: server.application.repository.resolve(ModelId("acme", "add")))
    assert version.session is not None
    with server.connect() as wire:
        for _ in range(4):
            assert wire.infer("acme/add", np.ones((1, 4), np.float32)).status == 200
        inline, confined = counts(server)
        assert inline == 1
        for number, shape in enumerate([(1, 5), (4, 1), (1, 6)], 1):
            assert wire.infer("acme/add", np.ones(shape, np.float32)).status == 200
            assert counts(server) == (inline, confined + number)
        assert wire.infer("acme/add", np.ones((1, 4), np.float32)).status == 200
        assert counts(server) == (inline + 1, confined + 3)


def test_an_unbounded_model_runs_in_its_process_alone(start_server: Start) -> None:
    server = start_server(EnclaveConfig(runtime=Runtime(inline_us=1_000_000)))
    server.upload("acme/loop", looping_model())
    with server.connect() as wire:
        for _ in range(6):
            assert wire.infer("acme/loop", np.ones((1, 1), np.float32)).status == 200
    assert counts(server) == (0, 6)
