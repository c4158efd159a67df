"""What a caller hands over as one tensor, and how it becomes an array of the datatype that the model declares.

Two kinds of things are told apart. An *array* (NumPy, PyTorch, anything that can become an array) has chosen its
datatype. A *literal* (numbers, text, lists of them) has not, so it takes whatever datatype holds it:

| given                       | goes to                                                                               |
| --------------------------- | ------------------------------------------------------------------------------------- |
| literal integers            | any integer type in whose range they are; any float type that holds them exactly      |
| literal floats              | any float type, to its nearest value; never an integer type                           |
| literal bools, text, bytes  | BOOL, BYTES (text as UTF-8)                                                           |
| integer array               | any integer type in whose range all its values are; never a float type                |
| float array                 | any wider float type; float64, NumPy's default, also FP32, to its nearest value       |
| array of bools, text, bytes | BOOL, BYTES                                                                           |

Nothing overflows silently: a finite number that would become an infinity is refused, as is an integer that would wrap.

PyTorch is never imported: a tensor of it can only be there when its module already is.
"""

from __future__ import annotations

import sys
from itertools import chain
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from blindai.errors import InvalidInput
from blindai.wire.datatype import DATATYPES, Datatype, Kind, bfloat16_from_float, bfloat16_to_float, name_of
from blindai.wire.tensor import MAX_RANK

# Integers up to here, of either sign, are exact: 2 to the bits of the significand (IEEE 754-2019, table 3.5).
_EXACT_INTEGERS: Final = {"BF16": 2**8, "FP16": 2**11, "FP32": 2**24, "FP64": 2**53}

_LITERAL_DATATYPES: Final = {Kind.BOOL: "BOOL", Kind.INTEGER: "INT64", Kind.FLOAT: "FP32", Kind.BYTES: "BYTES"}
_WORDS: Final = {Kind.BOOL: "bools", Kind.INTEGER: "integers", Kind.FLOAT: "floats", Kind.BYTES: "text or bytes"}

# In this order: a bool is an int to Python, and a NumPy string is a str.
_SCALARS: Final[tuple[tuple[tuple[type, ...], Kind], ...]] = (
    ((bool, np.bool_), Kind.BOOL),
    ((int, np.integer), Kind.INTEGER),
    ((float, np.floating), Kind.FLOAT),
    ((str, bytes, bytearray), Kind.BYTES),
)


class Array(msgspec.Struct, frozen=True, eq=False):
    """Values whose datatype the caller chose.

    Attributes:
        datatype: V2 datatype.
        data: C-contiguous, with the dtype of `DATATYPES[datatype]`; shares the caller's memory where that was so.
        library: whose array it was, for advice on how to cast it.
    """

    datatype: str
    data: NDArray[Any]
    library: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def values(self, datatype: str | None = None) -> tuple[str, NDArray[Any]]:
        """The datatype and the values, converted to `datatype` if given, as this module's table allows.

        Raises:
            InvalidInput: `input.datatype`, `input.value`.
        """
        if datatype is None or datatype == self.datatype:
            return self.datatype, self.data
        source, target = DATATYPES[self.datatype], DATATYPES[datatype]
        if source.kind is target.kind is Kind.INTEGER:
            return datatype, _narrowed(self.data, target)
        if source.kind is target.kind is Kind.FLOAT:
            data = bfloat16_to_float(self.data) if self.datatype == "BF16" else self.data
            if datatype != "BF16" and np.can_cast(data.dtype, target.dtype, "safe"):
                return datatype, data.astype(target.dtype)
            if (self.datatype, datatype) == ("FP64", "FP32"):
                return datatype, _rounded(data, target)
        message = f"the model takes {datatype}, the array is {self.datatype} and is not converted silently"
        raise InvalidInput(message, code="input.datatype", hint=_cast_advice(self.library, target))


class Literal(msgspec.Struct, frozen=True, eq=False):
    """Values whose datatype the caller left open.

    Attributes:
        kind: what they are.
        shape: how they were nested.
        leaves: the values in row-major order.
    """

    kind: Kind
    shape: tuple[int, ...]
    leaves: list[Any]

    def values(self, datatype: str | None = None) -> tuple[str, NDArray[Any]]:
        """The datatype and the values in `datatype`; without one, in INT64, FP32, BOOL or BYTES.

        Raises:
            InvalidInput: `input.datatype`, `input.value`.
        """
        datatype = datatype or _LITERAL_DATATYPES[self.kind]
        target = DATATYPES[datatype]
        # A list without elements says nothing of their kind.
        if self.leaves and self.kind is not target.kind and (self.kind, target.kind) != (Kind.INTEGER, Kind.FLOAT):
            message = f"the model takes {datatype}, the values are {_WORDS[self.kind]}"
            raise InvalidInput(message, code="input.datatype", hint="convert them first; nothing is rounded silently")
        return datatype, self._array(target).reshape(self.shape)

    def _array(self, target: Datatype) -> NDArray[Any]:
        if not self.leaves:
            return np.empty(0, dtype=target.dtype)
        if target.kind is Kind.BYTES:
            return _array_of_bytes(self.leaves)
        if target.kind is Kind.INTEGER:
            _require_range(min(self.leaves), max(self.leaves), target)
        if target.kind is not Kind.FLOAT:
            return np.array(self.leaves, dtype=target.dtype)
        try:
            wide = np.array(self.leaves, dtype=np.float64)
        except OverflowError:
            raise _too_large(max(self.leaves, key=abs), target) from None
        floats = wide if target.name == "FP64" else _rounded(wide, target)
        if self.kind is Kind.INTEGER:
            self._require_exact(floats, target)
        return floats

    def _require_exact(self, floats: NDArray[Any], target: Datatype) -> None:
        limit = _EXACT_INTEGERS[target.name]
        if -limit <= min(self.leaves) and max(self.leaves) <= limit:
            return
        exact = bfloat16_to_float(floats) if target.name == "BF16" else floats
        for integer, number in zip(self.leaves, exact.tolist(), strict=True):
            if integer != int(number):
                message = f"the model takes {target.name}, which cannot hold the integer {integer} exactly"
                raise InvalidInput(message, code="input.value", hint=f"write {integer}.0 if the nearest value will do")


Value: TypeAlias = Array | Literal


def read(value: object) -> Value:
    """Read one tensor from whatever it was handed over as.

    Raises:
        InvalidInput: `input.unsupported_type`; `input.shape` for lists of unequal length or too deeply nested;
            `input.value` for text that is not Unicode.
    """
    if type(value) is np.ndarray:  # what most calls pass
        return _from_numpy(value, "numpy")
    if isinstance(value, list | tuple):
        return _read_list(value)
    if is_array(value):
        return _read_array(value)
    kind = _scalar_kind(type(value))
    if kind is None:
        raise _unsupported(type(value))
    return Literal(kind, (), [value])


def is_array(value: object) -> bool:
    """Whether `value` has a datatype of its own. NumPy's scalars do."""
    return isinstance(value, np.ndarray | np.generic | memoryview) or any(
        hasattr(value, protocol) for protocol in ("__array__", "__array_interface__", "__dlpack__")
    )


def rank_of(value: object) -> int | None:
    """Number of dimensions of an array, None for anything else."""
    if not is_array(value):
        return None
    shape = getattr(value, "shape", None)
    return len(shape) if shape is not None else np.ndim(value)  # type: ignore[arg-type]  # it is array-like


def _read_list(value: list[Any] | tuple[Any, ...]) -> Value:
    shape, leaves = _unroll(value)
    types = set(map(type, leaves))
    kinds = {_scalar_kind(kind) for kind in types}
    if None in kinds:
        return _stack(leaves, shape, types)
    if kinds == {Kind.INTEGER, Kind.FLOAT}:
        kinds = {Kind.FLOAT}
    if len(kinds) > 1:
        names = ", ".join(sorted(map(_name, types)))
        raise InvalidInput(f"a list mixes {names}", code="input.unsupported_type", hint="use one type throughout")
    if any(issubclass(kind, np.generic) for kind in types):
        # Inside a list NumPy's scalars are numbers like others: [x.mean(), 0.5] is a list of floats.
        leaves = [leaf.item() if isinstance(leaf, np.generic) else leaf for leaf in leaves]
    return Literal(kinds.pop() or Kind.FLOAT if kinds else Kind.FLOAT, shape, leaves)


def _unroll(value: list[Any] | tuple[Any, ...]) -> tuple[tuple[int, ...], list[Any]]:
    """The shape of nested lists, and what is in the innermost ones. One pass over each level, without recursion."""
    shape = [len(value)]
    level = list(value)
    while level:
        types = set(map(type, level))
        lists = {kind for kind in types if issubclass(kind, list | tuple)}
        if not lists:
            break
        lengths = set(map(len, level)) if lists == types else set()
        if len(lengths) != 1:
            found = (
                "lists and other values" if not lengths else f"lists of {min(lengths)} and of {max(lengths)} elements"
            )
            message = f"a list is ragged: at depth {len(shape)} it holds {found}"
            raise InvalidInput(message, code="input.shape", hint="pad it, so that every row has the same length")
        if len(shape) == MAX_RANK:
            raise InvalidInput(f"a list is nested more than {MAX_RANK} deep", code="input.shape")
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))
    return tuple(shape), level


def _stack(leaves: list[Any], shape: tuple[int, ...], types: set[type]) -> Array:
    """One array from a list of arrays."""
    if any(_scalar_kind(kind) is not None for kind in types):
        names = ", ".join(sorted(map(_name, types)))
        raise InvalidInput(f"a list mixes {names}", code="input.unsupported_type", hint="use one type throughout")
    for leaf in leaves:
        if not is_array(leaf):
            raise _unsupported(type(leaf))
    arrays = [_read_array(leaf) for leaf in leaves]
    datatypes = sorted({array.datatype for array in arrays})
    if len(datatypes) > 1:
        message = f"a list mixes arrays of {', '.join(datatypes)}"
        raise InvalidInput(message, code="input.unsupported_type", hint="convert them to one datatype")
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        message = f"a list is ragged: it holds arrays of shape {list(shapes[0])} and {list(shapes[-1])}"
        raise InvalidInput(message, code="input.shape", hint="pad them, so that every array has the same shape")
    stacked = np.stack([array.data for array in arrays]).reshape(shape + shapes[0])
    return Array(datatypes[0], stacked, arrays[0].library)


def _scalar_kind(kind: type) -> Kind | None:
    return next((known for types, known in _SCALARS if issubclass(kind, types)), None)


def _read_array(value: Any) -> Array:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _read_torch(value, torch)
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        message = "an array has masked values, which no tensor can carry"
        raise InvalidInput(message, code="input.unsupported_type", hint="fill them first: x.filled(value)")
    library = type(value).__module__.partition(".")[0]
    return _from_numpy(_to_numpy(value), "numpy" if library in {"builtins", "numpy"} else library)


def _to_numpy(value: Any) -> NDArray[Any]:
    """Any array as NumPy's. An array elsewhere than in this process's memory is copied if its library agrees."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        # CuPy refuses to be copied from the GPU unless asked in so many words; DLPack 1.0 has these words.
        if hasattr(value, "__dlpack__"):
            try:
                return np.from_dlpack(value, device="cpu")
            except (TypeError, ValueError, RuntimeError, BufferError):
                pass  # the first refusal says more
        message = f"a {_name(type(value))} cannot become a NumPy array: {error}"
        raise InvalidInput(message, code="input.unsupported_type", hint="convert it to a NumPy array") from error


def _from_numpy(array: NDArray[Any], library: str) -> Array:
    # "T" is NumPy's variable-length text, whose elements become Python's str like the others'.
    if array.dtype.kind in "OSUT":
        return Array("BYTES", _array_of_bytes(array.ravel().tolist()).reshape(array.shape), library)
    datatype = name_of(array.dtype)
    if datatype is None:
        message = f"arrays of {array.dtype} have no datatype in the Open Inference Protocol"
        raise InvalidInput(message, code="input.unsupported_type", hint=f"it has {', '.join(DATATYPES)}")
    contiguous = np.asarray(array, order="C")
    if datatype == "BF16":
        return Array(datatype, contiguous.view(np.uint16), library)
    return Array(datatype, contiguous.astype(DATATYPES[datatype].dtype, copy=False), library)


def _read_torch(tensor: Any, torch: Any) -> Array:
    if tensor.device.type == "meta" or tensor.layout is not torch.strided or tensor.is_quantized:
        what = "without data (meta)" if tensor.device.type == "meta" else "that is sparse or quantized"
        message = f"a torch.Tensor {what} cannot be sent"
        raise InvalidInput(message, code="input.unsupported_type", hint="send a dense tensor")
    dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if dense.dtype is torch.bfloat16:
        # NumPy has no such type: only the bits go over.
        return Array("BF16", dense.view(torch.int16).numpy().view(np.uint16), "torch")
    try:
        array = dense.numpy()
    except TypeError as error:
        message = f"tensors of {tensor.dtype} have no datatype in the Open Inference Protocol"
        hint = f"it has {', '.join(DATATYPES)}"
        raise InvalidInput(message, code="input.unsupported_type", hint=hint) from error
    return _from_numpy(array, "torch")


def _array_of_bytes(items: list[Any]) -> NDArray[Any]:
    array: NDArray[Any] = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        if isinstance(item, str):
            try:
                array[index] = item.encode()
            except UnicodeEncodeError:
                message = f"text {index} is not Unicode: it has a lone surrogate"
                raise InvalidInput(message, code="input.value", hint="encode it to bytes yourself") from None
        elif isinstance(item, bytes | bytearray):
            array[index] = bytes(item)
        else:
            message = f"an array of objects holds {_name(type(item))}; only str and bytes are sent so"
            hint = "give it a dtype of its own, such as x.astype(np.float32)"
            raise InvalidInput(message, code="input.unsupported_type", hint=hint)
    return array


def _narrowed(data: NDArray[Any], target: Datatype) -> NDArray[Any]:
    if data.size and not np.can_cast(data.dtype, target.dtype, "safe"):
        _require_range(int(data.min()), int(data.max()), target)
    return data.astype(target.dtype)


def _require_range(lowest: int, highest: int, target: Datatype) -> None:
    range_ = np.iinfo(target.dtype)
    for value in (lowest, highest):
        if not range_.min <= value <= range_.max:
            message = f"{value} is outside {target.name}, {range_.min} to {range_.max}"
            raise InvalidInput(message, code="input.value")


def _rounded(wide: NDArray[Any], target: Datatype) -> NDArray[Any]:
    """The nearest values in `target`, which is no wider."""
    if target.name == "BF16":
        narrow: NDArray[Any] = bfloat16_from_float(wide)
        infinite = np.isinf(bfloat16_to_float(narrow))
    else:
        with np.errstate(over="ignore"):
            narrow = wide.astype(target.dtype)
        infinite = np.isinf(narrow)
    overflown = infinite & np.isfinite(wide)
    if overflown.any():
        raise _too_large(wide[overflown].flat[0], target)
    return narrow


def _too_large(value: object, target: Datatype) -> InvalidInput:
    return InvalidInput(f"{value} is beyond the range of {target.name}", code="input.value")


def _cast_advice(library: str, target: Datatype) -> str:
    name = {"BF16": "bfloat16", "BOOL": "bool"}.get(target.name, target.dtype.name)
    if target.kind is Kind.BYTES:
        return "send str or bytes"
    if library == "torch":
        return f"if that is what you mean, cast it: x.to(torch.{name})"
    module = "ml_dtypes" if target.name == "BF16" else "np"
    return f"if that is what you mean, cast it: x.astype({module}.{name})"


def _unsupported(kind: type) -> InvalidInput:
    message = f"a {_name(kind)} is no tensor"
    hint = "send a NumPy array, a torch.Tensor, numbers, text, bytes, or lists of these"
    return InvalidInput(message, code="input.unsupported_type", hint=hint)


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
