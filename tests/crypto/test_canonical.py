from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from blindai.crypto.canonical import MAX_SAFE_INTEGER, canonical

TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))
INTEGERS = st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=6)


@given(OBJECTS)
def test_the_encoding_is_that_of_rfc_8785(value: dict[str, Any]) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@given(OBJECTS)
def test_the_encoding_is_json_of_the_same_value(value: dict[str, Any]) -> None:
    assert json.loads(canonical(value)) == value


@given(OBJECTS, st.randoms(use_true_random=False))
def test_the_order_of_keys_changes_nothing(value: dict[str, Any], random: Any) -> None:
    keys = list(value)
    random.shuffle(keys)
    assert canonical({key: value[key] for key in keys}) == canonical(value)


class Role(StrEnum):
    SERVER = "server"


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ({}, b"{}"),
        ({"b": 1, "a": 2, "B": 3, "": 4, "aa": 5}, b'{"":4,"B":3,"a":2,"aa":5,"b":1}'),
        ({"x": [True, False, None, -1, 0]}, b'{"x":[true,false,null,-1,0]}'),
        ({"x": (1, (2,))}, b'{"x":[1,[2]]}'),
        ({"x": {"b": {}, "a": []}}, b'{"x":{"a":[],"b":{}}}'),
        ({"x": '"\\/'}, b'{"x":"\\"\\\\/"}'),
        ({"x": MAX_SAFE_INTEGER, "y": -MAX_SAFE_INTEGER}, b'{"x":9007199254740991,"y":-9007199254740991}'),
        ({"role": Role.SERVER}, b'{"role":"server"}'),
    ],
)
def test_examples(value: dict[str, Any], encoded: bytes) -> None:
    assert canonical(value) == encoded
    assert rfc8785.dumps(value) == encoded


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (1.0, "does not take float"),
        (float("nan"), "does not take float"),
        (b"bytes", "does not take bytes"),
        (bytearray(b"bytes"), "does not take bytearray"),
        (memoryview(b"bytes"), "does not take memoryview"),
        ({1, 2}, "does not take set"),
        (object(), "does not take object"),
        ("é", "printable ASCII"),
        ("\x00", "printable ASCII"),
        ("line\nbreak", "printable ASCII"),
        ("\x7f", "printable ASCII"),
        ("\ud800", "printable ASCII"),
        (MAX_SAFE_INTEGER + 1, "2\\*\\*53"),
        (-MAX_SAFE_INTEGER - 1, "2\\*\\*53"),
        ({1: 2}, "string keys"),
        ({None: 2}, "string keys"),
        ({"é": 2}, "printable ASCII"),
        ({"a\tb": 2}, "printable ASCII"),
    ],
)
def test_values_on_which_implementations_differ_are_refused(value: Any, says: str) -> None:
    for nested in ({"x": value}, {"x": [value]}, {"x": {"y": value}}):
        with pytest.raises(ValueError, match=says):
            canonical(nested)


@given(st.dictionaries(st.text(), st.floats() | st.text() | st.integers() | st.binary(), max_size=3))
def test_anything_else_is_refused_or_encoded_as_rfc_8785_says(value: dict[str, Any]) -> None:
    try:
        encoded = canonical(value)
    except ValueError:
        return
    assert encoded == rfc8785.dumps(value)
