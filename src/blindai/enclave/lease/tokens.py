"""Who asks: the consumer that a request's bearer token names (RFC 6750), checked without asking the custodian.

A signature is checked once; after that a token is a look-up. All refusals are alike, so that nobody learns from them
which consumers there are or what was wrong with a guess.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from blindai.errors import AuthenticationError
from blindai.wire.consumer_token import MAX_TOKEN_CHARACTERS, ConsumerToken
from blindai.wire.custody import ANYONE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from blindai.enclave.http.exchange import Headers

AUTHORIZATION: Final = b"authorization"
_SCHEME: Final = b"bearer "

# Tokens whose signature was found good. A consumer has one or two; beyond this the memory starts afresh.
MAX_KNOWN: Final = 4096


class Tokens:
    """Reads tokens.

    Args:
        custodian: who signs them.
        lease: which they must be for.
    """

    def __init__(self, custodian: Ed25519PublicKey, lease: str) -> None:
        self._custodian = custodian
        self._lease = lease
        self._known: dict[bytes, ConsumerToken] = {}

    def consumer(self, headers: Headers, consumers: Mapping[str, int]) -> str:
        """Whose request this is.

        Args:
            headers: the request's, names in lower case.
            consumers: who may query, with the lowest epoch of their tokens; `ANYONE` needs no token.

        Raises:
            AuthenticationError: `authentication.token`.
        """
        if ANYONE in consumers:
            return ANYONE
        found: bytes | None = None
        for name, value in headers:
            if name == AUTHORIZATION:
                if found is not None:
                    raise _refusal()
                found = value
        token = self._known.get(found) if found is not None else None
        if token is None:
            token = self._verified(found)
        if token.epoch < consumers.get(token.consumer, token.epoch + 1):
            raise _refusal()
        return token.consumer

    def _verified(self, authorization: bytes | None) -> ConsumerToken:
        if authorization is None or len(authorization) > len(_SCHEME) + MAX_TOKEN_CHARACTERS:
            raise _refusal()
        scheme, text = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
        if scheme.lower() != _SCHEME or not text.isascii():
            raise _refusal()
        try:
            token = ConsumerToken.verified(text.decode("ascii"), self._custodian)
        except AuthenticationError:
            raise _refusal() from None
        if token.lease != self._lease:
            raise _refusal()
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[authorization] = token
        return token


def _refusal() -> AuthenticationError:
    return AuthenticationError(
        "this model is on loan, and the request carries no valid token of one of its consumers",
        code="authentication.token",
        hint="pass the token that you have from the custodian as the API key, or ask them for a new one",
    )
