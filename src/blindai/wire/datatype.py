"""The datatypes of the Open Inference Protocol V2 and how NumPy holds each of them.

Source: Open Inference Protocol V2, REST, "Tensor Data Types"; Triton, "Binary tensor data extension" (little endian,
row major, one byte per BOOL, a 4-byte length before each BYTES element). BF16 is Triton's addition to the list.

NumPy has no bfloat16: a BF16 tensor is carried as `uint16`, the raw bits, so that nothing here needs a further package.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class Kind(StrEnum):
    """What JSON value stands for one element."""

    BOOL = "bool"
    INTEGER = "integer"
    FLOAT = "float"
    BYTES = "bytes"


class Datatype(msgspec.Struct, frozen=True):
    """One V2 datatype.

    Attributes:
        name: the protocol's name, such as `FP32`.
        dtype: the NumPy dtype of an array that carries it (`object`, holding `bytes`, for BYTES; `uint16` for BF16).
        size: bytes of one element in binary form; 0 for BYTES, whose elements vary.
        kind: what one element is in JSON.
    """

    name: str
    dtype: np.dtype[Any]
    size: int
    kind: Kind


def _fixed(name: str, code: str, kind: Kind) -> Datatype:
    dtype = np.dtype(code)
    return Datatype(name, dtype, dtype.itemsize, kind)


BYTES = Datatype("BYTES", np.dtype(object), 0, Kind.BYTES)

DATATYPES: Mapping[str, Datatype] = {
    datatype.name: datatype
    for datatype in (
        _fixed("BOOL", "?", Kind.BOOL),
        _fixed("INT8", "i1", Kind.INTEGER),
        _fixed("INT16", "<i2", Kind.INTEGER),
        _fixed("INT32", "<i4", Kind.INTEGER),
        _fixed("INT64", "<i8", Kind.INTEGER),
        _fixed("UINT8", "u1", Kind.INTEGER),
        _fixed("UINT16", "<u2", Kind.INTEGER),
        _fixed("UINT32", "<u4", Kind.INTEGER),
        _fixed("UINT64", "<u8", Kind.INTEGER),
        _fixed("FP16", "<f2", Kind.FLOAT),
        _fixed("BF16", "<u2", Kind.FLOAT),
        _fixed("FP32", "<f4", Kind.FLOAT),
        _fixed("FP64", "<f8", Kind.FLOAT),
        BYTES,
    )
}

_NAME_BY_DTYPE: Mapping[str, str] = {d.dtype.str: d.name for d in DATATYPES.values() if d.name not in {"BF16", "BYTES"}}


@lru_cache(maxsize=64)  # NumPy computes `dtype.name` anew each time, which costs more than all else here
def name_of(dtype: np.dtype[Any]) -> str | None:
    """The V2 datatype an array of this NumPy dtype has, or None when the protocol has none for it.

    Byte order does not matter. `uint16` is UINT16: only the bfloat16 of the ml_dtypes package is BF16. Arrays of
    objects, byte strings and text are BYTES.
    """
    if dtype.kind in "OSU":
        return "BYTES"
    if dtype.name == "bfloat16":
        return "BF16"
    return _NAME_BY_DTYPE.get(dtype.newbyteorder("<").str)


def bfloat16_to_float(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 values, all exact, of the bfloat16 numbers whose raw bits are given. The shape is kept."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def bfloat16_from_float(values: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """The raw bits of the bfloat16 numbers nearest to `values`, ties to even. The shape is kept.

    Values are first rounded to float32. What is beyond bfloat16's range becomes an infinity; a NaN stays a (quiet) NaN.
    """
    with np.errstate(over="ignore"):
        wide = np.array(values, dtype=np.float32, order="C")
        bits = wide.view(np.uint32)
        # Adding just under half of the dropped part, plus one where the kept part is odd, carries exactly when it must.
        rounded = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
    return np.where(np.isnan(wide), (bits >> 16) | 0x0040, rounded).astype(np.uint16)
