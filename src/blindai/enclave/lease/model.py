"""The model on loan: fetched, opened into memory with the key of a grant, and taken out of it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from blindai.crypto.wipe import wipe
from blindai.enclave.line import Line
from blindai.enclave.models.sealed_model import SealedFile
from blindai.errors import Unavailable
from blindai.wire.custody import ARTEFACTS, ArtefactRange

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from blindai.enclave.config import Custody
    from blindai.enclave.line import Connection
    from blindai.enclave.models.model_version import ModelVersion
    from blindai.enclave.models.repository import Repository
    from blindai.enclave.models.sealed_model import SealedSource
    from blindai.enclave.running.inference import Inference

# One part of the sealed model, of up to 8 MiB: a line slower than half a megabyte a second is of no use.
_PART_SECONDS: Final = 16.0

# What one part may bring on top of what was asked for: nothing, or the words of a refusal.
_MAX_REFUSAL_BYTES: Final = 64 << 10


class SealedArtefact:
    """A sealed model at the custodian, read over a connection of its own: renewals do not wait for it.

    Args:
        lease: whose model it is.
        line: to the custodian.
    """

    def __init__(self, lease: str, line: Line) -> None:
        self._lease = lease
        self._line = line

    async def read(self, offset: int, length: int) -> bytes:
        """As `SealedSource.read`.

        Raises:
            BlindAIError: the custodian refuses or cannot be reached.
        """
        message = ArtefactRange(lease=self._lease, offset=offset, length=length)
        return await self._line.fetch(ARTEFACTS, message, max_bytes=length + _MAX_REFUSAL_BYTES, seconds=_PART_SECONDS)


class _Stoppable:
    """A source that can be made to give nothing any more."""

    def __init__(self, source: SealedSource) -> None:
        self._source = source
        self.stopped = False

    async def read(self, offset: int, length: int) -> bytes:
        if self.stopped:
            raise Unavailable("the model is not wanted any more", code="lease.waiting")
        return await self._source.read(offset, length)


class LoanedModel:
    """The one model of a lease. Its methods are called one at a time, but for `abort`.

    Args:
        custody: names the lease and the model.
        repository: where it goes.
        inference: runs it.
        connect: calls the custodian, for where there is no file.
        path: the sealed model on the host's disk, which need not be trusted with it.
    """

    def __init__(
        self,
        custody: Custody,
        repository: Repository,
        inference: Inference,
        *,
        connect: Callable[[], Awaitable[Connection]],
        path: Path | None,
    ) -> None:
        self._custody = custody
        self._repository = repository
        self._inference = inference
        self._connect = connect
        self._path = path
        self._source: _Stoppable | None = None
        self._version: ModelVersion | None = None

    async def load(self, data_key: bytes, model_digest: str) -> ModelVersion:
        """Open the model into memory.

        Args:
            data_key: nobody else holds it; wiped, whatever becomes of the model.
            model_digest: what it must be, by the grant.

        Raises:
            BlindAIError: as `Repository.install_leased`; nothing of the model is in memory.
        """
        line = Line(self._connect)
        self._source = _Stoppable(
            SealedArtefact(self._custody.lease, line) if self._path is None else SealedFile(self._path)
        )
        try:
            self._version = await self._repository.install_leased(
                self._custody.model, self._source, data_key, model_digest=model_digest
            )
        finally:
            wipe(data_key)
            self._source = None
            line.cut()
        return self._version

    def abort(self) -> None:
        """Let a load that is under way fail soon."""
        if self._source is not None:
            self._source.stopped = True

    async def wipe(self, cancel: Callable[[], None], reason: str) -> bool:
        """Take the model out of memory, and what its runs left on their threads; whether it was there.

        Args:
            cancel: stops the runs in progress.
            reason: as a code, for the repository's index.
        """
        version, self._version = self._version, None
        if version is None:
            return False
        await self._repository.revoke(version, reason=reason, cancel=cancel)
        await self._inference.wipe_threads()
        return True
