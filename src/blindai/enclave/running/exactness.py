"""Which batches of one model change no bit of any answer: what is known of it, and what is learnt of it.

Kernels differ with the number of rows, so that a row may come out of a batch in other bits than alone, and a client
would see in its answer who else was asking. The trial shows for one shape of row that this does not happen. For any
other shape it is shown once, by running requests alone as well as together, before any is answered out of a batch.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blindai.enclave.models.description import Description
    from blindai.wire.tensor import Tensor

RowShape: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""Name of each input and its dimensions but the first, by name."""

# Shapes of which something is remembered; those not seen for longest are forgotten and shown again. Text of up to so
# many tokens stays known whole.
_MOST_SHAPES: Final = 512


def row_shape(inputs: Mapping[str, Tensor]) -> RowShape:
    """The shape of a row of these inputs, each of which has a first dimension."""
    if len(inputs) == 1:
        ((name, tensor),) = inputs.items()
        return ((name, tensor.data.shape[1:]),)
    return tuple(sorted((name, tensor.data.shape[1:]) for name, tensor in inputs.items()))


class Exactness:
    """What is known of the batches of one model.

    For each shape of row it holds numbers of rows that were shown to be alike: a row comes out of any of them with the
    same bits. It holds no number where they were shown to differ.

    Args:
        description: of the model; its trial is the first that is known.
    """

    def __init__(self, description: Description) -> None:
        self._alike: OrderedDict[RowShape, set[int] | None] = OrderedDict()
        trial = description.trial
        if trial.max_batch > 1 and trial.shapes and all(shape[:1] == (1,) for shape in trial.shapes.values()):
            tried = tuple(sorted((name, shape[1:]) for name, shape in trial.shapes.items()))
            self._alike[tried] = set(range(1, trial.max_batch + 1))

    def excluded(self, shape: RowShape) -> bool:
        """Whether batches of such rows are known to change answers."""
        return self._alike.get(shape, ()) is None

    def shown(self, shape: RowShape, rows: Sequence[int]) -> bool:
        """Whether requests of so many rows each are known to be answered alike alone and together."""
        alike = self._alike.get(shape)
        if not alike:
            return False
        self._alike.move_to_end(shape)
        return sum(rows) in alike and alike.issuperset(rows)

    def learn(self, shape: RowShape, rows: Sequence[int], *, same: bool) -> None:
        """Learn from requests that were run alone and together, whether all bits were the same."""
        alike = self._alike.setdefault(shape, set())
        if alike is None:
            return
        if not same:
            self._alike[shape] = None
        elif not alike or not alike.isdisjoint((*rows, sum(rows))):
            alike.update(rows, (sum(rows),))
        if len(self._alike) > _MOST_SHAPES:
            self._alike.popitem(last=False)


def same_bits(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two answers are the same to the bit."""
    return len(one) == len(other) and all(
        a.name == b.name
        and a.datatype == b.datatype
        and a.data.shape == b.data.shape
        and (
            bool(np.array_equal(a.data, b.data))
            if a.datatype == "BYTES"
            else a.data.tobytes() == b.data.tobytes()  # not by value: a NaN differs from itself, and 0.0 is -0.0
        )
        for a, b in zip(one, other, strict=True)
    )
