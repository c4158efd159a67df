r"""The file in which a model is shipped while only its custodian can read it.

    blindai-sealed-model/v1\n
    {"chunk_bytes":...,"content_type":"...","model_digest":"...","salt":"...","size":...}\n
    <commitment, 64 hex digits>\n
    chunk 0, chunk 1, ...

The second line is the canonical encoding (RFC 8785) and has exactly one form. The chunks are those of `crypto.stream`
over the body that an upload of the same model would have: the ONNX file, or the bundle of `wire.bundle`. Their key is
derived with the digest of the first two lines, so each of them authenticates the header; and the commitment says before
any chunk is read whether key and header belong together. From the header on, every length in the file is known.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from blindai.crypto.canonical import canonical
from blindai.crypto.stream import COMMITMENT_BYTES, TAG_BYTES, Buffer, ChunkRefused, StreamKey
from blindai.errors import InvalidModel
from blindai.wire.custody import MAX_ARTEFACT_BYTES, Hex32

MAGIC: Final = b"blindai-sealed-model/v1\n"
"""The first line, which names the format's version."""

DOMAIN: Final = b"blindai/sealed-model/v1\0"

CHUNK_BYTES: Final = 1 << 20
"""What files are sealed with: the cost of a chunk no longer shows, and a few fit into a processor's cache."""

MIN_CHUNK_BYTES: Final = 64
"""With smaller ones the tags would be a good part of the file."""

# A chunk must come in one answer of the custodian.
MAX_CHUNK_BYTES: Final = MAX_ARTEFACT_BYTES // 2

MAX_BODY_BYTES: Final = 512 << 30
"""More than any model of today, and below the largest offset that `ArtefactRange` can ask for."""

MIN_BODY_BYTES: Final = 2
"""No model is as short; the enclave's buffers cannot be shorter."""

MAX_HEADER_BYTES: Final = 512
"""All three lines. The longest header has about 400 bytes."""


class SealedHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is said in clear about a sealed model.

    Attributes:
        chunk_bytes: plaintext bytes of every chunk but the last.
        content_type: of the body: `application/onnx` or `application/x-tar`.
        model_digest: SHA-256 of the body, by which grants name the model.
        salt: random, of this file alone.
        size: bytes of the body.
    """

    chunk_bytes: Annotated[int, msgspec.Meta(ge=MIN_CHUNK_BYTES, le=MAX_CHUNK_BYTES)] = CHUNK_BYTES
    content_type: Literal["application/onnx", "application/x-tar"]
    model_digest: Hex32
    salt: Hex32
    size: Annotated[int, msgspec.Meta(ge=MIN_BODY_BYTES, le=MAX_BODY_BYTES)]

    @property
    def encoded(self) -> bytes:
        """The first two lines."""
        return MAGIC + canonical(msgspec.to_builtins(self)) + b"\n"

    @property
    def header_bytes(self) -> int:
        """Length of all three lines: where chunk 0 begins."""
        return len(self.encoded) + 2 * COMMITMENT_BYTES + 1

    @property
    def chunks(self) -> int:
        """How many there are."""
        return -(-self.size // self.chunk_bytes)

    @property
    def sealed_bytes(self) -> int:
        """Length of the whole file."""
        return self.header_bytes + self.size + self.chunks * TAG_BYTES

    def chunk(self, number: int) -> Chunk:
        """Where chunk `number`, from 0, is."""
        start = number * self.chunk_bytes
        return Chunk(
            number,
            self.header_bytes + number * (self.chunk_bytes + TAG_BYTES),
            min(self.chunk_bytes, self.size - start) + TAG_BYTES,
            start,
            number == self.chunks - 1,
        )

    def key(self, data_key: Buffer) -> StreamKey:
        """The key of this file's chunks, and the commitment that belongs into its header.

        Args:
            data_key: 32 bytes; whoever gave it wipes it.
        """
        context = DOMAIN + hashlib.sha256(self.encoded).digest()
        return StreamKey(data_key, bytes.fromhex(self.salt), context)


class Chunk(NamedTuple):
    """One chunk in its file.

    Attributes:
        number: from 0.
        offset: of its first byte in the file.
        length: in the file, tag included.
        start: where its plaintext begins in the body.
        last: whether it is the last one.
    """

    number: int
    offset: int
    length: int
    start: int
    last: bool


class Head(NamedTuple):
    """What a sealed file begins with: the header, and the commitment, which nothing has been compared with yet."""

    header: SealedHeader
    commitment: bytes

    @property
    def encoded(self) -> bytes:
        """All three lines."""
        return self.header.encoded + self.commitment.hex().encode() + b"\n"

    def key(self, data_key: Buffer) -> StreamKey:
        """The key of the chunks, if it is this file's.

        Raises:
            InvalidModel: `model.sealed_key`, for another data key or a header that was changed.
        """
        key = self.header.key(data_key)
        if key.commitment != self.commitment:
            key.wipe()
            raise InvalidModel(
                "the key is not that of this sealed model, or its header was changed",
                code="model.sealed_key",
                hint="each lease has a file of its own: copy that of this lease once more",
            )
        return key


_decoder = msgspec.json.Decoder(SealedHeader)


def read_head(beginning: Buffer) -> Head:
    """Parse what a sealed file begins with.

    Args:
        beginning: the first `MAX_HEADER_BYTES` of the file, or all of a shorter one.

    Raises:
        InvalidModel: `model.sealed_header`, for anything but the one form that a header has.
    """
    text = bytes(beginning[:MAX_HEADER_BYTES])
    if not text.startswith(MAGIC):
        raise _header_error("it does not begin as one", hint="seal it first: blindai custodian seal")
    line, ended, rest = text[len(MAGIC) :].partition(b"\n")
    commitment = rest[: 2 * COMMITMENT_BYTES]
    if not ended or rest[len(commitment) : len(commitment) + 1] != b"\n":
        raise _header_error("its header does not end")
    try:
        head = Head(_decoder.decode(line), bytes.fromhex(commitment.decode("ascii")))
    except (ValueError, msgspec.DecodeError) as error:
        raise _header_error("its header is damaged") from error
    if not text.startswith(head.encoded):
        raise _header_error("its header is not in the canonical form")
    return head


def chunk_refused(error: ChunkRefused) -> InvalidModel:
    """The refusal of a file by its chunk."""
    return InvalidModel(
        f"chunk {error.number} of the sealed model was changed, or is not in its place",
        code="model.sealed_chunk",
        hint="copy the file from the custodian once more",
    )


def truncated(missing_at: int) -> InvalidModel:
    """The refusal of a file that ends at `missing_at` bytes, before its header says."""
    return InvalidModel(
        f"the sealed model ends after {missing_at} bytes",
        code="model.sealed_truncated",
        hint="copy the file from the custodian once more",
    )


def other_size(message: str) -> InvalidModel:
    """The refusal of a body or a file of another length than its header says."""
    return InvalidModel(message, code="model.sealed_size")


def other_digest(message: str) -> InvalidModel:
    """The refusal of a model that is not the one it should be."""
    return InvalidModel(message, code="model.sealed_digest")


def _header_error(why: str, *, hint: str = "") -> InvalidModel:
    return InvalidModel(f"this is not a sealed model: {why}", code="model.sealed_header", hint=hint)
