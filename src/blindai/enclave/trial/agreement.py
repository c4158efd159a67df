"""Whether two engines give the same answers.

Two engines order the additions of a product of matrices differently, and each order rounds differently. So floats agree
within a tolerance, which stands here for each datatype; everything else must be equal.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from blindai.wire.datatype import bfloat16_to_float

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from blindai.wire.tensor import Tensor

TOLERANCES: Final[Mapping[str, float]] = {
    "FP64": 1e-9,  # 2**-53 is 1e-16; a float32 step in between would show as 1e-7
    "FP32": 1e-4,  # 2**-24 is 6e-8; networks of a hundred layers are seen to differ by 1e-5, one bfloat16 step by 4e-3
    "FP16": 4e-3,  # 2**-11 is 5e-4: the last bit, and what some layers before it make of it
    "BF16": 3e-2,  # 2**-8 is 4e-3, likewise
}
"""The largest |answer - reference| / (1 + |reference|) of each datatype: relative for large answers, absolute for small
ones. Other datatypes must be equal."""

REDUCED_TOLERANCE: Final = 5e-2
"""The same for floats where the configuration lets an engine calculate in bfloat16: 2**-8 at each step, over all of a
network's layers."""


def difference(reference: Sequence[Tensor], answers: Sequence[Tensor]) -> float:
    """The largest |answer - reference| / (1 + |reference|) over all floats; infinite where answers do not compare.

    They do not where a name, datatype or shape is another, an integer, truth value or text is not equal, or a NaN or an
    infinity is not at the same place.
    """
    if len(reference) != len(answers):
        return math.inf
    return max((_difference(one, other) for one, other in zip(reference, answers, strict=True)), default=0.0)


def agree(reference: Sequence[Tensor], answers: Sequence[Tensor], *, reduced: bool = False) -> bool:
    """Whether `answers` are what `reference` says, each output within the tolerance of its datatype."""
    return len(reference) == len(answers) and all(
        _difference(one, other) <= _tolerance(one.datatype, reduced=reduced)
        for one, other in zip(reference, answers, strict=True)
    )


def identical(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether every bit of two answers is the same, names, datatypes and shapes included."""
    return len(one) == len(other) and all(
        _head(left) == _head(right) and _bits(left) == _bits(right) for left, right in zip(one, other, strict=True)
    )


def _tolerance(datatype: str, *, reduced: bool) -> float:
    if datatype not in TOLERANCES:
        return 0.0
    return max(TOLERANCES[datatype], REDUCED_TOLERANCE) if reduced else TOLERANCES[datatype]


def _bits(tensor: Tensor) -> bytes | list[Any]:
    # An array of objects holds addresses: text is compared as text.
    return tensor.data.ravel().tolist() if tensor.datatype == "BYTES" else tensor.data.tobytes()


def _head(tensor: Tensor) -> tuple[str, str, tuple[int, ...]]:
    return tensor.name, tensor.datatype, tensor.data.shape


def _difference(reference: Tensor, answer: Tensor) -> float:
    if _head(reference) != _head(answer):
        return math.inf
    if reference.datatype not in TOLERANCES:
        return 0.0 if np.array_equal(reference.data, answer.data) else math.inf
    expected, got = _floats(reference), _floats(answer)
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], got[~finite], equal_nan=True):
        return math.inf
    expected, got = expected[finite], got[finite]
    if not np.isfinite(got).all():
        return math.inf
    return float(np.max(np.abs(got - expected) / (1 + np.abs(expected)), initial=0.0))


def _floats(tensor: Tensor) -> NDArray[np.float64]:
    data: NDArray[Any] = bfloat16_to_float(tensor.data) if tensor.datatype == "BF16" else tensor.data
    return data.astype(np.float64)
