"""Where browsers are sent after a form."""

from __future__ import annotations

import pytest

from blindai.web.forms import safe_next

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
