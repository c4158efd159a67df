"""What an account may be called."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blindai.cloud.accounts.names import RESERVED, is_name, require_free_form
from blindai.errors import InvalidInput
from blindai.wire.cloud import Namespace


@given(st.text(max_size=45) | st.from_regex(r"[a-z0-9-]{1,41}"))
@example("a" * 39)
@example("a" * 40)
@example("a")
@example("ab\n")
@example("a--b")
@example("-ab")
@example("ab-")
@example("ac\u0301me")
@example("\u0430cme")  # Cyrillic
@example("acme\u200b")
@example("acm\u0665")
@example("ACME")
@example("acme/model")
@example("..")
@example("")
def test_a_name_is_what_the_wire_takes_for_one(text: str) -> None:
    try:
        msgspec.convert(text, Namespace)
    except msgspec.ValidationError:
        taken = False
    else:
        taken = True
    assert is_name(text) is taken


@pytest.mark.parametrize("name", ["", "a", "a" * 40, "Acme", "acme--x", "-acme", "a b", "\u0430cme", "a\x00b", "a'--"])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        require_free_form(name)
    assert caught.value.code == "account.name"


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_names_that_are_kept_back_are_taken(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        require_free_form(name)
    assert caught.value.code == "account.taken"


def test_what_the_operator_and_the_enclave_need_is_kept_back() -> None:
    assert {"admin", "api", "assets", "blindai", "cloud", "leased", "public", "root", "security"} <= RESERVED
    assert {"support", "system", "www"} <= RESERVED
