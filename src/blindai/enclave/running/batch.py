"""Several requests as one run: their inputs stacked along the first dimension, and the outputs cut apart again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from blindai.errors import InvalidModel
from blindai.wire.tensor import Tensor, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

UNBATCHABLE: Final = "model.batch"
"""The code of a run of several requests whose outputs cannot be told apart. No client is answered with it."""


def rows_of(inputs: Mapping[str, Tensor]) -> int:
    """The rows that these inputs add to a batch: their first dimension, where all have the same; else 0."""
    rows = {tensor.data.shape[:1] for tensor in inputs.values()}
    return rows.pop()[0] if len(rows) == 1 and () not in rows else 0


def stack(requests: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """One request that holds the rows of all, in their order.

    Args:
        requests: inputs of the same names, datatypes and dimensions but the first.
    """
    first = requests[0]
    if len(requests) == 1:
        return first
    return {
        name: Tensor(name, tensor.datatype, np.concatenate([request[name].data for request in requests]))
        for name, tensor in first.items()
    }


def cut(outputs: Sequence[Tensor], rows: Sequence[int]) -> list[list[Tensor]]:
    """The outputs of each request out of those of the batch: views, nothing is copied.

    Args:
        outputs: of the batch.
        rows: of each request, in their order.

    Raises:
        InvalidModel: `model.batch`, an output does not have the rows of the batch.
    """
    if len(rows) == 1:
        return [list(outputs)]
    total = sum(rows)
    for tensor in outputs:
        if tensor.data.shape[:1] != (total,):
            message = f"output {quoted(tensor.name)} of a batch of {total} rows has shape {list(tensor.data.shape)}"
            raise InvalidModel(message, code=UNBATCHABLE)
    answers = []
    start = 0
    for count in rows:
        end = start + count
        answers.append([Tensor(tensor.name, tensor.datatype, tensor.data[start:end]) for tensor in outputs])
        start = end
    return answers
