"""What the engine that is chosen at load does to the time of a run, beside tract, the engine of the predecessor."""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import networks
import numpy as np
from machine import pin
from peer import GrpcLane, Peer
from processes import HERE
from report import Goal, Table
from timing import FULL, QUICK, Effort, Repeated, Spread, interleave, ratio

from blindai.enclave.config import EngineName
from blindai.enclave.model_file.opening import OpeningSettings, open_model
from blindai.enclave.trial.agreement import TOLERANCES
from blindai.wire.tensor import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHOD = (
    "Models with the shapes of the predecessor's table and random weights, one request at a time, one thread, no"
    " server. *Ours* is the engine that the trial at load has chosen among ONNX Runtime and OpenVINO, both in float32."
    " *tract* is its own package for Python, in a process of its own on the same core. Both answers are compared first."
)

TRACT = Peer("tract", ("tract==0.23.9", "numpy"), ())

# Slow models need fewer runs: the spread over the rounds shows whether they were enough.
ROUNDS = Effort(rounds=7, seconds=0.2, fewest=3, most=200)

# The two round differently over many layers; the trial compares our own engines more strictly.
TOLERANCE = 100 * TOLERANCES["FP32"]

SETTINGS = OpeningSettings(engines=(EngineName.ONNXRUNTIME, EngineName.OPENVINO), max_batch=1)


class Subject(NamedTuple):
    """A model that is measured; `small` is one of few layers, for a quick look at whether all works."""

    name: str
    build: Callable[[], bytes]
    small: Callable[[], bytes]


SUBJECTS = (
    Subject("DistilBERT, 8 tokens", partial(networks.distilbert, 8), partial(networks.distilbert, 8, layers=1)),
    Subject("DistilBERT, 32 tokens", partial(networks.distilbert, 32), partial(networks.distilbert, 32, layers=1)),
    Subject("DistilBERT, 128 tokens", partial(networks.distilbert, 128), partial(networks.distilbert, 128, layers=1)),
    Subject(
        "ResNet-18",
        partial(networks.resnet, (2, 2, 2, 2), bottleneck=False),
        partial(networks.resnet, (1, 1), bottleneck=False),
    ),
    Subject(
        "ResNet-50",
        partial(networks.resnet, (3, 4, 6, 3), bottleneck=True),
        partial(networks.resnet, (1, 1), bottleneck=True),
    ),
    Subject("Facenet", networks.facenet, partial(networks.facenet, repeats=(1, 1, 1))),
    Subject(
        "wav2vec2, 16,000 samples", partial(networks.wav2vec2, 16_000), partial(networks.wav2vec2, 4_000, layers=1)
    ),
)


def measure(effort: Effort) -> Table:
    """Every model, ours and tract."""
    missing = TRACT.install()
    rows, goals, raw = [], [], {}
    for subject in SUBJECTS:
        row, over, figures = _compared(subject, QUICK if effort is QUICK else ROUNDS, missing, small=effort is QUICK)
        rows.append(row)
        raw[subject.name] = figures
        goals.append(Goal(4, f"{subject.name}: run, against tract", "one core", 1.0, over))
    return Table(
        "Engines",
        METHOD,
        ["model", "chosen", "ours, us", "tract, us", "ours against tract", "ONNX Runtime / OpenVINO at load, us"],
        rows,
        goals,
        [f"tract could not be installed: {missing}"] if missing else (),
        raw,
    )


def _compared(
    subject: Subject, effort: Effort, missing: str, *, small: bool
) -> tuple[Sequence[str], Spread | None, dict[str, list[float]]]:
    content = (subject.small if small else subject.build)()
    session, description = open_model(memoryview(content), bundle=False, settings=SETTINGS)
    trial = description.trial
    at_load = " / ".join(candidate.refused or f"{candidate.run_us:.0f}" for candidate in trial.candidates)
    (spec,) = session.inputs
    random = np.random.default_rng(3)
    values = (
        random.integers(0, 1000, spec.shape)
        if spec.datatype == "INT64"
        else random.uniform(-1, 1, spec.shape).astype(np.float32)
    )
    inputs = {spec.name: Tensor.from_array(spec.name, values)}
    ours = Repeated("ours", lambda: session.run(inputs))
    with ExitStack() as stack:
        stack.callback(session.close)
        lanes: list[Repeated | GrpcLane] = [ours]
        if not missing:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            lanes.append(_tract(stack, folder, content, values, session.run(inputs)[0].data))
        run = interleave(lanes, effort)
    over = None if missing else ratio(run.p50["ours"], run.p50["tract"])
    return (
        [
            subject.name,
            trial.engine,
            run.spread("ours").text(),
            "-" if missing else run.spread("tract").text(),
            "-" if over is None else over.text(2),
            at_load,
        ],
        over,
        run.p50,
    )


def _tract(
    stack: ExitStack,
    folder: Path,
    content: bytes,
    values: NDArray[Any],
    expected: NDArray[Any],
) -> GrpcLane:
    """A process that runs the model in tract; it ends with `stack`.

    Raises:
        RuntimeError: tract does not load the model, or answers otherwise.
    """
    model, given, answer = folder / "model.onnx", folder / "input.npy", folder / "answer.npy"
    model.write_bytes(content)
    np.save(given, values)
    program = str(HERE / "peers" / "tract_engine.py")
    process = subprocess.Popen(
        [str(TRACT.python), program, str(model), str(given), str(answer)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stack.enter_context(process)
    stack.callback(process.kill)
    pin(process.pid, *os.sched_getaffinity(0))
    if process.stdout is None or process.stdout.readline() != "ready\n":
        said = process.stderr.read() if process.stderr else ""
        raise RuntimeError(f"tract does not run the model: {said[-300:]}")
    got = np.load(answer)
    if got.shape != expected.shape or np.max(np.abs(got - expected) / (1 + np.abs(expected))) > TOLERANCE:
        raise RuntimeError("tract and ours answer differently")
    return GrpcLane("tract", process)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small models and few runs, to see that all works")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(measure(QUICK if options.quick else FULL).markdown())
