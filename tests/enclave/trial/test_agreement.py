from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blindai.enclave.trial.agreement import REDUCED_TOLERANCE, TOLERANCES, agree, difference, identical
from blindai.wire.datatype import DATATYPES, bfloat16_from_float
from blindai.wire.tensor import Tensor


def answer(*values: Any, datatype: str = "FP32", name: str = "y") -> list[Tensor]:
    wide = np.array(values, dtype=np.float64 if datatype == "BF16" else None)
    data: NDArray[Any] = bfloat16_from_float(wide) if datatype == "BF16" else wide.astype(DATATYPES[datatype].dtype)
    return [Tensor(name, datatype, data)]


@pytest.mark.parametrize("datatype", sorted(TOLERANCES))
def test_floats_agree_within_the_tolerance_of_their_datatype(datatype: str) -> None:
    reference = answer(1.0, 100.0, datatype=datatype)
    # 1 + |reference| is 2 and 101.
    assert agree(reference, answer(1 + TOLERANCES[datatype], 100.0, datatype=datatype))
    assert not agree(reference, answer(1 + 4 * TOLERANCES[datatype], 100.0, datatype=datatype))
    assert not agree(reference, answer(1.0, 100 * (1 + 4 * TOLERANCES[datatype]), datatype=datatype))


def test_the_difference_is_relative_to_large_answers_and_absolute_for_small_ones() -> None:
    assert difference(answer(0.0, 3.0), answer(0.25, 3.0)) == 0.25
    assert difference(answer(0.0, 3.0), answer(0.0, 4.0)) == 0.25


def test_reduced_precision_has_a_tolerance_of_its_own_and_only_for_floats() -> None:
    off = 1 + REDUCED_TOLERANCE
    assert not agree(answer(1.0), answer(off))
    assert agree(answer(1.0), answer(off), reduced=True)
    assert not agree(answer(1.0), answer(1 + 4 * REDUCED_TOLERANCE), reduced=True)
    assert not agree(answer(7, datatype="INT64"), answer(8, datatype="INT64"), reduced=True)


@pytest.mark.parametrize("datatype", ["BOOL", "INT8", "INT64", "UINT64", "BYTES"])
def test_everything_else_must_be_equal(datatype: str) -> None:
    one, other = (b"a", b"b") if datatype == "BYTES" else (0, 1)
    assert agree(answer(one, datatype=datatype), answer(one, datatype=datatype))
    assert not agree(answer(one, datatype=datatype), answer(other, datatype=datatype))


@pytest.mark.parametrize(
    "other",
    [
        answer(1.0, 2.0, name="z"),
        answer(1.0, 2.0, datatype="FP64"),
        answer(1.0),
        answer(1.0, 2.0) * 2,
        [],
        answer(math.nan, 2.0),
        answer(1.0, math.inf),
    ],
)
def test_what_does_not_compare_differs(other: list[Tensor]) -> None:
    assert not agree(answer(1.0, 2.0), other)
    assert difference(answer(1.0, 2.0), other) == math.inf
    assert not agree(other, answer(1.0, 2.0))


def test_what_is_not_finite_must_be_the_same_at_the_same_place() -> None:
    reference = answer(math.nan, math.inf, -math.inf, 1.0)
    assert difference(reference, reference) == 0
    assert not agree(reference, answer(math.nan, math.inf, math.inf, 1.0))
    assert not agree(reference, answer(math.inf, math.nan, -math.inf, 1.0))


def test_no_outputs_and_empty_outputs_agree() -> None:
    assert agree([], [])
    assert agree(answer(), answer())


def test_identical_is_every_bit() -> None:
    assert identical(answer(math.nan, 1.0), answer(math.nan, 1.0))
    assert not identical(answer(0.0), answer(-0.0))
    assert not identical(answer(1.0), answer(np.nextafter(np.float32(1), np.float32(2))))
    assert not identical(answer(1.0), answer(1.0, datatype="FP64"))
    assert not identical(answer(1.0), [])
    assert identical(answer(b"a", datatype="BYTES"), answer(b"a", datatype="BYTES"))
    assert not identical(answer(b"a", datatype="BYTES"), answer(b"b", datatype="BYTES"))
