from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.attestation.result import Mode
from blindai.channel import gate

REQUEST: dict[str, Any] = {"v": 1, "mode": "fresh", "nonce": "ab" * 32}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
DECODERS = [gate.request_decoder, gate.fresh_decoder, gate.resumed_decoder, gate.problem_decoder]


def decode(**changes: Any) -> gate.GateRequest:
    return gate.request_decoder.decode(gate.encoder.encode(REQUEST | changes))


def test_a_request_keeps_its_form() -> None:
    request = gate.GateRequest(v=1, mode=Mode.FRESH, nonce="ab" * 32)
    assert gate.encoder.encode(request) == b'{"v":1,"mode":"fresh","nonce":"' + b"ab" * 32 + b'"}'
    assert decode() == request
    assert decode(mode="resumed", keyset_digest="cd" * 32).keyset_digest == "cd" * 32


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": "ab" * 31},
        {"nonce": "ab" * 33},
        {"nonce": "AB" * 32},
        {"nonce": "xy" * 32},
        {"nonce": "ab" * 32 + "\n"},
        {"nonce": None},
        {"mode": "plain"},
        {"mode": ""},
        {"v": "1"},
        {"v": 1.5},
        {"v": None},
        {"keyset_digest": "short"},
        {"report_data": "00" * 64},
        {"role": "client"},
    ],
    ids=str,
)
def test_a_request_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    """Above all a caller who would choose what goes into the quote."""
    with pytest.raises(msgspec.ValidationError):
        decode(**changes)


@pytest.mark.parametrize("signature", ["", "00" * 63, "00" * 65, "zz" * 64, "AA" * 64])
def test_a_signature_of_another_form_is_refused(signature: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        gate.resumed_decoder.decode(gate.encoder.encode({"v": 1, "mode": "resumed", "signature": signature}))


@pytest.mark.parametrize("decoder", DECODERS, ids=["request", "fresh", "resumed", "problem"])
@given(data=st.binary(max_size=200) | JSON.map(msgspec.json.encode))
def test_any_bytes_are_refused_in_one_way(decoder: Any, data: bytes) -> None:
    try:
        decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    assert decoder is gate.problem_decoder or b'"v"' in data


@pytest.mark.parametrize("decoder", DECODERS, ids=["request", "fresh", "resumed", "problem"])
def test_deep_nesting_is_refused(decoder: Any) -> None:
    with pytest.raises((msgspec.DecodeError, RecursionError)):
        decoder.decode(b'{"v":' + b"[" * 100_000)


def test_the_limits_hold_what_they_are_for() -> None:
    largest = gate.GateRequest(v=1, mode=Mode.RESUMED, nonce="ab" * 32, keyset_digest="cd" * 32)
    assert len(gate.encoder.encode(largest)) < gate.MAX_REQUEST_BODY_BYTES
