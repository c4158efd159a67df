"""Coverage-guided fuzzing of the Open Inference Protocol V2 codec, with atheris (the extra `fuzz`).

    python tests/fuzz/fuzz_v2.py -max_total_time=120 [CORPUS]

`check` is the property, which test_fuzz_v2.py also holds against Hypothesis: decoding ends in a message or in an
InvalidInput, and what was decoded comes back unchanged when it is encoded and decoded again.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    import atheris

    # The codec must be imported under the instrumentation first, or the fuzzer sees none of its branches.
    with atheris.instrument_imports(include=["blindai.wire"]):
        importlib.import_module("blindai.wire.v2")

from blindai.errors import InvalidInput
from blindai.wire.v2 import decode_request, decode_response, encode_request, encode_response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blindai.wire.v2 import Tensor

SEEDS = (
    b'{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1,2],[3,4.5]]}],"outputs":[{"name":"y"}]}',
    (
        b'{"id":"1","inputs":[{"name":"x","shape":[1],"datatype":"INT64","parameters":{"binary_data_size":8}}],'
        b'"outputs":[{"name":"y","parameters":{"binary_data":true}}],"parameters":{"binary_data_output":true}}12345678'
    ),
    (
        b'{"inputs":[{"name":"x","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":9}}]}'
        b"\x01\x00\x00\x00a\x00\x00\x00\x00"
    ),
    (
        b'{"inputs":[{"name":"x","shape":[],"datatype":"BF16","data":1.5},{"name":"s","shape":[0],"datatype":"BYTES",'
        b'"data":[]},{"name":"b","shape":[2],"datatype":"BOOL","data":[true,false]}]}'
    ),
    b'{"model_name":"m","outputs":[{"name":"y","shape":[1],"datatype":"FP16","data":[NaN]}]}',
)


def split(data: bytes) -> tuple[bytes, int | None]:
    """A body and its header length, from one string of bytes.

    A first byte of 0 means that all is JSON; an odd one that the JSON ends at its last brace, as an honest sender would
    have it, so that binary data are reached often; another one half its value as the length.
    """
    choice, body = data[0] if data else 0, data[1:]
    if choice == 0:
        return body, None
    return body, body.rfind(b"}") + 1 if choice % 2 else choice // 2


def check(data: bytes) -> None:
    """Raises unless the property holds for `data`."""
    body, header_length = split(data)
    try:
        request = decode_request(body, header_length)
    except InvalidInput:
        pass
    else:
        for binary in (True, False):
            _check_inputs(request.inputs, binary=binary)
    try:
        response = decode_response(body, header_length)
    except InvalidInput:
        return
    buffers, header_length = encode_response(response.outputs, model_name=response.model_name)
    _refuse_change(response.outputs, decode_response(b"".join(buffers), header_length).outputs)


def _check_inputs(inputs: Sequence[Tensor], *, binary: bool) -> None:
    try:
        buffers, header_length = encode_request(inputs, binary=binary)
    except InvalidInput as error:
        # Only JSON has values that it cannot carry.
        if binary or error.code not in {"input.nan_in_json", "input.bytes_in_json"}:
            raise
        return
    _refuse_change(inputs, decode_request(b"".join(buffers), header_length).inputs)


def _refuse_change(before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
    for one, other in zip(before, after, strict=True):
        same_kind = (one.name, one.datatype, one.shape) == (other.name, other.datatype, other.shape)
        # Lists compare objects by value, bytes compare a NaN with itself.
        if not same_kind or (one.data.tolist() != other.data.tolist() and one.data.tobytes() != other.data.tobytes()):
            raise AssertionError(f"{one} became {other}")


def main() -> None:
    with tempfile.TemporaryDirectory() as corpus:
        for index, seed in enumerate(SEEDS):
            Path(corpus, str(index)).write_bytes(b"\x01" + seed)
        atheris.Setup([*sys.argv, corpus], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
