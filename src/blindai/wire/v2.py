"""Inference requests and responses of the Open Inference Protocol V2, as bytes and back; no I/O.

Sources: Open Inference Protocol V2, REST, "Inference"; Triton, "Binary tensor data extension". One body is a JSON
message, and after it, in the order of the tensors, the bytes of those sent in binary form; the HTTP header
`Inference-Header-Content-Length` then gives the length of the JSON part.

Encoders return a list of buffers to be sent one after the other: tensors are not copied. Decoders return tensors that
are views of the body. Requests with members the protocol does not know are refused, since a misspelt `outputs` would
otherwise change the answer; within `parameters` anything is accepted, as the protocol says; responses may grow.

Every refusal is an InvalidInput:

    input.json           not JSON: syntax, text that is not UTF-8, nesting too deep
    input.message        JSON, but not this message: a member of the wrong type, missing or unknown
    input.header_length  Inference-Header-Content-Length is no length within the body
    input.too_large      more JSON or more tensors than the limits allow
    input.name           a tensor without a name, or two with the same
    input.datatype       a datatype the protocol does not have
    input.shape          a negative dimension, too many of them, too many elements
    input.size           binary data of another size than the shape needs, or left over
    input.data           neither or both of JSON and binary data; another number of elements than the shape says
    input.value          an element of another type, or out of its range
    input.nan_in_json    NaN or Infinity in JSON mode
    input.bytes_in_json  BYTES that are not UTF-8 in JSON mode
    input.unsupported    an extension this server does not have: shared memory, classification
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec

from blindai.errors import InvalidInput
from blindai.wire.layout import MAX_HEADER_BYTES, Layout, Memory, data_of, described, has_layout
from blindai.wire.tensor import Buffer, Tensor, from_binary, from_json, nan_in_json, quoted, to_binary, to_json

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

__all__ = [
    "HEADER_LENGTH",
    "MAX_HEADER_BYTES",
    "MAX_JSON_BYTES",
    "MAX_TENSORS",
    "InferRequest",
    "InferResponse",
    "Limits",
    "Tensor",
    "decode_request",
    "decode_response",
    "encode_request",
    "encode_response",
    "known_request",
    "parse_header_length",
]

HEADER_LENGTH = "inference-header-content-length"
"""The HTTP header, in lower case, that carries the length of the JSON part."""

MAX_TENSORS = 1024
"""Tensors in one message: above the widest tables and key-value caches in use, far below what would cost time."""

MAX_JSON_BYTES = 64 * 1024 * 1024
"""JSON in one message. As Python objects it takes some ten times its size, so it is bounded apart from the body, which
binary tensors may fill at no such cost."""

_ALIGNMENT = 64
"""Binary data starts at a multiple of this, the JSON being padded with spaces, so that the receiver's first array is
aligned and needs no copy. 64 bytes are a cache line and the widest vector register."""

Parameters: TypeAlias = dict[str, bool | int | float | str]
Message: TypeAlias = "tuple[list[bytes | memoryview], int | None]"
"""Buffers to send in order, and the length of the JSON part or None where all is JSON."""


class Limits(msgspec.Struct, frozen=True):
    """What a decoder accepts of a peer.

    Attributes:
        json_bytes: bytes of JSON, with or without binary data behind it.
        tensors: inputs, and requested outputs, of one message.
    """

    json_bytes: int = MAX_JSON_BYTES
    tensors: int = MAX_TENSORS


class InferRequest(msgspec.Struct, frozen=True, eq=False):
    """A decoded inference request.

    Attributes:
        inputs: the tensors, in the order sent, no two of the same name.
        outputs: names of the wanted outputs, in the order wanted; empty means all.
        binary: which outputs are wanted in binary form: all (True), none (False), or those named.
        id: the caller's identifier, to be repeated in the response.
        parameters: the request's parameters, `binary_data_output` among them.
        model_name: the model the message itself names; some clients do. The address decides; empty where absent.
        model_version: likewise.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()
    binary: bool | frozenset[str] = False
    id: str = ""
    parameters: Parameters = {}
    model_name: str = ""
    model_version: str = ""


class InferResponse(msgspec.Struct, frozen=True, eq=False):
    """A decoded inference response.

    Attributes:
        outputs: the tensors, in the order sent, no two of the same name.
        model_name, model_version: the model that answered; empty where the server did not say.
        id: the identifier of the request.
        parameters: the response's parameters.
    """

    outputs: tuple[Tensor, ...]
    model_name: str = ""
    model_version: str = ""
    id: str = ""
    parameters: Parameters = {}


class _TensorParameters(msgspec.Struct, omit_defaults=True):
    binary_data_size: int | None = None
    shared_memory_region: str | None = None


class _OutputParameters(msgspec.Struct, omit_defaults=True):
    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


_NO_TENSOR_PARAMETERS = _TensorParameters()
_NO_OUTPUT_PARAMETERS = _OutputParameters()


class _TensorMessage(msgspec.Struct, omit_defaults=True):
    # Name, datatype and shape have defaults so that their absence is refused by name, with its own code.
    name: str = ""
    datatype: str = ""
    shape: tuple[int, ...] | None = None
    parameters: _TensorParameters | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _InputMessage(_TensorMessage, forbid_unknown_fields=True):
    pass


class _OutputMessage(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    name: str = ""
    parameters: _OutputParameters | None = None


class _RequestMessage(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    inputs: list[_InputMessage]
    id: str = ""
    parameters: Parameters = {}
    outputs: list[_OutputMessage] = []
    model_name: str = ""
    model_version: str = ""


class _ResponseMessage(msgspec.Struct, omit_defaults=True):
    outputs: list[_TensorMessage]
    model_name: str = ""
    model_version: str = ""
    id: str = ""
    parameters: Parameters = {}


_T = TypeVar("_T")
_ENCODER = msgspec.json.Encoder()
_REQUEST = msgspec.json.Decoder(_RequestMessage)
_RESPONSE = msgspec.json.Decoder(_ResponseMessage)
_NOT_A_NUMBER = re.compile(rb"[\[,:\s]-?(?:NaN|Infinity)\b")
_DEFAULT_LIMITS = Limits()

# Parameters of a request that are the protocol's own and say nothing of the caller.
_PLAIN_PARAMETERS: tuple[Parameters, ...] = ({}, {"binary_data_output": True}, {"binary_data_output": False})

# What was read, by the JSON; what was written, by what it says. A message is kept without its tensors.
_read_requests: Memory[bytes, tuple[Layout, InferRequest]] = Memory()
_read_responses: Memory[bytes, tuple[Layout, InferResponse]] = Memory()
_written_requests: Memory[tuple[object, ...], bytes] = Memory()
_written_responses: Memory[tuple[object, ...], bytes] = Memory()


def decode_request(body: Buffer, header_length: int | None = None, *, limits: Limits = _DEFAULT_LIMITS) -> InferRequest:
    """Reads an inference request.

    `body` must be contiguous and must not change while the tensors are in use: they are views of it. `header_length` is
    the length of its JSON part, None when all of it is JSON.

    Raises:
        InvalidInput: see the table at the top.
    """
    header = _short_header(body, header_length, limits)
    if header is not None and header_length is not None and (known := _read_requests.get(header)) is not None:
        layout, past = known
        if layout.size == len(body) - header_length:
            tensors = layout.tensors(body, header_length)
            return InferRequest(
                tensors, past.outputs, past.binary, "", dict(past.parameters), past.model_name, past.model_version
            )
    message, position = _decode(_REQUEST, body, header_length, limits)
    tensors = _tensors(message.inputs, body, position, limits)
    default = message.parameters.get("binary_data_output", False)
    if type(default) is not bool:
        raise InvalidInput("parameters.binary_data_output must be true or false", code="input.message")
    outputs, binary = _requested(message.outputs, limits, default=default) if message.outputs else ((), default)
    request = InferRequest(
        tensors, outputs, binary, message.id, message.parameters, message.model_name, message.model_version
    )
    if header is not None and not message.id and message.parameters in _PLAIN_PARAMETERS:
        _keep(
            _read_requests,
            header,
            message.inputs,
            tensors,
            msgspec.structs.replace(request, inputs=(), parameters=dict(request.parameters)),
        )
    return request


def known_request(header: bytes) -> tuple[Layout, InferRequest] | None:
    """Where the tensors of requests with this JSON are, and the request without them; None where that is not kept."""
    return _read_requests.get(header)


def encode_request(
    inputs: Sequence[Tensor],
    outputs: Sequence[str] | None = None,
    *,
    binary: bool = True,
    id: str = "",  # noqa: A002 - the protocol's own name
    parameters: Mapping[str, bool | int | float | str] | None = None,
) -> Message:
    """Writes an inference request that sends `inputs`, and asks for `outputs` (all when None), in the form given.

    Raises:
        InvalidInput: `input.nan_in_json`, `input.bytes_in_json`, and `input.datatype` or `input.value` for a tensor
            whose array is not what its datatype says.
    """
    key: tuple[object, ...] | None = None
    if binary and not id and not parameters and has_layout(inputs):
        key = described(inputs), tuple(outputs or ())
        if (header := _written_requests.get(key)) is not None:
            return [header, *map(data_of, inputs)], len(header)
    given: Parameters = dict(parameters) if parameters else {}
    if binary and not outputs:
        given.setdefault("binary_data_output", True)
    tensors, payloads = _messages(_InputMessage, inputs, binary=binary)
    wanted = [_OutputMessage(name, _OutputParameters(binary_data=True) if binary else None) for name in outputs or ()]
    return _join(_RequestMessage(tensors, id, given, wanted), payloads, _written_requests, key)


def decode_response(
    body: Buffer, header_length: int | None = None, *, limits: Limits = _DEFAULT_LIMITS
) -> InferResponse:
    """Reads an inference response; arguments and errors as for `decode_request`."""
    header = _short_header(body, header_length, limits)
    if header is not None and header_length is not None and (known := _read_responses.get(header)) is not None:
        layout, past = known
        if layout.size == len(body) - header_length:
            return InferResponse(layout.tensors(body, header_length), past.model_name, past.model_version)
    message, position = _decode(_RESPONSE, body, header_length, limits)
    tensors = _tensors(message.outputs, body, position, limits)
    response = InferResponse(tensors, message.model_name, message.model_version, message.id, message.parameters)
    if header is not None and not message.id and not message.parameters:
        _keep(_read_responses, header, message.outputs, tensors, msgspec.structs.replace(response, outputs=()))
    return response


def encode_response(
    outputs: Sequence[Tensor],
    *,
    model_name: str,
    model_version: str = "",
    id: str = "",  # noqa: A002 - the protocol's own name
    parameters: Mapping[str, bool | int | float | str] | None = None,
    binary: bool | Collection[str] = True,
) -> Message:
    """Writes an inference response. `binary` is `InferRequest.binary`: the form each output was asked for in.

    Raises:
        InvalidInput: as `encode_request`.
    """
    key: tuple[object, ...] | None = None
    if binary is True and not id and not parameters and has_layout(outputs):
        key = model_name, model_version, described(outputs)
        if (header := _written_responses.get(key)) is not None:
            return [header, *map(data_of, outputs)], len(header)
    tensors, payloads = _messages(_TensorMessage, outputs, binary=binary)
    given = dict(parameters) if parameters else {}
    return _join(_ResponseMessage(tensors, model_name, model_version, id, given), payloads, _written_responses, key)


def parse_header_length(value: str | bytes | None) -> int | None:
    """The value of the `Inference-Header-Content-Length` header as a number; None where the header is absent.

    Raises:
        InvalidInput: `input.header_length` for anything but 1 to 15 ASCII digits.
    """
    if value is None:
        return None
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        message = f"Inference-Header-Content-Length must be a decimal number of bytes, got {quoted(text)}"
        raise InvalidInput(message, code="input.header_length")
    return int(text)


def _decode(
    decoder: msgspec.json.Decoder[_T], body: Buffer, header_length: int | None, limits: Limits
) -> tuple[_T, int]:
    """Reads the JSON part; returns it with its length."""
    total = len(body)
    if header_length is None:
        header_length = total
    elif not 0 <= header_length <= total:
        message = f"Inference-Header-Content-Length is {header_length}, the body has {total} bytes"
        raise InvalidInput(message, code="input.header_length")
    if header_length > limits.json_bytes:
        message = f"{header_length} bytes of JSON, at most {limits.json_bytes} are accepted"
        raise InvalidInput(message, code="input.too_large", hint="send large tensors as binary data")
    header = body if header_length == total else memoryview(body)[:header_length]
    try:
        return decoder.decode(header), header_length
    except msgspec.ValidationError as error:
        raise InvalidInput(f"not an inference message: {error}", code="input.message") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if _NOT_A_NUMBER.search(header):
            raise nan_in_json("") from None
        raise InvalidInput(f"the message is not JSON: {error}", code="input.json") from None
    except RecursionError:
        raise InvalidInput("the message is not JSON: nested too deep", code="input.json") from None


def _tensors(messages: Sequence[_TensorMessage], body: Buffer, position: int, limits: Limits) -> tuple[Tensor, ...]:
    """The tensors of a message; binary data starts at `position` and must end with the body."""
    if len(messages) > limits.tensors:
        message = f"{len(messages)} tensors, at most {limits.tensors} are accepted"
        raise InvalidInput(message, code="input.too_large")
    view = memoryview(body)
    end = len(view)
    tensors = []
    for item in messages:
        name, shape = item.name, item.shape
        if not name:
            raise InvalidInput("a tensor has no name", code="input.name")
        if shape is None:
            raise InvalidInput(f"tensor {quoted(name)}: shape is missing", code="input.shape")
        given = item.parameters or _NO_TENSOR_PARAMETERS
        size = given.binary_data_size
        if size is None:
            tensors.append(_json_tensor(item, name, shape, given))
            continue
        if item.data is not msgspec.UNSET:
            message = f"tensor {quoted(name)}: has both data and binary_data_size"
            raise InvalidInput(message, code="input.data")
        if not 0 <= size <= end - position:
            message = f"tensor {quoted(name)}: binary_data_size is {size}, {end - position} bytes are left in the body"
            raise InvalidInput(message, code="input.size")
        tensors.append(from_binary(name, item.datatype, shape, view[position : position + size]))
        position += size
    if position != end:
        raise InvalidInput(f"{end - position} bytes are left after the last tensor", code="input.size")
    if len(tensors) > 1:
        _refuse_duplicates([tensor.name for tensor in tensors])
    return tuple(tensors)


def _json_tensor(item: _TensorMessage, name: str, shape: tuple[int, ...], given: _TensorParameters) -> Tensor:
    if given.shared_memory_region is not None:
        message = f"tensor {quoted(name)}: shared memory is not offered, an enclave shares none with its clients"
        raise InvalidInput(message, code="input.unsupported")
    if isinstance(item.data, msgspec.UnsetType):
        message = f"tensor {quoted(name)}: has neither data nor binary_data_size"
        raise InvalidInput(message, code="input.data")
    return from_json(name, item.datatype, shape, memoryview(item.data))


def _requested(
    messages: Sequence[_OutputMessage], limits: Limits, *, default: bool
) -> tuple[tuple[str, ...], frozenset[str]]:
    """The names of the requested outputs, and of those wanted in binary form."""
    if len(messages) > limits.tensors:
        message = f"{len(messages)} requested outputs, at most {limits.tensors} are accepted"
        raise InvalidInput(message, code="input.too_large")
    binary = []
    for item in messages:
        if not item.name:
            raise InvalidInput("a requested output has no name", code="input.name")
        given = item.parameters or _NO_OUTPUT_PARAMETERS
        if given.classification or given.shared_memory_region is not None:
            message = f"output {quoted(item.name)}: classification and shared memory are not offered"
            raise InvalidInput(message, code="input.unsupported")
        if default if given.binary_data is None else given.binary_data:
            binary.append(item.name)
    names = tuple(item.name for item in messages)
    _refuse_duplicates(names)
    return names, frozenset(binary)


def _refuse_duplicates(names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise InvalidInput(f"tensor {quoted(twice)} appears more than once", code="input.name")


_M = TypeVar("_M", bound=_TensorMessage)


def _messages(
    kind: type[_M], tensors: Sequence[Tensor], *, binary: bool | Collection[str]
) -> tuple[list[_M], list[bytes | memoryview]]:
    """Describes the tensors; returns also the binary data of those in binary form, one buffer each."""
    messages = []
    payloads = []
    for tensor in tensors:
        if binary if isinstance(binary, bool) else tensor.name in binary:
            payload = to_binary(tensor)
            given = _TensorParameters(len(payload))
            messages.append(kind(tensor.name, tensor.datatype, tensor.data.shape, given))
            payloads.append(payload)
        else:
            messages.append(kind(tensor.name, tensor.datatype, tensor.data.shape, None, to_json(tensor)))
    return messages, payloads


def _join(
    message: Any,
    payloads: list[bytes | memoryview],
    written: Memory[tuple[object, ...], bytes],
    key: tuple[object, ...] | None,
) -> Message:
    """The whole message; its JSON is kept in `written` where it has a key."""
    header = _ENCODER.encode(message)
    if not payloads:
        return [header], None
    header += b" " * (-len(header) % _ALIGNMENT)
    if key is not None and len(header) <= MAX_HEADER_BYTES:
        written.keep(key, header)
    return [header, *payloads], len(header)


def _short_header(body: Buffer, header_length: int | None, limits: Limits) -> bytes | None:
    """The JSON part where it may be known; what was read before was within the same limits or narrower ones."""
    if header_length is None or not 0 < header_length <= MAX_HEADER_BYTES:
        return None
    if header_length > limits.json_bytes or limits.tensors < MAX_TENSORS:
        return None
    return bytes(body[:header_length])


def _keep(
    memory: Memory[bytes, tuple[Layout, _T]],
    header: bytes,
    messages: Sequence[_TensorMessage],
    tensors: Sequence[Tensor],
    message: _T,
) -> None:
    if has_layout(tensors) and all(item.data is msgspec.UNSET for item in messages):
        memory.keep(header, (Layout(tensors), message))
