"""A folder of endorsements that outlives the process, and that several processes may use at once.

An entry is served for as long as its issuer signed it to be valid, and not a second longer. Files are replaced whole,
never changed. A file that cannot be parsed is moved out of the way, and the log says so.
"""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from platformdirs import user_cache_dir

from blindai.attestation.collateral.document import MAX_DOCUMENT_BYTES, Document, Entry, read, to_file
from blindai.errors import Unavailable

_DAMAGED = ".damaged"


class Log(Protocol):
    """Takes events, as a bound method of a structlog logger does."""

    def __call__(self, event: str, **fields: object) -> object: ...


def log_plainly(event: str, **fields: object) -> None:
    """The log where no other is given: the standard library's."""
    words = " ".join(f"{name}={value}" for name, value in fields.items())
    logging.getLogger("blindai.collateral").warning("%s %s", event, words)


class Cache:
    """Entries by the name of their document. Safe to use from several threads and processes.

    Args:
        directory: the folder, made on the first write, for its owner alone; None keeps everything in memory.
        log: where it says what it dropped.
    """

    def __init__(self, directory: Path | None, *, log: Log = log_plainly) -> None:
        self.directory = directory
        self._log = log
        self._memory: dict[str, Entry] = {}

    def load(self, document: Document, now: datetime) -> Entry | None:
        """The entry, if there is one that is valid at `now`; of disk and memory, the one that came later."""
        entries = [entry for entry in (self._from_disk(document), self._memory.get(document.name)) if entry is not None]
        current = [entry for entry in entries if entry.window.not_before <= now <= entry.window.not_after]
        return max(current, key=lambda entry: entry.fetched_at, default=None)

    def store(self, document: Document, entry: Entry) -> None:
        """Keep an entry. Where the folder cannot be written, it is kept in memory, and the log says so."""
        self._memory[document.name] = entry
        if self.directory is None:
            return
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(self.directory / document.name, to_file(document, entry), entry.fetched_at)
        except OSError as error:
            self._log("collateral_not_stored", document=document.name, error=str(error))

    def drop(self, document: Document, *, why: str) -> None:
        """Forget an entry that turned out to be damaged; its file stays beside under another name."""
        self._memory.pop(document.name, None)
        self._log("collateral_damaged", document=document.name, error=why)
        if self.directory is not None:
            path = self.directory / document.name
            with suppress(OSError):  # another process was faster, or the folder is not ours to write
                path.replace(path.with_name(path.name + _DAMAGED))

    def _from_disk(self, document: Document) -> Entry | None:
        if self.directory is None:
            return None
        path = self.directory / document.name
        try:
            with path.open("rb") as file:
                data = file.read(MAX_DOCUMENT_BYTES + 1)
                fetched_at = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._log("collateral_unreadable", document=document.name, error=str(error))
            return None
        try:
            return read(document, data[:MAX_DOCUMENT_BYTES], fetched_at=fetched_at)
        except Unavailable as error:
            self.drop(document, why=error.message)
            return None


def default_directory() -> Path:
    """Where this installation keeps endorsements."""
    return Path(user_cache_dir("blindai", appauthor=False)) / "collateral"


def _write(path: Path, content: bytes, fetched_at: datetime) -> None:
    """Replace `path`, whole or not at all; its time of change says when the content was fetched."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.utime(draft, (fetched_at.timestamp(), fetched_at.timestamp()))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
