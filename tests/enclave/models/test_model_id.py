from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.enclave.models.model_id import parse_model_id, parse_version
from blindai.errors import InvalidInput

BAD_PARTS = [
    "",
    ".",
    "..",
    "a..b",
    ".a",
    "a.",
    "-a",
    "a_",
    "A",
    "a/b",
    "a\\b",
    "a\0",
    "a\n",
    "a b",
    "a%2fb",
    "ä",
    "ａ",  # noqa: RUF001 - the full-width letter is the point
    "а",  # noqa: RUF001 - so is the Cyrillic one
    "a\u202eb",
    "a" * 65,
]


@pytest.mark.parametrize("part", ["a", "0", "resnet-18", "a.b_c-d", "a" * 64])
def test_good_names_pass(part: str) -> None:
    assert str(parse_model_id(part, "x")) == f"{part}/x"
    assert str(parse_model_id("x", part)) == f"x/{part}"


@pytest.mark.parametrize("part", BAD_PARTS)
def test_bad_names_are_refused_in_both_parts(part: str) -> None:
    for namespace, name in ((part, "x"), ("x", part)):
        with pytest.raises(InvalidInput) as caught:
            parse_model_id(namespace, name)
        assert caught.value.code == "model.id"


@given(st.text(max_size=70))
def test_no_text_outside_the_alphabet_passes(text: str) -> None:
    try:
        parse_model_id(text, "x")
    except InvalidInput:
        return
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert ".." not in text


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("42", 42), ("999999999", 999_999_999)])
def test_good_versions_pass(text: str, number: int) -> None:
    assert parse_version(text) == number


@pytest.mark.parametrize("text", ["", "0", "01", "-1", "+1", "1.0", " 1", "1\n", "x", "٣", "1000000000", "1_0"])
def test_bad_versions_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_version(text)
    assert caught.value.code == "model.version"
