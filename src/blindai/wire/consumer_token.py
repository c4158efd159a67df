"""What lets a consumer query a leased model: signed by the custodian, checked offline by the enclave.

A token holds no secret of anybody, but whoever has it may spend the consumer's budget: it is sent as a bearer token
(RFC 6750) and only to an attested enclave. It has no date, because no clock of the enclave's host can be believed: the
custodian revokes tokens by raising the consumer's epoch, which travels in every grant.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cryptography.exceptions import InvalidSignature

from blindai.crypto.digests import tagged
from blindai.errors import AuthenticationError
from blindai.wire.custody import Amount, LeaseId

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

DOMAIN: Final = "blindai/consumer-token/v1"
PREFIX: Final = "bct_"

# The longest names and numbers give 420 characters.
MAX_TOKEN_CHARACTERS: Final = 1024

_SIGNATURE_BYTES: Final = 64


class ConsumerToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a token says: this consumer may query the model of this lease.

    Attributes:
        epoch: of the consumer when the token was made; lower than the consumer's present one, it is revoked.
    """

    lease: LeaseId
    consumer: Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")]
    epoch: Amount
    v: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1

    @property
    def message(self) -> bytes:
        """What the custodian signs (Ed25519)."""
        return tagged(DOMAIN, msgspec.to_builtins(self))

    def encode(self, signature: bytes) -> str:
        """As text: a recognisable prefix, then content and signature in base64url."""
        return PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(self) + signature).rstrip(b"=").decode()

    @classmethod
    def verified(cls, text: str, custodian: Ed25519PublicKey) -> ConsumerToken:
        """Read a token and check its signature. Whether it is for this lease, and revoked, is the caller's to check.

        Raises:
            AuthenticationError: `authentication.token`.
        """
        if not text.startswith(PREFIX) or len(text) > MAX_TOKEN_CHARACTERS:
            raise _refused("this is not a consumer's token")
        encoded = text[len(PREFIX) :].encode()
        try:
            data = base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
            token = msgspec.json.decode(data[:-_SIGNATURE_BYTES], type=cls)
        except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _refused("the token is damaged") from error
        try:
            custodian.verify(data[-_SIGNATURE_BYTES:], token.message)
        except InvalidSignature as error:
            raise _refused("the token is not signed by this model's custodian") from error
        return token


def _refused(message: str) -> AuthenticationError:
    return AuthenticationError(
        message, code="authentication.token", hint="copy it once more, or ask the custodian for a new one"
    )
