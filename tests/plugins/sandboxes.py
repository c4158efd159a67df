"""Sandboxes for tests, bodies of models to load into them, and models that no honest author makes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from blindai.enclave.config import EnclaveConfig, Limits, Timeouts
from blindai.enclave.running.runner import Work
from blindai.enclave.sandbox.fork_server import ForkServer
from blindai.enclave.sandbox.sandbox import Sandbox
from blindai.wire.tensor import Tensor

CONFIG = EnclaveConfig(limits=Limits(model_process_bytes=512 << 20), timeouts=Timeouts(load_ms=20_000))

_Result = TypeVar("_Result")


class Body:
    """A model in a file in memory; see `runner.Plain`."""

    def __init__(self, content: bytes, *, bundle: bool = False) -> None:
        self.view = memoryview(content)
        self.bundle = bundle
        self._file = os.memfd_create("body")
        os.write(self._file, content)

    def __del__(self) -> None:
        os.close(self._file)

    def fileno(self) -> int:
        return self._file


@contextlib.asynccontextmanager
async def sandbox(config: EnclaveConfig = CONFIG, conduct: str = "") -> AsyncIterator[Sandbox]:
    """A sandbox that has started; with a conduct, one whose processes behave so (`hostile_nursery`)."""
    hostile = ("-P", str(Path(__file__).with_name("hostile_nursery.py")), conduct)
    made = Sandbox(config, partial(ForkServer, hostile) if conduct else ForkServer)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


def in_sandbox(
    scene: Callable[[Sandbox], Awaitable[_Result]], config: EnclaveConfig = CONFIG, conduct: str = ""
) -> _Result:
    """What `scene` returns, given a sandbox on an event loop of its own."""

    async def main() -> _Result:
        async with sandbox(config, conduct) as made:
            return await scene(made)

    return asyncio.run(main())


def work(values: NDArray[Any], name: str = "x") -> list[Work]:
    """One request."""
    return [Work({name: Tensor.from_array(name, values)})]


def wide_model(count: int) -> bytes:
    """A model with so many inputs of one number, and their sum."""
    names = [f"x{number}" for number in range(count)]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Sum", names, ["y"])],
        "wide",
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in names],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
    )
    return _model(graph)


def repeating_model() -> bytes:
    """Text, as many times over as the request says."""
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Tile", ["text", "times"], ["y"])],
        "repeating",
        [
            onnx.helper.make_tensor_value_info("text", onnx.TensorProto.STRING, ["n"]),
            onnx.helper.make_tensor_value_info("times", onnx.TensorProto.INT64, [1]),
        ],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.STRING, ["m"])],
    )
    return _model(graph)


def filling_model(*, known: bool) -> bytes:
    """Some numbers, as many as the request says; where `known`, eight gigabytes of them, whatever it says."""
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("ConstantOfShape", ["huge" if known else "count"], ["filled"]),
            onnx.helper.make_node("ReduceSum", ["filled"], ["y"], keepdims=0),
        ],
        "filling",
        [onnx.helper.make_tensor_value_info("count", onnx.TensorProto.INT64, [1])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [])],
        [onnx.numpy_helper.from_array(np.array([2**31], np.int64), "huge")],
    )
    return _model(graph)


def mistaken_model() -> bytes:
    """y is x, though the model says that y has three numbers whatever x has."""
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "mistaken",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n"])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3])],
    )
    return _model(graph)


def _model(graph: onnx.GraphProto) -> bytes:
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content
