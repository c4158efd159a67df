"""What it costs to seal a model, and to load a sealed one."""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from report import Goal, Table
from timing import FULL, QUICK, Effort, Lane, Repeated, Spread, interleave, ratio

from blindai.crypto.wipe import wipe
from blindai.custody.sealing import SealedModel, new_data_key, seal
from blindai.enclave.allocator import keep_freed_memory
from blindai.enclave.engine import Session
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.enclave.models.sealed_model import close_wiped, load_sealed, opened
from blindai.wire.bundle import ONNX_TYPE
from blindai.wire.sealed_model import MAX_HEADER_BYTES, read_head

METHOD = (
    "One model of matrices, in a file that the system has in its cache. *Copy* writes it to another file and waits for"
    " the disk, as sealing does. *Open* reads the sealed file, decrypts it, compares its digest, and overwrites the"
    " plaintext. *Load* ends with a session of ONNX Runtime; the plain one hashes the file as an upload does. What was"
    " freed is given back before each, as in a process that has loaded nothing yet. The sealed load overwrites whatever"
    " it frees; hashing takes a second core where there is one."
)

MEMORY_METHOD = (
    "Resident memory that a process has gained once the model is loaded, in new processes. An upload keeps the file's"
    " bytes beside the session, to load it again; of a sealed model the session alone is kept."
)

SQUARE = 1024
MATRICES = 22  # of 4 MiB each: the ~90 MB that the goal names
QUICK_MATRICES = 2

LIMIT = 1.15
MEMORY_LIMIT = 0.5


def matrices(count: int) -> bytes:
    """A model that multiplies `count` matrices, each of which ONNX Runtime packs for itself."""
    generator = np.random.default_rng(1)
    names = [f"w{number}" for number in range(count)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [f"h{n}", name], [f"h{n + 1}"]) for n, name in enumerate(names)],
        "matrices",
        [helper.make_tensor_value_info("h0", TensorProto.FLOAT, [1, SQUARE])],
        [helper.make_tensor_value_info(f"h{count}", TensorProto.FLOAT, [1, SQUARE])],
        [
            numpy_helper.from_array(generator.standard_normal((SQUARE, SQUARE), np.float32) / SQUARE, name)
            for name in names
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


@dataclass
class Models:
    """One model, plain and sealed, and the ways to handle it."""

    plain: Path
    copy: Path
    key: bytearray
    sealed: SealedModel = field(init=False)
    sessions: list[Session] = field(default_factory=list)
    engine: OnnxRuntimeEngine = field(default_factory=OnnxRuntimeEngine)

    def __post_init__(self) -> None:
        self.seal()

    def read_plain(self) -> bytes:
        return self.plain.read_bytes()

    def copy_plain(self) -> None:
        with self.plain.open("rb") as source, self.copy.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())

    def seal(self) -> None:
        body = memoryview(self.read_plain())
        self.sealed = seal(
            (body[start : start + (1 << 20)] for start in range(0, len(body), 1 << 20)),
            size=len(body),
            model_digest=hashlib.sha256(body).hexdigest(),
            content_type=ONNX_TYPE,
            target=self.plain.with_suffix(".sealed"),
            key=self.key,
        )

    def read(self, offset: int, length: int) -> Future[bytes]:
        done: Future[bytes] = Future()
        with self.sealed.path.open("rb", buffering=0) as file:
            file.seek(offset)
            done.set_result(file.read(length))
        return done

    def open(self) -> None:
        with opened(read_head(self.read(0, MAX_HEADER_BYTES).result()), self.key, self.read):
            pass

    def load_plain(self) -> None:
        body = self.read_plain()
        hashlib.sha256(body).hexdigest()
        self.sessions.append(self.engine.load(body, {}))

    def load_sealed(self) -> None:
        head = read_head(self.read(0, MAX_HEADER_BYTES).result())
        self.sessions.append(load_sealed(self.engine, head, self.key, self.read))

    def forget(self) -> None:
        """As a process that has loaded nothing yet."""
        while self.sessions:
            close_wiped(self.sessions.pop())
        ctypes.CDLL(None).malloc_trim(0)


def measure(effort: Effort) -> Table:
    """The table of speeds, and goal 8 for time."""
    keep_freed_memory()  # as the server does
    # Each takes a good part of a second.
    once = replace(effort, seconds=0.0, fewest=1, most=1)
    with tempfile.TemporaryDirectory() as folder:
        models = _models(Path(folder), effort)
        megabytes = models.plain.stat().st_size / 1e6
        ways: dict[str, Callable[[], object]] = {
            "read": models.read_plain,
            "copy": models.copy_plain,
            "seal": models.seal,
            "open": models.open,
            "load": models.load_plain,
            "load, sealed": models.load_sealed,
        }
        lanes: list[Lane] = [Repeated(name, way, between=models.forget) for name, way in ways.items()]
        run = interleave(lanes, once)
        models.forget()
        wipe(models.key)
    against = {"seal": "copy", "open": "read", "load, sealed": "load"}
    rows = []
    for name in ways:
        speed = Spread.of(megabytes / micros * 1e6 for micros in run.p50[name])
        compared = f"{against[name]}: {ratio(run.p50[name], run.p50[against[name]]).text(2)}" if name in against else ""
        rows.append([name, Spread.of(m / 1e3 for m in run.p50[name]).text(), speed.text(), compared])
    return Table(
        f"Sealed models, {megabytes:.0f} MB",
        METHOD,
        ["", "milliseconds", "MB/s", "against"],
        rows,
        [
            Goal(
                8,
                "load of a sealed model, against a plain one",
                "all cores",
                LIMIT,
                ratio(run.p50["load, sealed"], run.p50["load"]),
            )
        ],
        raw=run.p50,
    )


def measure_memory(effort: Effort) -> Table:
    """The table of memory, and goal 8 for it."""
    gained: dict[str, list[float]] = {"upload": [], "sealed": []}
    with tempfile.TemporaryDirectory() as folder:
        models = _models(Path(folder), effort)
        size = models.plain.stat().st_size / 1e6
        for _ in range(1 if effort is QUICK else 5):
            for kind, rows in gained.items():
                command = [sys.executable, __file__, "--child", kind, str(models.plain), str(models.sealed.path)]
                child = subprocess.run(command, input=models.key, capture_output=True, check=True)
                rows.append(float(child.stdout) / 1e6)
        wipe(models.key)
    of_upload = ratio(gained["sealed"], gained["upload"])
    return Table(
        f"Memory of a loaded model of {size:.0f} MB",
        MEMORY_METHOD,
        ["", "MB", "against the model's size"],
        [
            [kind, Spread.of(rows).text(), Spread.of(row / size for row in rows).text(2)]
            for kind, rows in gained.items()
        ],
        [Goal(8, "memory of a sealed model, against an upload's", "all cores", MEMORY_LIMIT, of_upload)],
        raw=gained,
    )


def _models(folder: Path, effort: Effort) -> Models:
    plain = folder / "model.onnx"
    plain.write_bytes(matrices(QUICK_MATRICES if effort is QUICK else MATRICES))
    return Models(plain, folder / "copy.onnx", new_data_key())


def _gained(kind: str, plain: Path, sealed: Path) -> int:
    """Load the model as an enclave does, and say what memory that took."""
    keep_freed_memory()
    engine = OnnxRuntimeEngine()
    key = bytearray(sys.stdin.buffer.read())
    engine.load(matrices(1), {}).close()  # what ONNX Runtime takes for itself is not counted
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident()
    kept: list[object] = []
    if kind == "upload":
        body = plain.read_bytes()
        kept += [body, engine.load(body, {})]
    else:

        def read(offset: int, length: int) -> Future[bytes]:
            done: Future[bytes] = Future()
            with sealed.open("rb", buffering=0) as file:
                file.seek(offset)
                done.set_result(file.read(length))
            return done

        kept.append(load_sealed(engine, read_head(read(0, MAX_HEADER_BYTES).result()), key, read))
    after = _resident()
    kept.clear()
    return after - before


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--child", nargs=3, metavar=("KIND", "PLAIN", "SEALED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(_gained(options.child[0], Path(options.child[1]), Path(options.child[2])))
    else:
        chosen = QUICK if options.quick else FULL
        print(measure(chosen).markdown())
        print(measure_memory(chosen).markdown())
