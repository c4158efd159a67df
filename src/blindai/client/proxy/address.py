"""Where the proxy may listen: on loopback, or on a Unix socket that only its owner can open. Nowhere else."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blindai.errors import ConfigurationError

DEFAULT_LISTEN: Final = "127.0.0.1:8080"

# Connections that wait to be accepted.
BACKLOG: Final = 128

_FORM: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+)):([0-9]{1,5})")
_PRIVATE_UMASK: Final = 0o177  # what is left is reading and writing by the owner: mode 0600
_OTHERS_MAY_WRITE: Final = 0o022
_ADMINISTRATOR: Final = 0


@dataclass(frozen=True)
class LoopbackAddress:
    """A TCP address that only this machine reaches.

    Attributes:
        host: an IP address of 127.0.0.0/8, or ::1.
        port: 0 takes a free one.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> LoopbackAddress:
        """Read `127.0.0.1:8080`, `[::1]:8080` or `localhost:8080`. No name is looked up.

        Raises:
            ConfigurationError: `proxy.address`.
        """
        found = _FORM.fullmatch(text)
        if found is None or int(found[3]) > 0xFFFF:
            raise _refused(f"{text!r} is no address to listen on", "write 127.0.0.1:8080, or [::1]:8080")
        host = found[1] or found[2]
        if host.lower() == "localhost":
            host = "127.0.0.1"
        try:
            loopback = ipaddress.ip_address(host).is_loopback and not _is_mapped(host)
        except ValueError:
            loopback = False
        if not loopback:
            raise _refused(
                f"the proxy does not listen on {host}: whoever reaches its port acts as you",
                "listen on 127.0.0.1 or [::1]; other machines can run a proxy of their own",
            )
        return cls(host, int(found[3]))

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @contextmanager
    def listening(self) -> Iterator[tuple[socket.socket, LoopbackAddress]]:
        """A listening socket in this block, and the address with the port it has.

        Raises:
            ConfigurationError: `proxy.address`, it is taken.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            made = socket.create_server((self.host, self.port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise _refused(
                f"cannot listen on {self.url}: {error.strerror or error}",
                "is another program there? choose another port",
            ) from error
        with made as listener:
            listener.settimeout(0)
            # What is accepted has it too. asyncio sees to it only where a socket names its protocol; this one does not.
            # Without it, each answer on a connection that stays open waits 40 ms for its second packet.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield listener, LoopbackAddress(self.host, listener.getsockname()[1])


@dataclass(frozen=True)
class UnixAddress:
    """A socket in the file system, with mode 0600."""

    path: Path

    @property
    def url(self) -> str:
        return f"unix:{self.path}"

    @contextmanager
    def listening(self) -> Iterator[tuple[socket.socket, UnixAddress]]:
        """A listening socket in this block; the file is gone after it.

        Raises:
            ConfigurationError: `proxy.address`, there is something at the path, or others may write to its folder.
        """
        if not hasattr(socket, "AF_UNIX"):
            raise _refused("this system has no Unix sockets", "listen on 127.0.0.1")
        self._require_own_folder()
        self._remove_abandoned()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # The mode from the very beginning: between bind and chmod, anyone could connect.
            before = os.umask(_PRIVATE_UMASK)
            try:
                listener.bind(os.fspath(self.path))
            finally:
                os.umask(before)
            listener.listen(BACKLOG)
            listener.settimeout(0)
            made = self.path.lstat()
            if stat.S_IMODE(made.st_mode) & ~0o600:
                self.path.unlink()
                raise _refused(f"the file system gives {self.path} another mode than 0600", "choose another folder")
        except OSError as error:
            listener.close()
            raise _refused(f"cannot listen on {self.path}: {error.strerror or error}", "") from error
        with listener:
            try:
                yield listener, self
            finally:
                with contextlib.suppress(OSError):
                    if os.path.samestat(self.path.lstat(), made):
                        self.path.unlink()

    def _require_own_folder(self) -> None:
        """Whoever may rename files in the folder could put a socket of their own in the place of ours."""
        try:
            folder = self.path.absolute().parent.stat()
        except OSError as error:
            raise _refused(f"cannot listen on {self.path}: {error.strerror or error}", "") from error
        sticky = folder.st_mode & stat.S_ISVTX
        foreign = folder.st_uid not in {os.getuid(), _ADMINISTRATOR}
        if foreign or (folder.st_mode & _OTHERS_MAY_WRITE and not sticky):
            raise _refused(f"others may write to {self.path.absolute().parent}", "choose a folder of your own")

    def _remove_abandoned(self) -> None:
        """A socket of ours on which nobody listens any more, such as one of a proxy that was killed."""
        try:
            there = self.path.lstat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise _refused(f"cannot listen on {self.path}: {error.strerror or error}", "") from error
        if stat.S_ISSOCK(there.st_mode) and there.st_uid == os.getuid():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(os.fspath(self.path))
                except ConnectionRefusedError:
                    self.path.unlink()
                    return
                except OSError as error:
                    raise _refused(f"cannot listen on {self.path}: {error.strerror or error}", "") from error
        raise _refused(f"there is something at {self.path} already", "is another proxy running there?")


ListenAddress = LoopbackAddress | UnixAddress


def _is_mapped(host: str) -> bool:
    """An IPv4 address in IPv6: what such a socket accepts depends on the system."""
    address = ipaddress.ip_address(host)
    return isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None


def _refused(message: str, hint: str) -> ConfigurationError:
    return ConfigurationError(message, code="proxy.address", hint=hint)
