"""Receipts: an enclave's signed word on what one inference took, what it gave, and which model it was.

    {"receipt": {...}, "signature": "..."}

is the text of the response parameter `receipt`, given for a request with the parameter `receipt_nonce`. What is signed
is not this text but `tagged("blindai/receipt/v1", receipt)`. Inputs and outputs are digested as tensors, so that both
forms on the wire, JSON and binary, give the same receipt. Specification: docs/protocol/receipts.md.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from blindai.crypto.canonical import MAX_SAFE_INTEGER
from blindai.crypto.digests import tagged, tagged_sha256
from blindai.wire.tensor import to_binary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from blindai.crypto.canonical import Canonical
    from blindai.wire.tensor import Tensor

VERSION: Final = 1

RECEIPT_DOMAIN: Final = "blindai/receipt/v1"
TENSORS_DOMAIN: Final = "blindai/tensors/v1"

# Parameters of requests.
NONCE: Final = "receipt_nonce"
KEYSET: Final = "receipt_keyset"

# A parameter of responses.
RECEIPT: Final = "receipt"

# Some 1,100 characters when every member is as long as it may be.
MAX_RECEIPT_BYTES: Final = 4096

# 9999-12-31: what a time of this language can be.
MAX_TIME_MS: Final = 253_402_300_799_999

Hex32 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Hex64 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{128}\Z")]
ModelName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9._-]{1,64}/[a-z0-9._-]{1,64}\Z")]
ModelNumber = Annotated[str, msgspec.Meta(pattern=r"\A[1-9][0-9]{0,8}\Z")]


class ReceiptBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What an enclave says of one inference. Digests are SHA-256 in lower-case hex.

    Attributes:
        v: version of this struct.
        model, version: the model that ran: `namespace/name`, and its version.
        model_digest: of the body that was uploaded; of a model on loan, what its grant says.
        input_digest, output_digest: `tensors_digest` of what was sent and of what was answered.
        nonce: 32 bytes that the client chose for this one request.
        keyset_digest: of the keyset whose receipt key signs.
        config_digest: of the measured configuration.
        simulated: whether the platform protects nothing.
        time_ms: milliseconds since the epoch, UTC, by the clock of the enclave's host, which nobody vouches for.
        grant_digest: of a model on loan, `Grant.digest` of the newest grant in force when it ran.
    """

    v: Literal[1]
    model: ModelName
    version: ModelNumber
    model_digest: Hex32
    input_digest: Hex32
    output_digest: Hex32
    nonce: Hex32
    keyset_digest: Hex32
    config_digest: Hex32
    simulated: bool
    time_ms: Annotated[int, msgspec.Meta(ge=0, le=min(MAX_SAFE_INTEGER, MAX_TIME_MS))]
    grant_digest: Hex32 | None = None

    @property
    def message(self) -> bytes:
        """What the receipt key signs."""
        return tagged(RECEIPT_DOMAIN, msgspec.to_builtins(self))

    @property
    def time(self) -> datetime:
        """`time_ms` as a time, UTC."""
        return datetime.fromtimestamp(self.time_ms / 1000, UTC)


class SignedReceipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A receipt with the signature of the enclave's receipt key (Ed25519, RFC 8032)."""

    receipt: ReceiptBody
    signature: Hex64

    def encode(self) -> str:
        """The text that travels."""
        return _encoder.encode(self).decode("ascii")

    @classmethod
    def decode(cls, text: str) -> SignedReceipt:
        """Strictly parse what `encode` wrote.

        Raises:
            ValueError: it is no receipt.
        """
        if len(text) > MAX_RECEIPT_BYTES:
            raise ValueError(f"a receipt has at most {MAX_RECEIPT_BYTES} characters")
        return _decoder.decode(text)


class TensorDigest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor without its values.

    Attributes:
        name, datatype, shape: as in the V2 protocol.
        sha256: of the elements in binary form (`wire.tensor.to_binary`), in hex.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    sha256: Hex32

    @classmethod
    def of(cls, tensor: Tensor) -> TensorDigest:
        """Digest a tensor.

        Raises:
            InvalidInput: `input.datatype`, `input.value`; its array is not what its datatype says.
        """
        return cls(tensor.name, tensor.datatype, tensor.shape, hashlib.sha256(to_binary(tensor)).hexdigest())


def tensors_digest(tensors: Iterable[TensorDigest]) -> str:
    """The digest of named tensors, in whatever order and form they travelled, in hex.

    They are sorted by name, as bytes of UTF-8, and each name is written in hex: the canonical encoding is ASCII.

    Raises:
        ValueError: a dimension or a datatype is outside the canonical encoding.
    """
    named = sorted(((_utf8(tensor.name), tensor) for tensor in tensors), key=itemgetter(0))
    entries: list[Mapping[str, Canonical]] = [
        {"name": name.hex(), "datatype": tensor.datatype, "shape": list(tensor.shape), "sha256": tensor.sha256}
        for name, tensor in named
    ]
    return tagged_sha256(TENSORS_DOMAIN, {"tensors": entries})


def _utf8(name: str) -> bytes:
    return name.encode(errors="surrogatepass")


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(SignedReceipt)
