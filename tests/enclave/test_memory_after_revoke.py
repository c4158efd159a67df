"""After a revocation nothing of a model that was lent is in the memory of the process, neither keys nor weights.

A process of its own loads a sealed model of random weights, runs it on the event loop's thread and on two others, and
revokes it. Another one searches all of its memory at each step, and must find what it seeks while it is there.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from blindai.client.model_file import ModelBody
from blindai.custody.sealing import new_data_key, seal
from memory_scan import Found, Needles, halves, needles, scan
from onnx_models import model, value

GENERATOR = np.random.default_rng(20260101)


def weights(*shape: int) -> NDArray[Any]:
    return GENERATOR.standard_normal(shape, np.float32)


def int8(*shape: int) -> NDArray[Any]:
    return GENERATOR.integers(-128, 128, shape, np.int8)


class Leased:
    """A child process that has been given a sealed model."""

    def __init__(self, sealed: Path, digest: str, key: bytes) -> None:
        program = Path(__file__).parents[1] / "plugins" / "leased_process.py"
        self.process = subprocess.Popen(
            [sys.executable, str(program), str(sealed), digest], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        self._stdin.write(key)
        self._stdin.flush()

    def reach(self, step: str) -> None:
        assert self._stdout.readline().decode().strip() == step

    def go_on(self) -> None:
        self._stdin.write(b"\n")
        self._stdin.flush()

    def scan(self, secrets: Needles) -> dict[str, Found]:
        return scan(self.process.pid, secrets)


@contextmanager
def leased(source: Path | bytes, folder: Path) -> Iterator[tuple[Leased, dict[str, Sequence[bytes]]]]:
    """The process, and the needles of its keys."""
    body = ModelBody.open(source)
    target, key = folder / "model.sealed", new_data_key()
    header = seal(
        body.chunks(),
        size=body.content_length,
        model_digest=body.sha256.hex(),
        content_type=body.content_type,
        target=target,
        key=key,
    ).header
    child = Leased(target, header.model_digest, bytes(key))
    try:
        yield child, {"data key": halves(bytes(key)), "file key": halves(bytes(header.key(key)._key))}
    finally:
        with child.process:
            child.process.kill()


def prove(
    child: Leased, keys: Needles, secrets: Needles, figures: Callable[[str], None], *, hidden: Sequence[str] = ()
) -> None:
    """`hidden`: layouts that kernels of this processor may not use, and which need not be found while serving."""
    child.reach("keyed")
    assert {name: hit.needles for name, hit in child.scan(keys).items()} == {"data key": 2, "file key": 2}
    child.go_on()

    child.reach("serving")
    serving = child.scan({**keys, **secrets})
    assert {name: serving[name].where for name in keys} == {"data key": {}, "file key": {}}
    for name in secrets:
        figures(f"{name}: {serving[name].needles} of {serving[name].of} needles while serving")
        assert serving[name].needles or name in hidden, name
    child.go_on()

    child.reach("revoked")
    revoked = child.scan({**keys, **secrets})
    figures(f"after the revocation {sum(hit.needles for hit in revoked.values())} of all needles")
    assert {name: hit.where for name, hit in revoked.items()} == {name: {} for name in revoked}
    child.go_on()
    assert child.process.wait(30) == 0


def test_weights_that_kernels_pack_for_themselves(tmp_path: Path, figures: Callable[[str], None]) -> None:
    arrays = {
        "embedding": weights(2048, 64),
        "matmul": weights(512, 512),
        "gemm": weights(512, 256),
        "bias": weights(256),
        "conv": weights(128, 64, 3, 3),
        "batch": weights(8, 256, 256),
        "quantised": int8(512, 512),
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "embedding"], ["y0"]),
        helper.make_node("MatMul", ["x", "matmul"], ["y1"]),
        helper.make_node("Gemm", ["x", "gemm", "bias"], ["y2"]),
        helper.make_node("Conv", ["image", "conv"], ["y3"]),
        helper.make_node("MatMul", ["stack", "batch"], ["y4"]),
        helper.make_node("DynamicQuantizeLinear", ["x"], ["quantum", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["quantum", "quantised", "zero"], ["product"]),
        helper.make_node("Cast", ["product"], ["y5"], to=onnx.TensorProto.FLOAT),
    ]
    file = model(
        nodes,
        inputs=[value("x", shape=(4, 512)), value("image", shape=(1, 64, 8, 8)), value("stack", shape=(8, 64, 256))],
        outputs=[value(f"y{number}", shape=None) for number in range(6)],
        initializers=[numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    secrets = {name: needles(array.tobytes()) for name, array in arrays.items()}
    # Blocks of output channels side by side (MLAS NCHWc), and groups of four rows side by side (its int8 kernels).
    secrets["conv, in channel blocks"] = needles(arrays["conv"].transpose(1, 2, 3, 0).tobytes(), step=32)
    quads = arrays["quantised"].reshape(128, 4, 512).transpose(0, 2, 1)
    secrets["quantised, in rows of four"] = needles(quads.tobytes())
    layouts = ("conv", "gemm", "matmul", "quantised", "conv, in channel blocks", "quantised, in rows of four")
    with leased(file, tmp_path) as (child, keys):
        prove(child, keys, secrets, figures, hidden=layouts)


def test_a_bundle_with_external_data(tmp_path: Path, figures: Callable[[str], None]) -> None:
    arrays = {"first": weights(1024, 1024), "second": weights(1024, 512)}
    nodes = [helper.make_node("MatMul", ["x", "first"], ["h"]), helper.make_node("MatMul", ["h", "second"], ["y"])]
    made = onnx.load_from_string(
        model(
            nodes,
            inputs=[value("x", shape=(1, 1024))],
            outputs=[value("y", shape=(1, 512))],
            initializers=[numpy_helper.from_array(array, name) for name, array in arrays.items()],
        )
    )
    path = tmp_path / "model.onnx"
    onnx.save_model(made, path, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=1024)
    secrets = {name: needles(array.tobytes()) for name, array in arrays.items()}
    with leased(path, tmp_path) as (child, keys):
        prove(child, keys, secrets, figures)
