"""Tries a model out: on which engine, with how many threads, and how many requests at once.

One session is open at a time, so that a trial needs no more memory than the model.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from blindai.enclave.models.description import Candidate, Trial
from blindai.enclave.trial.agreement import agree, difference
from blindai.enclave.trial.batching import NO_BATCHING, measure
from blindai.enclave.trial.draw import Values, draw, shapes
from blindai.enclave.trial.timing import median_us
from blindai.errors import BlindAIError, InvalidInput, InvalidModel, QuotaExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from blindai.enclave.engine import Session
    from blindai.enclave.trial.budget import Budget
    from blindai.enclave.trial.draw import Shape
    from blindai.wire.tensor import Tensor

FLOAT32: Final = "float32"
"""The precision of an engine that calculates with all bits that the model says."""

BFLOAT16: Final = "bfloat16"
"""The precision of an engine that replaces float32 by bfloat16."""

WORTHWHILE: Final = 0.95
"""The reference is left for what takes less than this of its time: medians of one model differ by some percent."""

OTHER_SIZE: Final = 13
"""A second size for the dimensions that the request decides: an odd one, where vectors have ends."""

MAX_ODD: Final = 16
"""Inputs that are given another shape than goes with the others, one after the other; some models have hundreds."""

MAX_REFUSAL: Final = 200
"""Characters kept of why a candidate was refused."""


class Way(NamedTuple):
    """One way to run a model: `engine` as `config.EngineName`, threads of one run, and precision."""

    engine: str
    threads: int
    precision: str


class Tried(NamedTuple):
    """A session, opened the way that its trial chose."""

    session: Session
    trial: Trial


class _Reference(NamedTuple):
    """What the first way answers to made-up inputs, and which it refuses."""

    shapes: Sequence[Shape]
    answers: Sequence[tuple[Mapping[str, Tensor], list[Tensor]]]
    refused: Sequence[Mapping[str, Tensor]]
    run_us: float


def try_out(load: Callable[[Way], Session], ways: Sequence[Way], *, max_batch: int, budget: Budget) -> Tried:
    """Open a model the fastest way whose answers agree with those of the first.

    Args:
        load: opens it.
        ways: what is allowed, the reference first.
        max_batch: most requests that may run as one.

    Raises:
        InvalidModel, QuotaExceeded: as `Engine.load` for the first way; `model.run`, the model cannot run whatever it
            is given; `quota.memory`, and not within its memory; `quota.load_time`.
    """
    bench = _Bench(load)
    way = ways[0]
    session = bench.open(way)
    try:
        reference = _reference(session, budget, compared=len(ways) > 1)
        if reference is None:
            return bench.take(way, Trial(*way, candidates=(Candidate(*way, run_us=0.0),)))
        candidates = [Candidate(*way, run_us=reference.run_us)]
        candidates += [_candidate(bench, other, session, reference, budget) for other in ways[1:]]
        chosen = _fastest(candidates)
        way = Way(chosen.engine, chosen.threads, chosen.precision)
        trial = Trial(
            *way,
            candidates=tuple(candidates),
            shapes={spec.name: reference.shapes[0].of(spec, 1) for spec in session.inputs},
            run_us=chosen.run_us,
        )
        session = bench.open(way)
        batching = NO_BATCHING
        if max_batch > 1:
            batching = measure(session, reference.shapes, max_batch=max_batch, run_us=chosen.run_us, budget=budget)
        return bench.take(way, msgspec.structs.replace(trial, max_batch=batching.max_batch, batch_gain=batching.gain))
    except BlindAIError:
        bench.close()
        raise


class _Bench:
    """Holds the one session that is open."""

    def __init__(self, load: Callable[[Way], Session]) -> None:
        self._load = load
        self._way: Way | None = None
        self._session: Session | None = None

    def open(self, way: Way) -> Session:
        if self._session is None or self._way != way:
            self.close()
            self._session = self._load(way)
            self._way = way
        return self._session

    def take(self, way: Way, trial: Trial) -> Tried:
        return Tried(self.open(way), trial)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None


def _reference(session: Session, budget: Budget, *, compared: bool) -> _Reference | None:
    """What the reference answers; None where it accepts nothing that can be made up."""
    accepted = _accepted(session, budget)
    if accepted is None:
        return None
    tried = [accepted]
    if accepted != (other := msgspec.structs.replace(accepted, size=OTHER_SIZE)) and budget.left > 0:
        sizes = [[shape.of(spec, 1) for spec in session.inputs] for shape in (accepted, other)]
        if sizes[0] != sizes[1] and _answer(session, draw(session.inputs, other, seed=1), budget) is not None:
            tried.append(other)
    run_us = median_us(session, draw(session.inputs, accepted, seed=0), budget)
    answers = []
    refused: list[Mapping[str, Tensor]] = []
    if compared:
        refused = [odd for odd in _odd(session, accepted) if _answer(session, odd, budget) is None]
        wanted = [(shape, seed, Values.ORDINARY) for seed, shape in enumerate([accepted, *tried])]
        for shape, seed, values in [*wanted, (accepted, 0, Values.EXTREME), (accepted, 0, Values.LARGE)]:
            inputs = draw(session.inputs, shape, seed=seed, values=values)
            answer = _answer(session, inputs, budget)
            if answer is not None:
                answers.append((inputs, answer))
    return _Reference(tried, answers, refused, run_us)


def _odd(session: Session, shape: Shape) -> Iterator[Mapping[str, Tensor]]:
    """Inputs of which one has another shape than goes with the others, as far as the signature allows that."""
    usual = draw(session.inputs, shape, seed=0)
    larger = draw(session.inputs, msgspec.structs.replace(shape, size=shape.size + 1), seed=0)
    more = draw(session.inputs, shape, seed=0, rows=2)
    if len(usual) > 1:
        for name in list(usual)[:MAX_ODD]:
            for other in (larger, more):
                if other[name].shape != usual[name].shape:
                    yield {**usual, name: other[name]}


def _accepted(session: Session, budget: Budget) -> Shape | None:
    """The first shape that the model runs on.

    Raises:
        InvalidModel: `model.run`, it is the model's fault that it runs on none.
        QuotaExceeded: `quota.memory`, it needs too much memory on each that it accepts; `quota.load_time`.
    """
    failure: BlindAIError | None = None
    for shape in shapes(session.inputs):
        try:
            budget.run(session, draw(session.inputs, shape, seed=0))
        except InvalidInput:
            pass
        except InvalidModel as error:
            failure = failure or error
        except QuotaExceeded as error:
            if error.code == "quota.load_time":
                raise
            failure = error
        else:
            return shape
        if budget.left <= 0:
            break
    if failure is not None:
        raise failure
    return None


def _answer(session: Session, inputs: Mapping[str, Tensor], budget: Budget) -> list[Tensor] | None:
    """What a model answers; None where it refuses."""
    try:
        return budget.run(session, inputs)
    except (InvalidInput, InvalidModel):
        return None
    except QuotaExceeded as error:
        if error.code == "quota.load_time":
            raise
        return None


def _candidate(bench: _Bench, way: Way, model: Session, reference: _Reference, budget: Budget) -> Candidate:
    """Try another way out."""
    if budget.left <= 0:
        return Candidate(*way, run_us=0.0, refused="the time for the trial was over")
    try:
        session = bench.open(way)
        if session.inputs != model.inputs or session.optional != model.optional:
            return Candidate(*way, run_us=0.0, refused="it sees other inputs in the model")
        worst = 0.0
        for inputs, expected in reference.answers:
            answers = budget.run(session, inputs)
            worst = max(worst, difference(expected, answers))
            if not agree(expected, answers, reduced=way.precision != FLOAT32):
                return Candidate(*way, run_us=0.0, difference=_figure(worst), refused="its answers differ")
        if any(_answer(session, odd, budget) is not None for odd in reference.refused):
            return Candidate(*way, run_us=0.0, refused="it answers where shapes do not go together")
        took = median_us(session, draw(model.inputs, reference.shapes[0], seed=0), budget)
    except BlindAIError as error:
        if error.code == "quota.load_time":
            raise
        return Candidate(*way, run_us=0.0, refused=error.message[:MAX_REFUSAL])
    return Candidate(*way, run_us=took, difference=worst)


def _figure(value: float) -> float:
    """JSON has no infinity."""
    return value if math.isfinite(value) else -1.0


def _fastest(candidates: Sequence[Candidate]) -> Candidate:
    reference, *others = candidates
    best = min((other for other in others if not other.refused), key=lambda other: other.run_us, default=reference)
    return best if best.run_us < WORTHWHILE * reference.run_us else reference
