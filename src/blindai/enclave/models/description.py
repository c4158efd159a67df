"""What is known of a model once it was loaded: its inputs and outputs, and what trying it out has shown."""

from __future__ import annotations

import enum

import msgspec

from blindai.enclave.engine import TensorSpec


class Task(enum.StrEnum):
    """What a bundle with a tokenizer does with text; plain models have none."""

    NONE = ""
    EMBED = "embed"
    CLASSIFY = "classify"


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to run a model that was tried.

    Attributes:
        engine: of `config.EngineName`.
        threads: threads of one run.
        precision: `float32` and so on where it is the model's own, else what it was reduced to.
        run_us: median time of a run on the shapes of the trial; 0 where it was not timed.
        difference: the largest of |answer - reference| / (1 + |reference|) over all outputs; 0 for the reference.
        refused: why it may not be used, in words; empty where it may.
    """

    engine: str
    threads: int
    precision: str
    run_us: float
    difference: float = 0.0
    refused: str = ""


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What trying a model out has shown, once, in a confined process, on inputs made up for it.

    Attributes:
        engine, threads, precision: the way that was chosen.
        candidates: all that were tried, the reference first.
        shapes: of the inputs of the trial, by name. Empty where the model could not be tried: it accepts no input that
            can be made up.
        run_us: median time of a run on them, as chosen.
        max_batch: how many such requests may run as one, every bit of every answer staying the same; 1 where not.
        batch_gain: how many times as many answers a second that gives; 1.0 where it is not done.
        bounded: whether time and memory of a run follow from the shapes of its inputs alone, whatever their values.
    """

    engine: str
    threads: int
    precision: str
    candidates: tuple[Candidate, ...] = ()
    shapes: dict[str, tuple[int, ...]] = {}
    run_us: float = 0.0
    max_batch: int = 1
    batch_gain: float = 1.0
    bounded: bool = False


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A loaded model.

    Attributes:
        inputs: what a request must send, in the model's order; `optional` may be sent too.
        outputs: what it may ask for.
        platform: what model metadata calls what runs it.
        memory: bytes that it holds in memory.
        trial: what trying it out has shown.
        task: what it does with text.
        labels: of a classifier of text, in the order of its scores.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    platform: str
    memory: int
    trial: Trial
    optional: tuple[TensorSpec, ...] = ()
    task: Task = Task.NONE
    labels: tuple[str, ...] = ()
