from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.wire.datatype import DATATYPES, Kind, bfloat16_from_float, bfloat16_to_float, name_of

SIZES = {
    "BOOL": 1, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8,
    "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8, "BYTES": 0,
}  # fmt: skip


def test_the_datatypes_and_their_sizes_are_those_of_the_protocol() -> None:
    assert {name: datatype.size for name, datatype in DATATYPES.items()} == SIZES


def test_only_bytes_has_elements_of_varying_size() -> None:
    assert [name for name, datatype in DATATYPES.items() if datatype.kind is Kind.BYTES] == ["BYTES"]


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ("?", "BOOL"),
        ("i1", "INT8"),
        ("<i8", "INT64"),
        (">i8", "INT64"),
        (">u2", "UINT16"),
        ("f2", "FP16"),
        (">f8", "FP64"),
        (ml_dtypes.bfloat16, "BF16"),
        ("O", "BYTES"),
        ("S3", "BYTES"),
        ("U3", "BYTES"),
        ("c8", None),
        ("M8[s]", None),
        ("g", None),
        (ml_dtypes.float8_e4m3fn, None),
        ([("a", "i4")], None),
    ],
)
def test_a_numpy_dtype_has_a_datatype_or_none(dtype: object, name: str | None) -> None:
    assert name_of(np.dtype(dtype)) == name  # type: ignore[call-overload] # the table mixes every spelling of a dtype


def test_every_bfloat16_survives_the_way_to_float_and_back() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    back = bfloat16_from_float(bfloat16_to_float(bits))
    number = ~np.isnan(bfloat16_to_float(bits))
    assert np.array_equal(back[number], bits[number])
    assert np.isnan(bfloat16_to_float(back[~number])).all()


def test_bfloat16_as_float_agrees_with_ml_dtypes() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    expected = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(bfloat16_to_float(bits), expected, equal_nan=True)


@given(st.lists(st.floats(width=32), max_size=20))
def test_rounding_to_bfloat16_agrees_with_ml_dtypes(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    expected = array.astype(ml_dtypes.bfloat16)
    got = bfloat16_from_float(array).view(ml_dtypes.bfloat16)
    assert np.array_equal(got.astype(np.float32), expected.astype(np.float32), equal_nan=True)


def test_a_scalar_keeps_its_shape() -> None:
    bits = bfloat16_from_float(np.array(np.inf))
    assert bits.shape == ()
    assert bits == 0x7F80
    assert bfloat16_to_float(bits).shape == ()


def test_beyond_the_range_of_float32_is_infinity() -> None:
    assert bfloat16_from_float(np.array([1e300, -1e300, 3.4e38])).tolist() == [0x7F80, 0xFF80, 0x7F80]
