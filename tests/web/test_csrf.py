"""Requests that another site made for our user."""

from __future__ import annotations

import pytest

from blindai.errors import PermissionDenied
from blindai.web import csrf

OURS = "custodian.example:9445"


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "same-origin", "origin": "null"},
        {"origin": f"https://{OURS}", "host": OURS},
    ],
)
def test_our_own_pages_may(headers: dict[str, str]) -> None:
    csrf.require_same_origin(headers, scheme="https")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"sec-fetch-site": "cross-site", "origin": f"https://{OURS}", "host": OURS}, "csrf.cross_site"),
        ({"sec-fetch-site": "same-site"}, "csrf.cross_site"),
        ({"sec-fetch-site": "none"}, "csrf.cross_site"),
        ({"sec-fetch-site": ""}, "csrf.cross_site"),
        ({"sec-fetch-site": "Same-Origin"}, "csrf.cross_site"),
        ({"origin": "https://evil.example", "host": OURS}, "csrf.cross_site"),
        ({"origin": f"http://{OURS}", "host": OURS}, "csrf.cross_site"),
        ({"origin": f"https://{OURS}.evil.example", "host": OURS}, "csrf.cross_site"),
        ({"origin": f"https://{OURS}@evil.example", "host": OURS}, "csrf.cross_site"),
        ({"origin": "https://custodian.example", "host": OURS}, "csrf.cross_site"),
        ({"origin": "null", "host": OURS}, "csrf.cross_site"),
        ({"origin": "https://"}, "csrf.cross_site"),
        ({"origin": "", "host": ""}, "csrf.cross_site"),
        ({"host": OURS}, "csrf.origin"),
        ({}, "csrf.origin"),
    ],
)
def test_other_sites_may_not(headers: dict[str, str], code: str) -> None:
    with pytest.raises(PermissionDenied) as caught:
        csrf.require_same_origin(headers, scheme="https")
    assert caught.value.code == code


def test_the_token_is_of_one_session_and_does_not_give_it_away() -> None:
    first, second = csrf.visitor(), csrf.visitor()
    assert csrf.token(first) != csrf.token(second)
    assert first not in csrf.token(first)
    csrf.require_token(csrf.token(first), cookie=first)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("", "csrf.missing"),
        ("0" * 64, "csrf.wrong"),
        (csrf.token("other"), "csrf.wrong"),
        (csrf.token("mine").upper(), "csrf.wrong"),
        (csrf.token("mine")[:-1], "csrf.wrong"),
        ("mine", "csrf.wrong"),
        ("\ud800\u202e", "csrf.wrong"),
    ],
)
def test_a_form_without_the_token_of_its_session_is_refused(given: str, code: str) -> None:
    with pytest.raises(PermissionDenied) as caught:
        csrf.require_token(given, cookie="mine")
    assert caught.value.code == code
    assert caught.value.hint


def test_a_form_without_a_cookie_has_no_token_that_is_good() -> None:
    with pytest.raises(PermissionDenied) as caught:
        csrf.require_token(csrf.token(""), cookie="")
    assert caught.value.code == "csrf.missing"
