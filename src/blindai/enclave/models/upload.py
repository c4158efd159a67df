"""Taking in a model: one ONNX file or a bundle, streamed to where there was made room for it beforehand.

Of the body one chunk is in memory, the rest is on disk, encrypted. What is in it is looked at where it is loaded. An
upload that fails or is cut leaves nothing: its room and its version number are free again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import TYPE_CHECKING, Final, Protocol

from blindai.enclave.models.repository import Repository, model_too_large
from blindai.errors import InvalidModel, Unavailable
from blindai.wire.bundle import BUNDLE_TYPE, ONNX_TYPE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from blindai.enclave.models.model_id import ModelId
    from blindai.enclave.models.model_version import ModelVersion
    from blindai.wire.cloud import Quotas

FILE_TYPES: Final = (ONNX_TYPE, "application/octet-stream")

# RFC 9530 algorithms that are safe to rely on; the others of its registry are not.
_ALGORITHMS: Final = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}

# Algorithms listed in one header: more than the registry of RFC 9530 has.
_MAX_LISTED: Final = 16


class Hash(Protocol):
    """The part of a `hashlib` object used here."""

    def update(self, data: bytes | bytearray, /) -> None: ...

    def digest(self) -> bytes: ...


class ContentDigest:
    """The check of a `Content-Digest` header (RFC 9530, section 2) against a body.

    Args:
        field: the header's value, None where there is none: then any body passes.

    Raises:
        InvalidModel: `model.digest`, when the header is malformed or lists no algorithm that can be checked.
    """

    def __init__(self, field: bytes | None) -> None:
        self._expected: list[tuple[Hash, bytes]] = []
        if field is None:
            return
        for item in field.split(b",")[: _MAX_LISTED + 1]:
            name, _, value = item.strip().partition(b"=")
            if not (len(value) >= 2 and value[:1] == value[-1:] == b":"):
                raise _digest_error("the header Content-Digest is malformed")
            try:
                digest = base64.b64decode(value[1:-1], validate=True)
            except binascii.Error as error:
                raise _digest_error("the header Content-Digest is malformed") from error
            algorithm = _ALGORITHMS.get(name.decode("latin-1"))
            if algorithm is not None:
                self._expected.append((algorithm(), digest))
        if not self._expected or len(self._expected) > _MAX_LISTED:
            raise _digest_error("the header Content-Digest lists no digest that can be checked")

    def update(self, data: bytes | bytearray) -> None:
        """Take the next bytes of the body."""
        for computed, _ in self._expected:
            computed.update(data)

    def verify(self) -> None:
        """Compare, at the end of the body.

        Raises:
            InvalidModel: `model.digest`.
        """
        for computed, expected in self._expected:
            if not hmac.compare_digest(computed.digest(), expected):
                raise _digest_error("the body is not the one that Content-Digest describes")


async def receive_model(
    repository: Repository,
    model_id: ModelId,
    body: AsyncIterator[bytes],
    *,
    version: int | None,
    length: int | None,
    content_type: str,
    content_digest: bytes | None,
    max_bytes: int,
    quotas: Quotas | None = None,
) -> ModelVersion:
    """Read a model from `body`, load it and store it; all of that or nothing.

    Args:
        repository: where to.
        model_id: whose version it will be.
        body: the request's body; ends early by raising.
        version: the version's number; None takes the next one.
        length: the body's length where the client gave it.
        content_type: of `FILE_TYPES` or `BUNDLE_TYPE`, without parameters.
        content_digest: the header Content-Digest, if any.
        max_bytes: longest body.
        quotas: of the account that uploads, in a cloud.

    Raises:
        InvalidModel: `model.content_type`, `model.digest`, `model.bundle`, `model.empty`, `model.version_exists`, or
            the engine's refusal.
        QuotaExceeded: as `Repository.admit`, and what loading it takes.
        Unavailable: `busy`; `unavailable.store`; `unavailable` when the body is cut; nobody is left to read it.
    """
    if content_type not in (*FILE_TYPES, BUNDLE_TYPE):
        raise InvalidModel(
            "the content type is neither that of an ONNX file nor that of a bundle",
            code="model.content_type",
            hint=f"send {FILE_TYPES[0]}, or {BUNDLE_TYPE} for a model with external data",
        )
    digest = ContentDigest(content_digest)
    with repository.admit(model_id, version=version, size=length or 0, quotas=quotas) as admission:
        draft = admission.begin(bundle=content_type == BUNDLE_TYPE, observe=digest.update)
        total = 0
        async for chunk in body:
            total += len(chunk)
            if total > max_bytes:
                raise model_too_large(max_bytes)
            if length is None:
                admission.grow(len(chunk))
            await draft.write(chunk)
        if not total:
            raise InvalidModel("the model is empty", code="model.empty", hint="send the file's bytes as the body")
        await draft.finish()
        digest.verify()
        return await repository.commit(admission, draft.stored)


def cut() -> Unavailable:
    """The error for a body whose client went away."""
    return Unavailable("the client went away in the middle of the body", code="unavailable")


def _digest_error(message: str) -> InvalidModel:
    return InvalidModel(message, code="model.digest", hint="send Content-Digest: sha-256=:<base64 of the digest>:")
