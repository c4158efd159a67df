"""What a form shows again, and where browsers are sent after it."""

from __future__ import annotations

import pytest

from blindai.errors import InvalidInput
from blindai.web.forms import SECRET_FIELDS, Filled, require_same, safe_next

HOME = "/home"


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "\t//evil.example",
        " //evil.example",
        "javascript:alert(1)",
        "data:text/html,x",
        "evil.example",
        "",
        "/\u2044evil.example",
        "https:/evil.example",
        "//[evil",
        "/leases\r\nset-cookie: a=b",
    ],
)
def test_a_link_leads_nowhere_else(address: str) -> None:
    assert safe_next(address, home=HOME) == HOME


@pytest.mark.parametrize("address", ["/leases", "/leases/lease-aaaaaaaaaaaaaaaa?done=stopped", "/operators", "/a/b#c"])
def test_our_own_pages_are_kept(address: str) -> None:
    assert safe_next(address, home=HOME) == address


def test_what_was_typed_is_shown_again_but_for_secrets() -> None:
    form = Filled(given={"email": "ann@", **dict.fromkeys(SECRET_FIELDS, "hunter2")})
    assert form.value("email") == "ann@"
    assert form.value("name", "none") == "none"
    assert {form.value(name) for name in SECRET_FIELDS} == {""}


@pytest.mark.parametrize(
    ("code", "field"),
    [("identity.email", "email"), ("password.length", "new"), ("password.repeat", "again"), ("busy", None)],
)
def test_a_refusal_stands_at_its_field_or_else_above_the_form(code: str, field: str | None) -> None:
    error = InvalidInput("no", code=code)
    fields = {"identity.email": "email", "password.repeat": "again", "password": "new"}
    form = Filled(error=error, fields=fields)
    assert form.general is (error if field is None else None)
    for name in ("email", "new", "again"):
        assert form.error_of(name) is (error if name == field else None)


def test_an_empty_form_has_nothing_wrong() -> None:
    assert Filled().general is None
    assert Filled().error_of("") is None


def test_a_new_password_is_typed_twice_alike() -> None:
    require_same({"new": "a", "again": "a"})
    with pytest.raises(InvalidInput) as caught:
        require_same({"new": "a"})
    assert caught.value.code == "password.repeat"
