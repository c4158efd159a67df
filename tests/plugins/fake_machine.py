"""A machine of files in memory, on which fake kernels can be mounted."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from blindai.attestation.attesters.files import Files


def refuse(number: int, path: str) -> OSError:
    """The error with which a system call on `path` ends."""
    return OSError(number, os.strerror(number), path)


class FakeMachine:
    """Plain files that can be read, and mounts that answer for all below their path.

    Args:
        files: content by path.
        mounts: what answers, by the path below which it does; it gets whole paths.
        denied: plain files that may not be opened.
    """

    def __init__(
        self,
        files: Mapping[str, bytes] | None = None,
        mounts: Mapping[str, Files] | None = None,
        denied: frozenset[str] = frozenset(),
    ) -> None:
        self._files = dict(files or {})
        self._mounts = dict(mounts or {})
        self._denied = denied

    def mounted(self, path: str) -> Files:
        """What answers at a mount."""
        return self._mounts[path]

    def _mount(self, path: str) -> Files | None:
        inside = [mount for prefix, mount in self._mounts.items() if path == prefix or path.startswith(f"{prefix}/")]
        return inside[0] if inside else None

    def read(self, path: str) -> bytes:
        if (mount := self._mount(path)) is not None:
            return mount.read(path)
        if path in self._denied:
            raise refuse(errno.EACCES, path)
        if path not in self._files:
            raise refuse(errno.ENOENT, path)
        return self._files[path]

    def write(self, path: str, data: bytes) -> None:
        if (mount := self._mount(path)) is None:
            raise refuse(errno.EACCES if path in self._files else errno.ENOENT, path)
        mount.write(path, data)

    def mkdir(self, path: str) -> None:
        if (mount := self._mount(path)) is None:
            raise refuse(errno.ENOENT, path)
        mount.mkdir(path)

    def rmdir(self, path: str) -> None:
        if (mount := self._mount(path)) is None:
            raise refuse(errno.ENOENT, path)
        mount.rmdir(path)

    def listdir(self, path: str) -> list[str]:
        if (mount := self._mount(path)) is not None:
            return mount.listdir(path)
        names = {name.removeprefix(f"{path}/").split("/")[0] for name in self._files if name.startswith(f"{path}/")}
        if not names:
            raise refuse(errno.ENOENT, path)
        return sorted(names)

    def exists(self, path: str) -> bool:
        if (mount := self._mount(path)) is not None:
            return mount.exists(path)
        return any(name == path or name.startswith(f"{path}/") for name in self._files)
