"""Which addresses are taken, and in which form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.cloud.identity.email import normalised
from blindai.cloud.mail import Message
from blindai.errors import InvalidInput


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("alice@example.org", "alice@example.org"),
        (" Alice.B+tag@Example.ORG ", "alice.b+tag@example.org"),
        ("o'hara@xn--bcher-kva.example", "o'hara@xn--bcher-kva.example"),
        ("a@b.c", "a@b.c"),
        ("x" * 64 + "@example.org", "x" * 64 + "@example.org"),
        ("a@" + ".".join(["d" * 61] * 4) + ".abc", "a@" + ".".join(["d" * 61] * 4) + ".abc"),
        ("a@1.2.3.example", "a@1.2.3.example"),
    ],
)
def test_an_address_has_one_form(typed: str, kept: str) -> None:
    assert normalised(typed) == kept
    assert normalised(kept) == kept


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "alice",
        "@example.org",
        "alice@",
        "alice@localhost",
        "alice@example..org",
        "alice@.example.org",
        "alice@example.org.",
        "alice@-example.org",
        "alice@example-.org",
        "alice@[192.0.2.1]",
        "alice@192.0.2.1",
        ".alice@example.org",
        "alice.@example.org",
        "al..ice@example.org",
        '"alice b"@example.org',
        "alice@bob@example.org",
        "alice (comment)@example.org",
        "Alice <alice@example.org>",
        "alice@example.org,bob@example.org",
        "alice@example.org\nBcc: bob@example.org",
        "alice@example.org\r\n",
        "alice\x00@example.org",
        "alice\t@example.org",
        "al\u0456ce@example.org",
        "alice@ex\u0430mple.org",
        "alice@b\u00fccher.example",
        "alice@example\u3002org",
        "\u212alice@example.org",
        "alice\u200b@example.org",
        "\u202ealice@example.org",
        "\ufeffalice@example.org",
        "x" * 65 + "@example.org",
        "a@" + ".".join(["d" * 62] * 4) + ".abc",
        "a@" + "d" * 64 + ".org",
    ],
)
def test_what_could_be_taken_for_another_address_is_none(typed: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        normalised(typed)
    assert caught.value.code == "identity.email"
    # Not in the words of the stranger who typed it.
    assert typed.strip() == "" or typed not in caught.value.message


@given(st.text(max_size=80) | st.from_regex(r"\A[!-~]{1,70}@[ -~]{1,80}\Z"))
def test_whatever_is_taken_can_be_mailed_to(typed: str) -> None:
    try:
        address = normalised(typed)
    except InvalidInput:
        return
    assert Message(address, "subject", "text").to == address == normalised(address)
