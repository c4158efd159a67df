"""A file that one user may read, whole or not at all; one that is made once is on the disk before anything needs it."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

# Nobody but the owner may read, write or search.
PRIVATE_FILE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700

_OTHERS: Final = 0o077


def create(path: Path, content: bytes) -> bool:
    """Write `content` to `path` and its folder to the disk. Where there is a file already, that one stays.

    Returns:
        Whether the file is ours.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    path.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    made = False
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)  # unlike rename, link never replaces what is there
            made = True
    finally:
        draft.unlink()
    sync_folder(path.parent)
    return made


def replace(path: Path, content: bytes) -> None:
    """Write `content` to `path`, in place of what is there.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    path.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    # mkstemp makes it readable by its owner only.
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink()
        raise


def read(path: Path, limit: int) -> bytes:
    """What is in `path`.

    Args:
        limit: bytes that it may have.

    Raises:
        OSError: it cannot be read.
        PermissionError: others may read it.
        ValueError: it is longer than `limit`.
    """
    with path.open("rb") as file:
        # Windows keeps access apart from the mode, which says nothing there.
        if os.name == "posix" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & _OTHERS:
            raise PermissionError(f"others may read {path}; chmod 600 {path}")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path} has more than {limit} bytes")
    return content


def sync_folder(folder: Path) -> None:
    """Write the names in `folder` to the disk: a file that was put there is found again after a power cut."""
    if os.name != "posix":
        return  # a folder cannot be opened for this on Windows, whose file systems keep a journal of names
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
