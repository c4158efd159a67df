"""Many models in little memory: goal 8, and the attack that filled the predecessor's memory with 13 uploads.

Every answer is compared with what its model must answer; one that is wrong ends the script.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnx
import psutil
from onnx import helper, numpy_helper
from processes import Server, started
from report import Goal, Table
from timing import FULL, QUICK, Effort, Spread
from workload import distilbert

import blindai

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GIB = 1 << 30
_MIB = 1 << 20

# What a model may take of the 2 GB: the rest is for the server itself and for the program that its processes come from.
_BUDGET = 3 * _GIB // 2
_ALL = 2 * _GIB

# One model in so many is uploaded and asked in quick mode.
_FULL_COUNTS = {"crowd": 1000, "large": 100}
_QUICK_COUNTS = {"crowd": 12, "large": 3}

# DistilBERT uploaded so many times stopped the predecessor (audit of 2023, LOW 1).
_ATTACK = 13

METHOD = (
    "An enclave on a simulated platform, its models in processes of their own, with 1.5 GiB for what is in memory of"
    " models. One attested connection uploads all models, then asks each of them twice, in an order that is the worst"
    " for a cache: each model comes back when all others were asked. Every answer is checked. Memory is the sum of the"
    " proportional set sizes of the server and all its processes, the largest seen, looked at ten times a second."
)


@dataclass
class Memory:
    """Looks at the memory of a process and of its descendants, on a thread, until the end of the block."""

    pid: int
    peak: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        root = psutil.Process(self.pid)
        while not self._stop.wait(0.1):
            self.peak = max(self.peak, sum(map(_pss, [root, *root.children(recursive=True)])))


def _pss(process: psutil.Process) -> int:
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:  # it has ended, or forbids to be looked into
        try:
            return int(process.memory_info().rss)
        except psutil.Error:
            return 0
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


def adder(number: int, *, size: int = 0) -> bytes:
    """Y = x + number, after a product with a matrix of `size` bytes that changes nothing of it."""
    width = max(8, int((size / 4) ** 0.5))
    nodes = [helper.make_node("Add", ["x", "number"], ["y"])]
    weights: dict[str, NDArray[Any]] = {"number": np.full(1, number, np.float32)}
    if size:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "number"], ["y"])]
        weights["w"] = np.eye(width, dtype=np.float32)
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, width])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, width])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def with_doc_string(model: bytes, text: str) -> bytes:
    """The same model with another `doc_string`: field 6 of ModelProto, of which the last one counts."""
    encoded = text.encode()
    return model + bytes([6 << 3 | 2, len(encoded)]) + encoded


@dataclass(frozen=True)
class Crowd:
    """Models, and what each must answer."""

    name: str
    models: Callable[[int], bytes]
    count: int
    question: NDArray[Any]
    input_name: str
    answer: Callable[[int], NDArray[Any] | None]


@contextmanager
def _serving() -> Iterator[tuple[Server, blindai.Connection]]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # a disk, where /tmp may be memory
        config = Path(folder) / "enclave.toml"
        config.write_text(
            f"[limits]\nmodel_memory_bytes = {_BUDGET}\nmax_namespace_models = 2000\nmodel_process_bytes = {_GIB}\n"
        )
        arguments = ["serve", "--platform", "simulated-tdx", "--port", "0", "--json", "--spool", folder]
        with started([sys.executable, "-m", "blindai", *arguments, "--config", str(config)]) as server:
            logging.getLogger("blindai").setLevel(logging.ERROR)
            with blindai.Connection(str(server.said["address"]), simulation=True, progress=False) as connection:
                yield server, connection


@dataclass(frozen=True)
class Result:
    """What came out for one crowd."""

    crowd: Crowd
    bodies: int
    peak: int
    upload_seconds: float
    answers: int
    milliseconds: Sequence[float]


def _run(crowd: Crowd) -> Result:
    bodies = 0
    taken = []
    with _serving() as (server, connection), Memory(server.pid) as memory:
        began = time.monotonic()
        for number in range(crowd.count):
            body = crowd.models(number)
            bodies += len(body)
            connection.upload_model(body, model_id=f"crowd/m{number}")
        uploading = time.monotonic() - began
        for _ in range(2):
            for number in range(crowd.count):
                asked = time.perf_counter()
                (answer,) = connection.predict(f"crowd/m{number}", {crowd.input_name: crowd.question}).output
                taken.append((time.perf_counter() - asked) * 1000)
                expected = crowd.answer(number)
                if expected is not None and not np.allclose(answer, expected, atol=1e-5):
                    raise SystemExit(f"model {number} of {crowd.name} has answered wrong")
    return Result(crowd, bodies, memory.peak, uploading, len(taken), taken)


def measure(effort: Effort) -> list[Table]:
    """Run all three crowds, each in an enclave of its own."""
    quick = effort is QUICK
    counts = _QUICK_COUNTS if quick else _FULL_COUNTS
    encoder = distilbert(layers=1 if quick else 6)
    ids = np.arange(8, dtype=np.int64).reshape(1, 8)
    import onnxruntime

    reference = onnxruntime.InferenceSession(encoder).run(None, {"input_ids": ids})[0]
    side = 1 << (18 if quick else 20)
    large = 90 * side
    width = int((large / 4) ** 0.5)
    crowds = [
        Crowd(
            "the shape of DistilBERT, another doc_string each",
            lambda number: with_doc_string(encoder, f"copy {number}"),
            3 if quick else _ATTACK,
            ids,
            "input_ids",
            lambda _: reference,
        ),
        Crowd(
            "small models",
            adder,
            counts["crowd"],
            np.zeros((1, 8), np.float32),
            "x",
            lambda number: np.full((1, 8), number, np.float32),
        ),
        Crowd(
            f"models of {large // 10**6} MB",
            lambda number: adder(number, size=large),
            counts["large"],
            np.zeros((1, width), np.float32),
            "x",
            lambda number: np.full((1, width), number, np.float32),
        ),
    ]
    return [_table([_run(crowd) for crowd in crowds])]


def _table(results: Sequence[Result]) -> Table:
    rows = []
    goals = []
    for result in results:
        crowd = result.crowd
        rows.append(
            [
                f"{crowd.count} times {crowd.name}",
                f"{result.bodies / _MIB:.0f}",
                f"{result.peak / _MIB:.0f}",
                f"{result.upload_seconds / crowd.count * 1000:.0f}",
                f"{result.answers}, all right",
                Spread.of(result.milliseconds).text(1),
            ]
        )
        share = result.peak / _ALL
        goals.append(
            Goal(8, f"peak memory of 2 GiB, {crowd.count} times {crowd.name}", "", 1.0, Spread(share, share, share))
        )
    return Table(
        title="Many models in 2 GiB",
        method=METHOD,
        columns=["", "uploaded, MiB", "peak memory, MiB", "upload of one, ms", "answers", "request, ms"],
        rows=rows,
        goals=goals,
        raw={result.crowd.name: list(result.milliseconds) for result in results},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    for table in measure(QUICK if options.quick else FULL):
        print(table.markdown())
