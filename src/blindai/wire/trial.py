"""What model metadata says of the trial of a model: how it runs, why so, and with which figures.

It is no part of the Open Inference Protocol, whose clients leave members out that they do not know.
"""

from __future__ import annotations

import msgspec


class TriedWay(msgspec.Struct, frozen=True, omit_defaults=True):
    """One way to run the model that was tried.

    Attributes:
        engine: `onnxruntime` or `openvino`.
        threads: of one run.
        precision: `float32`, as the model says, or what it was reduced to.
        run_us: median time of a run in microseconds; 0 where it was not timed.
        difference: the largest of |answer - reference| / (1 + |reference|); -1 where the answers do not compare.
        refused: why it may not be used; empty where it may.
    """

    engine: str
    threads: int
    precision: str
    run_us: float
    difference: float = 0.0
    refused: str = ""


class ModelTrial(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was found out when the model was loaded first.

    Attributes:
        engine, threads, precision: the way that was chosen.
        run_us: median time of a run so, in microseconds.
        shapes: of the made-up inputs that were timed; empty where the model took none that can be made up.
        max_batch: how many such requests may run as one, every bit of every answer staying the same.
        batch_gain: how many times as many answers a second that gives.
        bounded: whether time and memory of a run follow from the shapes of its inputs alone.
        candidates: all ways that were tried, the reference first.
    """

    engine: str
    threads: int
    precision: str
    run_us: float = 0.0
    shapes: dict[str, tuple[int, ...]] = {}
    max_batch: int = 1
    batch_gain: float = 1.0
    bounded: bool = False
    candidates: tuple[TriedWay, ...] = ()
