"""Who asks: checked offline, refused always alike."""

from __future__ import annotations

import pytest

from blindai.enclave.lease import tokens as module
from blindai.enclave.lease.tokens import Tokens
from blindai.errors import AuthenticationError
from blindai.wire.custody import ANYONE

from .conftest import LEASE, Signer

CONSUMERS = {"alice": 2, "bob": 0}


@pytest.fixture
def tokens(signer: Signer) -> Tokens:
    return Tokens(signer.public, LEASE)


def bearer(token: str, scheme: str = "Bearer") -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", f"{scheme} {token}".encode())]


def test_a_token_names_its_consumer(tokens: Tokens, signer: Signer) -> None:
    headers = bearer(signer.token("alice", epoch=2))
    assert [tokens.consumer(headers, CONSUMERS) for _ in range(2)] == ["alice", "alice"]
    assert tokens.consumer(bearer(signer.token("bob"), "bEARER"), CONSUMERS) == "bob"


def test_an_open_lease_needs_no_token(tokens: Tokens) -> None:
    assert tokens.consumer([], {ANYONE: 0}) == ANYONE
    assert tokens.consumer(bearer("whatever"), {ANYONE: 0}) == ANYONE


def refused(tokens: Tokens, headers: list[tuple[bytes, bytes]]) -> tuple[str, str, str]:
    with pytest.raises(AuthenticationError) as caught:
        tokens.consumer(headers, CONSUMERS)
    return caught.value.code, caught.value.message, caught.value.hint


def test_all_refusals_are_alike(tokens: Tokens, signer: Signer) -> None:
    good = signer.token("alice", epoch=2)
    wrong = [
        [],
        [(b"authorization", b"")],
        bearer(good, "Basic"),
        bearer(""),
        bearer("bct_"),
        bearer(good[:-1]),
        bearer(good + "A"),
        bearer(good.replace("bct_", "")),
        bearer("bct_" + "A" * 2000),
        bearer("bct_" + "A" * 200),
        bearer("bct_\xff"),
        bearer(signer.token("alice", epoch=1)),
        bearer(signer.token("mallory", epoch=9)),
        bearer(signer.token("alice", epoch=2, lease="lease-bbbbbbbbbbbbbbbb")),
        bearer(Signer().token("alice", epoch=2)),
        [*bearer(good), (b"authorization", f"Bearer {good}".encode())],
    ]
    refusals = {refused(tokens, headers) for headers in wrong}
    assert len(refusals) == 1
    assert refusals.pop()[0] == "authentication.token"


def test_a_token_that_was_good_is_refused_once_it_is_revoked(tokens: Tokens, signer: Signer) -> None:
    headers = bearer(signer.token("bob"))
    assert tokens.consumer(headers, CONSUMERS) == "bob"
    for consumers in ({"bob": 1}, {"alice": 0}, {}):
        with pytest.raises(AuthenticationError) as caught:
            tokens.consumer(headers, consumers)
        assert caught.value.code == "authentication.token"


def test_what_is_remembered_is_bounded(tokens: Tokens, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 3)
    for epoch in range(10):
        assert tokens.consumer(bearer(signer.token("bob", epoch=epoch)), CONSUMERS) == "bob"
        assert len(tokens._known) <= 3
    refused(tokens, bearer(Signer().token("bob")))
    assert len(tokens._known) <= 3


def test_a_signature_is_checked_once(tokens: Tokens, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = bearer(signer.token("bob"))
    tokens.consumer(headers, CONSUMERS)
    monkeypatch.setattr(tokens, "_verified", None)
    assert tokens.consumer(headers, CONSUMERS) == "bob"
