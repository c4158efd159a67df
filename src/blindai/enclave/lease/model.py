"""The sealed model: opened into memory with the key of a grant, and wiped from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from blindai.enclave.config import Custody
    from blindai.enclave.lease.line import Connection
    from blindai.enclave.model_version import ModelVersion
    from blindai.enclave.repository import Repository


class SealedModel:
    """Where the sealed model comes from, and where it goes.

    Args:
        custody: names the lease and the model.
        repository: where it goes.
        connect: calls the custodian, for where there is no file.
        path: the file, on the host's disk.
    """

    def __init__(
        self,
        custody: Custody,
        repository: Repository,
        connect: Callable[[], Awaitable[Connection]],
        path: Path | None,
    ) -> None:
        self._custody = custody
        self._repository = repository
        self._connect = connect
        self._path = path

    async def load(self, data_key: bytes, model_digest: str) -> ModelVersion:
        """Open it into memory; `data_key` is wiped, whatever becomes of it."""
        raise NotImplementedError

    async def wipe(self) -> None:
        """Leave nothing of it in memory. Harmless when there is nothing."""
