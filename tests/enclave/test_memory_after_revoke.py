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


def test_weights_in_every_kind_of_place(tmp_path: Path, figures: Callable[[str], None]) -> None:
    """Recurrent, transposed, depthwise, 4-bit and 16-bit weights, constants, and those of a graph within the graph."""
    arrays = {
        "lstm": weights(1, 512, 128),
        "recurrence": weights(1, 512, 128),
        "transposed convolution": weights(64, 64, 3, 3),
        "depthwise": weights(512, 1, 3, 3),
        "half": weights(256, 512).astype(np.float16),
        "packed": GENERATOR.integers(0, 256, (256, 8, 16), np.uint8),
        "scales": weights(256 * 8),
        "transposed": weights(256, 512),
        "einsum": weights(4, 64, 64),
        "constant": weights(64, 64),
        "branch": weights(128, 128),
    }
    named = {name: numpy_helper.from_array(array, name) for name, array in arrays.items()}
    branches = (
        helper.make_graph([node], name, [], [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)], held)
        for name, node, held in (
            ("then", helper.make_node("MatMul", ["d", "branch"], ["out"]), [named.pop("branch")]),
            ("else", helper.make_node("Identity", ["d"], ["out"]), []),
        )
    )
    nodes = [
        helper.make_node("LSTM", ["sequence", "lstm", "recurrence"], ["y0"], hidden_size=128),
        helper.make_node("ConvTranspose", ["image", "transposed convolution"], ["y1"]),
        helper.make_node("Conv", ["deep", "depthwise"], ["y2"], group=512),
        helper.make_node("Cast", ["half"], ["single"], to=onnx.TensorProto.FLOAT),
        helper.make_node("MatMul", ["a", "single"], ["y3"]),
        helper.make_node(
            "MatMulNBits",
            ["a", "packed", "scales"],
            ["y4"],
            domain="com.microsoft",
            K=256,
            N=256,
            bits=4,
            block_size=32,
        ),
        helper.make_node("Gemm", ["b", "transposed"], ["y5"], transB=1),
        helper.make_node("Einsum", ["batch", "einsum"], ["y6"], equation="bij,bjk->bik"),
        helper.make_node("Constant", [], ["made"], value=named.pop("constant")),
        helper.make_node("MatMul", ["c", "made"], ["y7"]),
        helper.make_node("ReduceSum", ["d"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["positive"], to=onnx.TensorProto.BOOL),
        helper.make_node(
            "If", ["positive"], ["y8"], **dict(zip(("then_branch", "else_branch"), branches, strict=True))
        ),
    ]
    shapes = {
        "sequence": (4, 1, 128),
        "image": (1, 64, 8, 8),
        "deep": (1, 512, 8, 8),
        "a": (2, 256),
        "b": (2, 512),
        "batch": (4, 16, 64),
        "c": (2, 64),
        "d": (3, 128),
    }
    file = model(
        nodes,
        inputs=[value(name, shape=shape) for name, shape in shapes.items()],
        outputs=[value(f"y{number}", shape=None) for number in range(9)],
        initializers=list(named.values()),
        domains=["com.microsoft"],
    )
    layouts = {
        "half, in single precision": arrays["half"].astype(np.float32),
        "lstm, in columns": arrays["lstm"][0].T,
        "recurrence, in columns": arrays["recurrence"][0].T,
        "transposed, in columns": arrays["transposed"].T,
        "transposed convolution, in channel blocks": arrays["transposed convolution"].transpose(1, 2, 3, 0),
        "depthwise, in channel blocks": arrays["depthwise"].transpose(1, 2, 3, 0),
    }
    secrets = {name: needles(array.tobytes()) for name, array in arrays.items()}
    secrets |= {name: needles(array.tobytes(), step=32) for name, array in layouts.items()}
    hidden = secrets.keys() - {"einsum", "constant", "branch", "scales"}
    with leased(file, tmp_path) as (child, keys):
        prove(child, keys, secrets, figures, hidden=[*hidden])


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
