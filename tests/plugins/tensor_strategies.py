"""Hypothesis strategies for tensors of every V2 datatype, for the tests of the codec and of what uses it."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blindai.wire.datatype import DATATYPES
from blindai.wire.tensor import Tensor

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)


def elements(datatype: str, *, json: bool) -> st.SearchStrategy[Any]:
    """Elements as NumPy holds them; with `json`, only those that JSON can carry."""
    if datatype == "BYTES":
        return st.text(st.characters(codec="utf-8"), max_size=8).map(str.encode) if json else st.binary(max_size=8)
    if datatype == "BF16":
        # The exponent of all ones is infinity and NaN.
        return st.integers(0, 2**16 - 1).filter(lambda bits: not json or bits & 0x7F80 != 0x7F80)
    return hnp.from_dtype(DATATYPES[datatype].dtype, allow_nan=not json, allow_infinity=not json)


@st.composite
def tensors(draw: st.DrawFn, *, json: bool, datatype: str | None = None) -> Tensor:
    """A tensor of any shape, empty and scalar ones included, and of any datatype unless one is given."""
    chosen = datatype or draw(st.sampled_from(sorted(DATATYPES)))
    array = draw(hnp.arrays(DATATYPES[chosen].dtype, SHAPES, elements=elements(chosen, json=json)))
    return Tensor(draw(NAMES), chosen, array)


def assert_same(got: Tensor, expected: Tensor) -> None:
    """Names, datatypes, shapes and every bit of the data are equal."""
    assert (got.name, got.datatype, got.shape) == (expected.name, expected.datatype, expected.shape)
    assert got.data.dtype == expected.data.dtype
    if got.datatype == "BYTES":
        assert got.data.tolist() == expected.data.tolist()
    else:
        assert got.data.tobytes() == expected.data.tobytes()
