"""How long a run takes."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blindai.enclave.engine import Session
    from blindai.enclave.trial.budget import Budget
    from blindai.wire.tensor import Tensor

MIN_RUNS: Final = 3
"""The median of fewer says nothing; models that are slow are run so often."""

MAX_RUNS: Final = 50
"""More do not move the median of a run that takes microseconds."""

SECONDS: Final = 0.5
"""For the runs beyond `MIN_RUNS`."""


def median_us(session: Session, inputs: Mapping[str, Tensor], budget: Budget) -> float:
    """The median time of a run in microseconds, after one that does not count; where the budget is spent, of one run.

    Raises:
        InvalidInput, InvalidModel, QuotaExceeded: as `Budget.run`.
    """
    if budget.left > 0:
        budget.run(session, inputs)
    took: list[int] = []
    end = time.monotonic() + SECONDS
    while len(took) < MAX_RUNS:
        begin = time.perf_counter_ns()
        budget.run(session, inputs)
        took.append(time.perf_counter_ns() - begin)
        enough = time.monotonic() >= end and len(took) >= MIN_RUNS
        if enough or budget.left <= 0:
            break
    return statistics.median(took) / 1000
