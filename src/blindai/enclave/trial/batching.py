"""Whether requests of different clients may run as one.

What a client is answered must not depend on who asked at the same time: not by one bit, or a client could learn from
its own answers about the requests of others. A model quantised while it runs, for example, takes the range of its
numbers over the whole batch. So every number of rows up to the wanted one is tried, with ordinary and with extreme
neighbours, and each row compared with the answer it gets alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from blindai.enclave.running.batch import cut, stack
from blindai.enclave.trial.agreement import identical
from blindai.enclave.trial.draw import Values, draw
from blindai.enclave.trial.timing import median_us
from blindai.errors import InvalidInput, InvalidModel, QuotaExceeded
from blindai.wire.metadata import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blindai.enclave.engine import Session, TensorSpec
    from blindai.enclave.trial.budget import Budget
    from blindai.enclave.trial.draw import Shape
    from blindai.wire.tensor import Tensor

MIN_GAIN: Final = 1.1
"""Answers a second with batches over answers a second without, below which batches are not worth the wait."""

_SEEDS: Final = ((11, Values.ORDINARY), (12, Values.ORDINARY), (13, Values.EXTREME))


class Batching(NamedTuple):
    """How many rows may run as one, and how many times as many answers a second that gives; 1 and 1.0 where not."""

    max_batch: int = 1
    gain: float = 1.0


NO_BATCHING: Final = Batching()


def measure(session: Session, shapes: Sequence[Shape], *, max_batch: int, run_us: float, budget: Budget) -> Batching:
    """Find out whether batches are exact, and worth it.

    Where the budget ends, so many rows are allowed as were tried by then.

    Args:
        session: the model as it was chosen.
        shapes: shapes that it accepts; all are tried, and the gain is measured on the first.
        run_us: median time of a run on the first shape, one row.

    Raises:
        QuotaExceeded: `quota.load_time`.
    """
    if not _has_rows(session.inputs):
        return NO_BATCHING
    proven = max_batch
    for shape in shapes:
        proven = min(proven, _exact_rows(session, shape, proven, budget))
        if proven == 1:
            return NO_BATCHING
    batch = stack(_singles(session.inputs, shapes[0], proven, 0, Values.ORDINARY))
    gain = proven * run_us / max(median_us(session, batch, budget), 1e-3)
    return Batching(proven, gain) if gain > MIN_GAIN else NO_BATCHING


def _has_rows(specs: Sequence[TensorSpec]) -> bool:
    """Whether every input has a first dimension that the request decides."""
    return bool(specs) and all(spec.ranked and spec.shape[:1] == (VARIABLE,) for spec in specs)


def _exact_rows(session: Session, shape: Shape, max_batch: int, budget: Budget) -> int:
    """The most rows that were tried and changed no bit; 1 where any number of rows changed one."""
    pools = []
    try:
        for seed, values in _SEEDS:
            requests = _singles(session.inputs, shape, max_batch, seed, values)
            pools.append([(request, budget.run(session, request)) for request in requests])
        for rows in range(2, max_batch + 1):
            if budget.left <= 0:
                return rows - 1
            for pool in pools:
                # From the end as well as from the start: which rows are neighbours differs between the two.
                for part in (pool[:rows], pool[: -rows - 1 : -1]):
                    answers = cut(budget.run(session, stack([request for request, _ in part])), [1] * rows)
                    if not all(identical(alone, answer) for (_, alone), answer in zip(part, answers, strict=True)):
                        return 1
    except QuotaExceeded as error:
        if error.code == "quota.load_time":
            raise
        return 1
    except (InvalidInput, InvalidModel):
        # It takes one row and not several, or answers with something else than rows.
        return 1
    return max_batch


def _singles(
    specs: Sequence[TensorSpec], shape: Shape, rows: int, seed: int, values: Values
) -> list[Mapping[str, Tensor]]:
    """Requests of one row each."""
    whole = draw(specs, shape, seed=seed, rows=rows, values=values)
    return [
        {name: type(tensor)(name, tensor.datatype, tensor.data[row : row + 1]) for name, tensor in whole.items()}
        for row in range(rows)
    ]
