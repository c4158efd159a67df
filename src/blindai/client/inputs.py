"""From what a caller passes to `predict` to the tensors of a request.

One input or several, by name or in the model's order:

    predict(model, batch)                                   # a model with one input
    predict(model, (ids, mask))                             # as many values as the model has inputs, in its order
    predict(model, {"input_ids": ids, "attention_mask": mask})

Which datatypes are converted, and which are refused, is the table of `client.arrays`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from blindai.client.arrays import Value, rank_of, read
from blindai.errors import InvalidInput
from blindai.wire.datatype import DATATYPES
from blindai.wire.metadata import VARIABLE, TensorMetadata
from blindai.wire.tensor import Tensor, quoted


def to_tensors(inputs: object, declared: Sequence[TensorMetadata] | None = None) -> list[Tensor]:
    """The tensors to send, in the order of `declared`.

    Args:
        inputs: a value for a model with one input; a list or tuple of values in order; or a mapping of values by name.
        declared: the model's inputs, where they are known. Without them `inputs` must be a mapping, literals get
            their default datatypes, and it is for the server to check names, datatypes and shapes.

    Raises:
        InvalidInput: `input.name` for a name the model does not have, `input.missing` for an input without a value or
            values without an input, `input.datatype`, `input.shape`, `input.value`, `input.unsupported_type`.
    """
    if declared is None:
        if not isinstance(inputs, Mapping):
            message = "the model's inputs are not known here, so each value needs a name"
            raise InvalidInput(message, code="input.name", hint="pass a dict of values by input name")
        return [_tensor(_text(name), value, None) for name, value in inputs.items()]
    named = _by_name(inputs, declared)
    return [_tensor(one.name, named[one.name], one) for one in declared]


def _by_name(inputs: object, declared: Sequence[TensorMetadata]) -> Mapping[Any, Any]:
    """The value of each declared input."""
    names = [one.name for one in declared]
    if isinstance(inputs, Mapping):
        unknown = [name for name in inputs if name not in names]
        if unknown:
            message = f"the model has no input {', '.join(quoted(str(name)) for name in unknown)}"
            raise InvalidInput(message, code="input.name", hint=_takes(declared))
        missing = [name for name in names if name not in inputs]
        if missing:
            message = f"no value for input {', '.join(map(quoted, missing))}"
            raise InvalidInput(message, code="input.missing", hint=_takes(declared))
        return inputs
    if len(declared) == 1:
        return {names[0]: _only(inputs, declared[0])}
    if not isinstance(inputs, list | tuple):
        message = f"one value was given, the model takes {len(declared)} inputs"
        raise InvalidInput(message, code="input.missing", hint=_takes(declared))
    if len(inputs) != len(declared):
        message = f"{len(inputs)} values were given, the model takes {len(declared)} inputs"
        raise InvalidInput(message, code="input.missing", hint=_takes(declared))
    return dict(zip(names, inputs, strict=True))


def _only(inputs: object, declared: TensorMetadata) -> object:
    """The value of a model's only input.

    A list is one tensor. Only [array] with an array that already has all the dimensions of the input, to which the
    list would add one too many, can mean nothing but "the values in order".
    """
    if isinstance(inputs, list | tuple) and len(inputs) == 1 and declared.shape:
        rank = rank_of(inputs[0])
        if rank is not None and rank == len(declared.shape):
            return inputs[0]
    return inputs


def _tensor(name: str, given: object, declared: TensorMetadata | None) -> Tensor:
    try:
        value = read(given)
        if declared is not None:
            _require_shape(value, declared)
        datatype, data = value.values(_known_datatype(declared))
    except InvalidInput as error:
        raise InvalidInput(f"input {quoted(name)}: {error.message}", code=error.code, hint=error.hint) from error
    return Tensor(name, datatype, data)


def _known_datatype(declared: TensorMetadata | None) -> str | None:
    """The datatype to convert to. One that this version does not know is left for the server to judge."""
    return declared.datatype if declared is not None and declared.datatype in DATATYPES else None


def _require_shape(value: Value, declared: TensorMetadata) -> None:
    # ONNX Runtime reports [] both for a scalar and for a shape it does not know, so it says nothing.
    if not declared.shape:
        return
    shape = value.shape
    if _fits(shape, declared.shape):
        return
    message = f"the model takes shape {list(declared.shape)} (-1: any), got {list(shape)}"
    hint = ""
    if _fits(shape, declared.shape[1:]) and declared.shape[0] in {VARIABLE, 1}:
        hint = "a batch dimension is missing: for one sample send x[None]"
    raise InvalidInput(message, code="input.shape", hint=hint)


def _fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    return len(shape) == len(declared) and all(
        want in {VARIABLE, have} for want, have in zip(declared, shape, strict=True)
    )


def _takes(declared: Sequence[TensorMetadata]) -> str:
    return f"the model takes {', '.join(map(str, declared))}"


def _text(name: object) -> str:
    if not isinstance(name, str):
        message = f"input names are text, got {type(name).__name__}"
        raise InvalidInput(message, code="input.name")
    return name
