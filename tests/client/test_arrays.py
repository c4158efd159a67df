from __future__ import annotations

import array
import sys
from enum import IntEnum
from functools import partialmethod
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blindai.client.arrays import Array, Literal, is_array, rank_of, read
from blindai.errors import InvalidInput
from blindai.wire.datatype import DATATYPES, Kind, bfloat16_to_float, name_of

INTEGERS = [name for name, known in DATATYPES.items() if known.kind is Kind.INTEGER]
FLOATS = ["BF16", "FP16", "FP32", "FP64"]


def values(given: object, datatype: str | None = None) -> Any:
    return read(given).values(datatype)[1]


def refusal(given: object, datatype: str | None = None) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        read(given).values(datatype)
    return caught.value


# Literals: numbers, text and lists of them.


@pytest.mark.parametrize(
    ("given", "datatype", "shape"),
    [
        (3, "INT64", ()),
        (3.0, "FP32", ()),
        (True, "BOOL", ()),
        ("text", "BYTES", ()),
        (b"bytes", "BYTES", ()),
        ([1, 2], "INT64", (2,)),
        ([1, 2.5], "FP32", (2,)),
        ([[True], [False]], "BOOL", (2, 1)),
        ((("a", b"b"),), "BYTES", (1, 2)),
        ([], "FP32", (0,)),
        ([[], []], "FP32", (2, 0)),
    ],
)
def test_literals_have_default_datatypes(given: object, datatype: str, shape: tuple[int, ...]) -> None:
    got, data = read(given).values()
    assert (got, data.shape, data.dtype.str) == (datatype, shape, DATATYPES[datatype].dtype.str)


@pytest.mark.parametrize("datatype", INTEGERS)
def test_literal_integers_reach_both_ends_of_every_integer_type(datatype: str) -> None:
    limits = np.iinfo(DATATYPES[datatype].dtype)
    assert values([limits.min, limits.max], datatype).tolist() == [limits.min, limits.max]
    assert refusal([limits.max + 1], datatype).code == "input.value"
    assert refusal([limits.min - 1], datatype).code == "input.value"


def test_small_integers_become_floats() -> None:
    assert values([1, 2], "FP32").tolist() == [1.0, 2.0]


def test_integer_beyond_int64_needs_a_wider_type() -> None:
    assert refusal([2**63]).code == "input.value"
    assert values([2**63], "UINT64").tolist() == [2**63]


@pytest.mark.parametrize(("datatype", "limit"), [("BF16", 2**8), ("FP16", 2**11), ("FP32", 2**24), ("FP64", 2**53)])
def test_literal_integers_become_floats_only_exactly(datatype: str, limit: int) -> None:
    got = values([limit, -limit, 2 * limit], datatype)
    exact = bfloat16_to_float(got) if datatype == "BF16" else got
    assert exact.tolist() == [limit, -limit, 2 * limit]
    error = refusal([limit + 1], datatype)
    assert error.code == "input.value"
    assert f"{limit + 1}.0" in error.hint


@pytest.mark.parametrize(
    ("given", "datatype"),
    [
        (1e39, "FP32"),
        (70000.0, "FP16"),
        (3.4e38, "FP16"),
        (3.5e38, "BF16"),
        (10**400, "FP32"),
        ([1.0, -(10**400)], "FP64"),
    ],
)
def test_overflow_is_refused(given: object, datatype: str) -> None:
    assert refusal(given, datatype).code == "input.value"


def test_infinity_and_nan_are_values() -> None:
    for datatype in FLOATS:
        got = values([float("inf"), float("-inf"), float("nan")], datatype)
        floats = bfloat16_to_float(got) if datatype == "BF16" else got
        np.testing.assert_array_equal(floats, [np.inf, -np.inf, np.nan])


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_literal_floats_survive(numbers: list[float]) -> None:
    assert values(numbers, "FP32").tolist() == numbers
    assert values(numbers, "FP64").tolist() == numbers


@pytest.mark.parametrize(
    ("given", "datatype"),
    [
        ([1.0], "INT64"),
        ([1, 2.0], "INT64"),
        ([True], "INT64"),
        ([True], "FP32"),
        ([1], "BOOL"),
        (["1"], "INT64"),
        ([b"1"], "FP32"),
        ([1], "BYTES"),
    ],
)
def test_literals_do_not_change_their_kind(given: object, datatype: str) -> None:
    assert refusal(given, datatype).code == "input.datatype"


@pytest.mark.parametrize("datatype", list(DATATYPES))
def test_empty_list_fits_every_datatype(datatype: str) -> None:
    got, data = read([[]]).values(datatype)
    assert (got, data.shape, data.dtype.str) == (datatype, (1, 0), DATATYPES[datatype].dtype.str)


def test_text_is_utf8() -> None:
    assert values(["é", "", b"\0\xff", bytearray(b"x")]).tolist() == ["é".encode(), b"", b"\0\xff", b"x"]
    assert refusal(["\ud800"]).code == "input.value"


def test_numpy_scalars_in_a_list_are_numbers() -> None:
    value = read([np.float64(0.5), 1, np.int32(2), 0.25])
    assert isinstance(value, Literal)
    assert value.values()[0] == "FP32"
    assert value.values("FP64")[1].tolist() == [0.5, 1.0, 2.0, 0.25]
    assert values([np.bool_(True), False]).tolist() == [True, False]


def test_enumerations_of_integers_are_integers() -> None:
    colour = IntEnum("colour", {"RED": 7})
    assert values([colour.RED], "UINT8").tolist() == [7]


@pytest.mark.parametrize(
    "given",
    [
        [[1, 2], [3]],
        [[1], 2],
        [[1], []],
        [[[1]], [[1, 2]]],
        [["a"], "b"],
        [np.zeros(2), np.zeros(3)],
        [np.zeros((1, 2)), np.zeros(2)],
    ],
)
def test_ragged_lists_are_refused(given: object) -> None:
    error = refusal(given)
    assert error.code == "input.shape"
    assert "ragged" in error.message


def test_list_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert refusal(endless).code == "input.shape"


@pytest.mark.parametrize(
    "given",
    [
        None,
        [None],
        [1, None],
        object(),
        {1, 2},
        {"a": 1},
        iter([1]),
        range(3),
        1j,
        [1j],
        [True, 1],
        ["a", 1],
        [np.zeros(2), 1],
        [np.zeros(2), np.float64(1)],
        [np.zeros(2), np.zeros(2, np.float32)],
        [np.zeros(2), "a"],
        [np.zeros(2), object()],
        np.zeros(2, np.complex64),
        np.zeros(2, "datetime64[s]"),
        np.zeros(2, [("a", "i4")]),
        np.array([1, None], dtype=object),
        np.array([{}], dtype=object),
        np.zeros(2, ml_dtypes.float8_e4m3fn),
    ],
)
def test_what_is_no_tensor_is_refused(given: object) -> None:
    assert refusal(given).code == "input.unsupported_type"


# Arrays, whose datatype the caller chose.


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in {"BF16", "BYTES"}])
def test_contiguous_arrays_are_not_copied(datatype: str) -> None:
    given = np.ones((2, 3), DATATYPES[datatype].dtype)
    got, data = read(given).values(datatype)
    assert got == datatype
    assert np.shares_memory(data, given)


def test_bfloat16_array_is_its_bits_uncopied() -> None:
    given = np.array([1.0, -2.5], ml_dtypes.bfloat16)
    got, data = read(given).values()
    assert got == "BF16"
    assert np.shares_memory(data, given)
    assert bfloat16_to_float(data).tolist() == [1.0, -2.5]


@pytest.mark.parametrize("given", [np.arange(6).reshape(2, 3).T, np.arange(6)[::2], np.arange(3, dtype=">i8")])
def test_other_layouts_become_contiguous_and_little_endian(given: np.ndarray[Any, Any]) -> None:
    got, data = read(given).values()
    assert got == "INT64"
    assert data.flags.c_contiguous
    assert data.dtype.str == "<i8"
    np.testing.assert_array_equal(data, given)


def test_zero_dimensional_arrays_stay_so() -> None:
    assert values(np.float32(1.5)).shape == ()
    assert values(np.array(1.5)).shape == ()
    assert read(np.float64(1.5)).values()[0] == "FP64"


@given(hnp.arrays(hnp.integer_dtypes(), hnp.array_shapes(max_side=4)), st.sampled_from(INTEGERS))
def test_integer_arrays_convert_exactly_or_not_at_all(given: np.ndarray[Any, Any], datatype: str) -> None:
    limits = np.iinfo(DATATYPES[datatype].dtype)
    if all(limits.min <= item <= limits.max for item in given.ravel().tolist()):
        np.testing.assert_array_equal(values(given, datatype), given)
        assert values(given, datatype).dtype == DATATYPES[datatype].dtype
    else:
        assert refusal(given, datatype).code == "input.value"


@pytest.mark.parametrize("source", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("datatype", FLOATS)
def test_float_arrays_widen_and_only_float64_narrows(source: type, datatype: str) -> None:
    given: np.ndarray[Any, Any] = np.array([0.1, -2.0, np.nan], source)
    name = name_of(given.dtype)
    widens = {("FP16", "FP32"), ("FP16", "FP64"), ("BF16", "FP32"), ("BF16", "FP64"), ("FP32", "FP64")}
    if name == datatype or (name, datatype) in widens:
        got = values(given, datatype)
        exact = bfloat16_to_float(got) if datatype == "BF16" else got
        np.testing.assert_array_equal(exact, given.astype(exact.dtype))
    elif (name, datatype) == ("FP64", "FP32"):
        np.testing.assert_array_equal(values(given, datatype), given.astype(np.float32))
    else:
        assert refusal(given, datatype).code == "input.datatype"


def test_float64_array_that_overflows_float32_is_refused() -> None:
    assert refusal(np.array([1.0, 1e39]), "FP32").code == "input.value"
    np.testing.assert_array_equal(values(np.array([np.inf]), "FP32"), [np.inf])


@pytest.mark.parametrize(
    ("given", "datatype", "advice"),
    [
        (np.zeros(2, np.int64), "FP32", "x.astype(np.float32)"),
        (np.zeros(2, np.uint8), "FP32", "x.astype(np.float32)"),
        (np.zeros(2, np.float32), "INT64", "x.astype(np.int64)"),
        (np.zeros(2, np.float32), "FP16", "x.astype(np.float16)"),
        (np.zeros(2, np.float32), "BF16", "x.astype(ml_dtypes.bfloat16)"),
        (np.zeros(2, np.int64), "BOOL", "x.astype(np.bool)"),
        (np.zeros(2, np.bool_), "INT64", "x.astype(np.int64)"),
        (np.array(["1"]), "FP32", "x.astype(np.float32)"),
        (np.zeros(2), "BYTES", "str or bytes"),
    ],
)
def test_arrays_do_not_change_their_kind_and_the_cast_is_named(
    given: np.ndarray[Any, Any], datatype: str, advice: str
) -> None:
    error = refusal(given, datatype)
    assert error.code == "input.datatype"
    assert advice in error.hint


@pytest.mark.parametrize(
    "given",
    [
        np.array(["é", "b"]),
        np.array(["é".encode(), b"b"]),
        np.array(["é", b"b"], dtype=object),
        np.array(["é", "b"], dtype=np.dtypes.StringDType()),
    ],
)
def test_arrays_of_text_become_bytes(given: np.ndarray[Any, Any]) -> None:
    got, data = read(given).values()
    assert got == "BYTES"
    assert data.tolist() == ["é".encode(), b"b"]


def test_list_of_arrays_is_stacked() -> None:
    one, two = np.arange(3), np.arange(3, 6)
    np.testing.assert_array_equal(values([one, two]), np.stack([one, two]))
    assert values([[one], [two]]).shape == (2, 1, 3)
    assert refusal([one, two], "FP32").code == "input.datatype"


def test_masked_arrays_are_refused_when_something_is_masked() -> None:
    assert refusal(np.ma.masked_array([1, 2], mask=[True, False])).code == "input.unsupported_type"
    assert values(np.ma.masked_array([1, 2])).tolist() == [1, 2]


def test_memoryview_is_an_array() -> None:
    given: array.array[float] = array.array("f", [1.0, 2.0])
    got, data = read(memoryview(given)).values()
    assert got == "FP32"
    assert np.shares_memory(data, np.asarray(given))


# Arrays of other libraries, by the protocols they speak.


class WithArray:
    """pandas, TensorFlow and JAX."""

    shape = (2,)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array([1, 2], np.int32)


class WithInterface:
    """Pillow."""

    pixels = np.array([[1, 2]], np.uint8)  # the interface holds an address, not the memory
    __array_interface__ = pixels.__array_interface__


class OnGpu:
    """CuPy: refuses to become a NumPy array in passing, but follows DLPack's request for a copy on the host."""

    def __init__(self, *, reachable: bool = True) -> None:
        self.reachable = reachable

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, *, dl_device: tuple[int, int] | None = None, **_: Any) -> Any:
        if not self.reachable or dl_device != (1, 0):
            raise BufferError("it stays where it is")
        return np.array([5.0, 6.0], np.float32).__dlpack__()


def test_array_protocols_are_spoken() -> None:
    assert read(WithArray()).values()[0] == "INT32"
    assert values(WithArray()).tolist() == [1, 2]
    assert read(WithInterface()).values()[0] == "UINT8"
    assert values(WithInterface()).tolist() == [[1, 2]]
    assert values(OnGpu()).tolist() == [5.0, 6.0]


def test_array_that_cannot_leave_its_device_is_refused() -> None:
    error = refusal(OnGpu(reachable=False))
    assert error.code == "input.unsupported_type"
    assert "Implicit conversion" in error.message


class Private:
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        raise ValueError("not for you")


def test_array_that_refuses_is_refused() -> None:
    error = refusal(Private())
    assert error.code == "input.unsupported_type"
    assert "not for you" in error.message


class StandIn:
    """As much of torch.Tensor as is used; tests/client/test_torch.py meets the real one where it is installed."""

    def __init__(
        self, data: np.ndarray[Any, Any], dtype: str, device: str = "cpu", steps: tuple[str, ...] = ()
    ) -> None:
        self.data, self.dtype, self.steps = data, dtype, steps
        self.device, self.layout, self.is_quantized = SimpleNamespace(type=device), "strided", False

    def __array__(self) -> np.ndarray[Any, Any]:
        raise AssertionError("torch's own conversion knows neither bfloat16 nor gradients")

    def after(self, step: str) -> StandIn:
        return StandIn(self.data, self.dtype, "cpu" if step == "cpu" else self.device.type, (*self.steps, step))

    detach = partialmethod(after, "detach")
    cpu = partialmethod(after, "cpu")
    resolve_conj = partialmethod(after, "resolve_conj")
    resolve_neg = partialmethod(after, "resolve_neg")
    contiguous = partialmethod(after, "contiguous")

    def view(self, dtype: str) -> StandIn:
        assert (self.dtype, dtype) == ("torch.bfloat16", "torch.int16")
        return StandIn(self.data.view(np.int16), dtype, steps=self.steps)

    def numpy(self) -> np.ndarray[Any, Any]:
        assert set(self.steps) == {"detach", "cpu", "resolve_conj", "resolve_neg", "contiguous"}
        if self.dtype == "torch.float8_e4m3fn":
            raise TypeError("Got unsupported ScalarType Float8_e4m3fn")
        return self.data


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(Tensor=StandIn, strided="strided", bfloat16="torch.bfloat16", int16="torch.int16")
    monkeypatch.setitem(sys.modules, "torch", module)


@pytest.mark.usefixtures("torch")
def test_torch_tensors_are_read() -> None:
    data = np.ones((2, 3), np.float32)
    for device in ("cpu", "cuda"):
        assert values(StandIn(data, "torch.float32", device)) is data
    bits = np.array([1.0, -2.0], ml_dtypes.bfloat16)
    datatype, got = read(StandIn(bits, "torch.bfloat16")).values()
    assert (datatype, bfloat16_to_float(got).tolist()) == ("BF16", [1.0, -2.0])
    assert "x.to(torch.int64)" in refusal(StandIn(data, "torch.float32"), "INT64").hint


@pytest.mark.usefixtures("torch")
def test_torch_tensors_that_cannot_be_sent_are_refused() -> None:
    sparse = StandIn(np.ones(2), "torch.float64")
    sparse.layout = "sparse"
    for tensor in (sparse, StandIn(np.ones(2), "torch.float64", "meta"), StandIn(np.ones(2), "torch.float8_e4m3fn")):
        assert refusal(tensor).code == "input.unsupported_type"


def test_rank_is_known_of_arrays_only() -> None:
    assert rank_of(np.zeros((2, 3))) == 2
    assert rank_of(WithArray()) == 1
    assert rank_of(WithInterface()) == 2
    assert rank_of([1]) is None
    assert rank_of(1) is None
    assert is_array(np.float32(1))
    assert not is_array(1.0)


def test_torch_is_not_imported() -> None:
    before = sys.modules.get("torch")
    read(np.zeros(2))
    read(WithArray())
    assert sys.modules.get("torch") is before


def test_values_know_their_shape() -> None:
    assert read([[1, 2]]).shape == (1, 2)
    assert read(np.zeros((3, 4))).shape == (3, 4)
    assert isinstance(read(np.zeros(1)), Array)
