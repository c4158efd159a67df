"""Reads the messages of inference requests and writes those of their responses, each with the receipt it may want."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from blindai.enclave.http.exchange import KnownHeaders
from blindai.enclave.http.reply import Reply
from blindai.enclave.limits import KIB
from blindai.enclave.running.pace import kind_of
from blindai.errors import InvalidInput
from blindai.wire import v2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blindai.enclave.api.receipts import Receipts, Wanted
    from blindai.enclave.http.exchange import Headers
    from blindai.enclave.models.model_version import ModelVersion
    from blindai.enclave.running.pace import Kind
    from blindai.wire.tensor import Buffer, Tensor

TIMEOUT: Final = "timeout"
"""The parameter of a request that says in how many microseconds its answer is of no use any more; 0 for never. Source:
Triton, "Schedule policy extension"."""

_HEADER_LENGTH: Final = v2.HEADER_LENGTH.encode()
_JSON_HEADERS: Final = b"content-type: application/json\r\n"
_BINARY_HEADERS: Final = b"content-type: application/octet-stream\r\n" + _HEADER_LENGTH + b": %d\r\n"

# Longer times to wait stand for none: nothing here takes a day.
_MOST_TIMEOUT_US: Final = 86_400_000_000

# JSON is read and written at some 50 MB/s: above this it takes longer than handing it to a thread.
_LONG_JSON_BYTES: Final = 32 * KIB

# Binary data that take longer to be taken apart than handed to a thread, where there are texts in them: a text may have
# no more than its four bytes of length, of which a core reads some 30 MB/s.
_LONG_TEXT_BYTES: Final = 64 * KIB

# Bytes of tensors that take longer to hash, for a receipt, than handing them to a thread.
_LONG_HASH_BYTES: Final = 256 * KIB


class Request(NamedTuple):
    """A request that was read.

    Attributes:
        message: what it says.
        inputs: its tensors, by name.
        kind: for the pace of its model.
        receipt: what it wants of one, if it wants one.
        started: when it came, by `time.perf_counter_ns`.
        deadline_ns: when its answer is of no use any more, by the same; 0 for never.
        decode_ns: how long reading it took.
        header: its JSON where that is short and tensors stand behind it.
    """

    message: v2.InferRequest
    inputs: Mapping[str, Tensor]
    kind: Kind
    receipt: Wanted | None
    started: int
    deadline_ns: int
    decode_ns: int
    header: bytes | None = None


class Codec:
    """Reads and writes. Threads may use it at the same time.

    Args:
        json_bytes: the longest JSON that is read.
        receipts: signs those that requests ask for.
    """

    def __init__(self, json_bytes: int, receipts: Receipts) -> None:
        self._limits = v2.Limits(json_bytes=min(v2.MAX_JSON_BYTES, json_bytes))
        self._receipts = receipts

    def decode(self, body: Buffer, header_length: int | None, started: int) -> Request:
        """Read a request that came at `started`. Its tensors are views of `body`.

        Raises:
            InvalidInput: as `wire.v2.decode_request` and `Receipts.wanted`; `input.message` for a `timeout` that is
                none.
        """
        began = time.perf_counter_ns()
        message = v2.decode_request(body, header_length, limits=self._limits)
        parameters = message.parameters
        return Request(
            message,
            {tensor.name: tensor for tensor in message.inputs},
            kind_of(message),
            self._receipts.wanted(parameters),
            started,
            _deadline_ns(parameters, started),
            time.perf_counter_ns() - began,
            bytes(body[:header_length]) if header_length is not None and header_length <= v2.MAX_HEADER_BYTES else None,
        )

    def encode(self, version: ModelVersion, request: Request, outputs: list[Tensor]) -> tuple[Reply, int]:
        """Write the response; returned with the nanoseconds that this took. Binary tensors are not copied.

        Raises:
            InvalidInput: as `wire.v2.encode_response`.
            Unavailable: as `Receipts.signed`.
        """
        began = time.perf_counter_ns()
        message, receipt = request.message, request.receipt
        buffers, json_length = v2.encode_response(
            outputs,
            model_name=version.model_name,
            model_version=version.number,
            id=message.id,
            parameters=receipt and self._receipts.signed(receipt, version, message.inputs, outputs),
            binary=message.binary,
        )
        return _reply(buffers, json_length), time.perf_counter_ns() - began

    def answer(self, version: ModelVersion, outputs: Sequence[Tensor]) -> Reply:
        """Write the response to a request that wants nothing but all of `outputs` in binary form."""
        return _reply(
            *v2.encode_response(outputs, model_name=version.model_name, model_version=version.number, binary=True)
        )


def long_to_read(body: Buffer, header_length: int | None) -> bool:
    """Whether reading a request takes longer than handing it to a thread."""
    if header_length is None:
        return len(body) > _LONG_JSON_BYTES
    if header_length > _LONG_JSON_BYTES:
        return True
    if len(body) - header_length <= _LONG_TEXT_BYTES:
        return False
    header = bytes(body[:header_length])
    return b"BYTES" in header or b"\\" in header  # what is escaped may spell it too


def long_to_write(request: Request, outputs: Sequence[Tensor]) -> bool:
    """Whether writing a response takes longer than handing it to a thread."""
    if request.receipt is not None:
        hashed = sum(tensor.data.nbytes for tensor in (*request.message.inputs, *outputs))
        if hashed > _LONG_HASH_BYTES:
            return True
    binary = request.message.binary
    written = outputs
    if binary is True:
        written = [tensor for tensor in outputs if tensor.datatype == "BYTES"]
    return sum(tensor.data.nbytes for tensor in written) > _LONG_JSON_BYTES


def header_length_of(headers: Headers) -> int | None:
    """The length of the JSON part by the header Inference-Header-Content-Length; None where all is JSON.

    Raises:
        InvalidInput: `input.header_length`, for no number, or for two of them.
    """
    if isinstance(headers, KnownHeaders):
        return headers.json_length
    found: bytes | None = None
    for name, value in headers:
        if name == _HEADER_LENGTH:
            # Two of them joined as HTTP joins fields are no number, and refused as such.
            found = value if found is None else found + b", " + value
    return v2.parse_header_length(found)


def _reply(buffers: Sequence[bytes | memoryview], json_length: int | None) -> Reply:
    return Reply(200, _JSON_HEADERS if json_length is None else _BINARY_HEADERS % json_length, buffers)


def _deadline_ns(parameters: Mapping[str, object], started: int) -> int:
    value = parameters.get(TIMEOUT, 0)
    if type(value) is not int or value < 0:
        raise InvalidInput("parameters.timeout must be a whole number of microseconds", code="input.message")
    return started + value * 1000 if 0 < value <= _MOST_TIMEOUT_US else 0
