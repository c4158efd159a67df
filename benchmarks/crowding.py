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

_WIDTH_OF_ADDER = 8
_WIDTH_OF_TABLE = 1024

# What stands where the number of a table goes: no number of a row, and no part of one.
_PLACEHOLDER = -1.2345678

METHOD = (
    "An enclave on a simulated platform, its models in processes of their own, with 1.5 GiB for what is in memory of"
    " models; requests are not batched. One attested connection uploads all models, then asks each of them in a random"
    " order: the small ones twice, the others once, as almost each of these requests brings a model back into memory."
    " Every answer is checked. Memory is the sum of the proportional set sizes of the server and all its processes, the"
    " largest seen, looked at again and again in up to a fifth of the time."
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
        pause = 0.1
        while not self._stop.wait(pause):
            began = time.monotonic()
            self.peak = max(self.peak, sum(map(_pss, [root, *root.children(recursive=True)])))
            pause = max(0.1, (time.monotonic() - began) * 4)  # what looks takes time from what is looked at


def _pss(process: psutil.Process) -> int:
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:  # it has ended, or forbids to be looked into
        try:
            return int(process.memory_info().rss)
        except psutil.Error:
            return 0
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


def adder(number: int) -> bytes:
    """A model that adds `number` to eight numbers."""
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 8])
    node = helper.make_node("Add", ["x", "number"], ["y"])
    return _model([node], x, _WIDTH_OF_ADDER, {"number": np.full(1, number, np.float32)})


class Lookups:
    """Tables of `size` bytes: y = table[x] + number, where row x of the table is x at each place.

    What differs from one to the next are the bytes of one number, so that making them takes no time.
    """

    def __init__(self, size: int) -> None:
        rows = size // 4 // _WIDTH_OF_TABLE
        table = np.repeat(np.arange(rows, dtype=np.float32), _WIDTH_OF_TABLE).reshape(rows, _WIDTH_OF_TABLE)
        x = helper.make_tensor_value_info("x", onnx.TensorProto.INT64, [1])
        nodes = [
            helper.make_node("Gather", ["table", "x"], ["row"]),
            helper.make_node("Add", ["row", "number"], ["y"]),
        ]
        weights = {"number": np.full(1, _PLACEHOLDER, np.float32), "table": table}
        self._before, placeholder, self._after = _model(nodes, x, _WIDTH_OF_TABLE, weights).partition(
            np.float32(_PLACEHOLDER).tobytes()
        )
        if not placeholder:
            raise AssertionError("the number is not in the file as it is")

    def __call__(self, number: int) -> bytes:
        """The table that adds `number`."""
        return self._before + np.float32(number).tobytes() + self._after


def _model(
    nodes: Sequence[onnx.NodeProto], x: onnx.ValueInfoProto, width: int, weights: dict[str, NDArray[Any]]
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [x],
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
    """Models, and what each must answer; each is asked `rounds` times."""

    name: str
    models: Callable[[int], bytes]
    count: int
    rounds: int
    question: NDArray[Any]
    input_name: str
    answer: Callable[[int], NDArray[Any]]


@contextmanager
def _serving() -> Iterator[tuple[Server, blindai.Connection]]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # a disk, where /tmp may be memory
        config = Path(folder) / "enclave.toml"
        config.write_text(
            f"[limits]\nmodel_memory_bytes = {_BUDGET}\nmax_namespace_models = 2000\nmodel_process_bytes = {_GIB}\n"
            "[runtime]\nmax_batch = 1\n"
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
        for number in np.random.default_rng(8).permutation(np.repeat(np.arange(crowd.count), crowd.rounds)).tolist():
            asked = time.perf_counter()
            (answer,) = connection.predict(f"crowd/m{number}", {crowd.input_name: crowd.question}).output
            taken.append((time.perf_counter() - asked) * 1000)
            if not np.allclose(answer, crowd.answer(number), atol=1e-5):
                raise SystemExit(f"model {number} of {crowd.name} has answered wrong")
    return Result(crowd, bodies, memory.peak, uploading, len(taken), taken)


def measure(effort: Effort) -> list[Table]:
    """Run all three crowds, each in an enclave of its own."""
    quick = effort is QUICK
    counts = _QUICK_COUNTS if quick else _FULL_COUNTS
    encoder = distilbert(layers=1, heads=1) if quick else distilbert()
    ids = np.arange(8, dtype=np.int64).reshape(1, 8)
    import onnxruntime

    reference = onnxruntime.InferenceSession(encoder).run(None, {"input_ids": ids})[0]
    large = 20 * _MIB if quick else 90 * 10**6
    crowds = [
        Crowd(
            "the shape of DistilBERT, another doc_string each",
            lambda number: with_doc_string(encoder, f"copy {number}"),
            3 if quick else _ATTACK,
            1,
            ids,
            "input_ids",
            lambda _: reference,
        ),
        Crowd(
            "small models",
            adder,
            counts["crowd"],
            2,
            np.zeros((1, _WIDTH_OF_ADDER), np.float32),
            "x",
            lambda number: np.full((1, _WIDTH_OF_ADDER), number, np.float32),
        ),
        Crowd(
            f"tables of {large // 10**6} MB",
            Lookups(large),
            counts["large"],
            1,
            np.array([7]),
            "x",
            lambda number: np.full((1, _WIDTH_OF_TABLE), 7 + number, np.float32),
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
