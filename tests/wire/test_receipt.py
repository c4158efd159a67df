from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given

from blindai.wire import v2
from blindai.wire.receipt import (
    MAX_RECEIPT_BYTES,
    MAX_TIME_MS,
    ReceiptBody,
    SignedReceipt,
    TensorDigest,
    tensors_digest,
)
from blindai.wire.tensor import Tensor
from tensor_strategies import tensors

BODY: dict[str, Any] = {
    "v": 1,
    "model": "acme/adder",
    "version": "3",
    "model_digest": "0a" * 32,
    "input_digest": "0b" * 32,
    "output_digest": "0c" * 32,
    "nonce": "0d" * 32,
    "keyset_digest": "0e" * 32,
    "config_digest": "0f" * 32,
    "simulated": True,
    "time_ms": 1_700_000_000_123,
}


def digest(*tensors: Tensor) -> str:
    return tensors_digest(map(TensorDigest.of, tensors))


def test_what_is_signed_is_the_domain_and_sorted_json() -> None:
    body = msgspec.convert(BODY, ReceiptBody)
    domain, _, text = body.message.partition(b"\0")
    assert domain == b"blindai/receipt/v1"
    assert text == json.dumps(BODY, sort_keys=True, separators=(",", ":")).encode()
    assert body.time.isoformat() == "2023-11-14T22:13:20.123000+00:00"


def test_a_leased_model_adds_its_grant() -> None:
    leased = msgspec.convert(BODY | {"grant_digest": "1a" * 32}, ReceiptBody)
    assert json.loads(leased.message.partition(b"\0")[2]) == BODY | {"grant_digest": "1a" * 32}


def test_the_text_comes_back() -> None:
    signed = SignedReceipt(msgspec.convert(BODY, ReceiptBody), "ab" * 64)
    assert SignedReceipt.decode(signed.encode()) == signed
    longest = msgspec.convert(
        BODY
        | {"model": f"{'a' * 64}/{'b' * 64}", "version": "9" * 9, "time_ms": MAX_TIME_MS, "grant_digest": "f" * 64},
        ReceiptBody,
    )
    assert len(SignedReceipt(longest, "ab" * 64).encode()) < MAX_RECEIPT_BYTES
    assert longest.time.year == 9999


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"model": "adder"},
        {"model": "acme/Adder"},
        {"model": "acme/a\n"},
        {"version": "01"},
        {"version": "1\n"},
        {"nonce": "0D" * 32},
        {"nonce": "0d" * 31},
        {"keyset_digest": 5},
        {"simulated": 1},
        {"time_ms": -1},
        {"time_ms": MAX_TIME_MS + 1},
        {"time_ms": 1.5},
        {"grant_digest": ""},
        {"more": 1},
    ],
)
def test_another_text_is_no_receipt(change: dict[str, Any]) -> None:
    text = json.dumps({"receipt": BODY | change, "signature": "ab" * 64})
    with pytest.raises((msgspec.DecodeError, ValueError)):
        SignedReceipt.decode(text)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"receipt":{}}', "[" * 3000, " " * (MAX_RECEIPT_BYTES + 1)])
def test_a_text_that_is_nothing(text: str) -> None:
    with pytest.raises((msgspec.DecodeError, ValueError)):
        SignedReceipt.decode(text)


@given(tensors(json=True))
def test_both_forms_on_the_wire_have_one_digest(tensor: Tensor) -> None:
    expected = digest(tensor)
    for binary in (True, False):
        buffers, length = v2.encode_response([tensor], model_name="m", binary=binary)
        response = v2.decode_response(b"".join(buffers), length)
        assert digest(*response.outputs) == expected


def test_order_does_not_count_and_everything_else_does() -> None:
    a, b = Tensor.from_array("a", np.zeros(2, np.float32)), Tensor.from_array("b", np.ones(2, np.float32))
    assert digest(a, b) == digest(b, a)
    others = [
        (a,),
        (a, Tensor.from_array("c", np.ones(2, np.float32))),
        (a, Tensor.from_array("b", np.ones(2, np.float64))),
        (a, Tensor.from_array("b", np.ones((1, 2), np.float32))),
        (a, Tensor.from_array("b", np.full(2, -1, np.float32))),
        (Tensor.from_array("a", np.ones(2, np.float32)), Tensor.from_array("b", np.zeros(2, np.float32))),
        (),
    ]
    assert len({digest(a, b), *(digest(*other) for other in others)}) == len(others) + 1
    # A zero of either sign is another input.
    assert digest(a) != digest(Tensor.from_array("a", np.full(2, -0.0, np.float32)))


def test_the_digest_by_hand() -> None:
    text = Tensor.from_array("naïve", np.array([["a", "bc"]]))
    elements = b"\1\0\0\0a\2\0\0\0bc"
    entry = {
        "name": "naïve".encode().hex(),
        "datatype": "BYTES",
        "shape": [1, 2],
        "sha256": hashlib.sha256(elements).hexdigest(),
    }
    canonical = json.dumps({"tensors": [entry]}, sort_keys=True, separators=(",", ":")).encode()
    assert digest(text) == hashlib.sha256(b"blindai/tensors/v1\0" + canonical).hexdigest()
