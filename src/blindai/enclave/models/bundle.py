"""A model with its external data files, as one tar stream.

The stream is taken apart as it arrives: no file is ever written, and no byte is kept twice. Of tar only what
such a bundle needs is accepted: regular files with plain relative names. Headers are decoded by the standard
library (POSIX.1-1988 ustar, with GNU's base-256 sizes); links, folders, devices, sparse files and long-name
extensions are refused rather than followed.
"""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from blindai.enclave.limits import MAX_PAX_HEADER_BYTES
from blindai.errors import InvalidModel, QuotaExceeded
from blindai.wire.bundle import MAX_BUNDLE_FILES, MODEL_FILE, is_plain_name

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK: Final = tarfile.BLOCKSIZE
_EMPTY_BLOCK: Final = bytes(_BLOCK)
# pax records that would change which file this is; times, owners and comments do not.
_DECISIVE_PAX_KEYS: Final = (b"path", b"linkpath", b"size", b"GNU.sparse", b"hdrcharset")


_Content = TypeVar("_Content", bound="bytes | memoryview")
_Content_co = TypeVar("_Content_co", bound="bytes | memoryview", covariant=True)


class _Sink(Protocol[_Content_co]):
    """Where the content of one member goes."""

    def write(self, data: memoryview, /) -> object: ...

    def getvalue(self) -> _Content_co: ...


class _Members(Generic[_Content]):
    """Takes a tar stream apart. Every refusal is an InvalidModel with the code `model.bundle`."""

    def __init__(self, sink: Callable[[], _Sink[_Content]]) -> None:
        self._files: dict[str, _Content] = {}
        self._header = bytearray()
        self._member: tarfile.TarInfo | None = None
        self._sink = sink
        self._content = sink()
        self._left = 0
        self._padding = 0
        self._empty_blocks = 0

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the stream.

        Raises:
            InvalidModel: `model.bundle`.
            QuotaExceeded: `quota.model_size`, for more files than one bundle may have.
        """
        rest = memoryview(data)
        while rest:
            if self._member is not None and self._left:
                rest = self._take_content(rest)
            elif self._padding:
                skipped = min(self._padding, len(rest))
                self._padding -= skipped
                rest = rest[skipped:]
            else:
                missing = _BLOCK - len(self._header)
                self._header += rest[:missing]
                rest = rest[missing:]
                if len(self._header) == _BLOCK:
                    self._take_header(bytes(self._header))
                    self._header.clear()

    def files(self) -> tuple[_Content, dict[str, _Content]]:
        """The model file, and the other files by name.

        Raises:
            InvalidModel: `model.bundle`, when the stream ended early or has no model file.
        """
        if self._member is not None or self._header or self._padding or self._empty_blocks < 2:
            raise _refuse("it ends too early")
        others = dict(self._files)
        model = others.pop(MODEL_FILE, None)
        if model is None:
            raise _refuse(f"it has no file {MODEL_FILE}")
        return model, others

    def _take_content(self, rest: memoryview) -> memoryview:
        taken = rest[: self._left]
        self._content.write(taken)
        self._left -= len(taken)
        if not self._left:
            self._end_member()
        return rest[len(taken) :]

    def _take_header(self, block: bytes) -> None:
        if block == _EMPTY_BLOCK:
            self._empty_blocks += 1
            return
        if self._empty_blocks:
            raise _refuse("data follows its end")
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise _refuse("a header in it is damaged, or it is no tar file") from error
        if member.size < 0:
            raise _refuse("a file in it has a negative size")
        if member.type in {tarfile.XHDTYPE, tarfile.XGLTYPE}:
            if member.size > MAX_PAX_HEADER_BYTES:
                raise _refuse("an extended header in it is too long")
        else:
            self._check(member)
        self._member = member
        self._content = self._sink()
        self._left = member.size
        self._padding = -member.size % _BLOCK
        if not self._left:
            self._end_member()

    def _check(self, member: tarfile.TarInfo) -> None:
        name = member.name
        if member.type not in {tarfile.REGTYPE, tarfile.AREGTYPE}:
            raise _refuse("it holds something that is not a plain file")
        if not is_plain_name(name):
            raise _refuse("a name in it is not a plain relative name")
        if name in self._files:
            raise _refuse("a name in it comes twice")
        if len(self._files) >= MAX_BUNDLE_FILES:
            raise QuotaExceeded(f"a bundle may hold {MAX_BUNDLE_FILES} files", code="quota.model_size")

    def _end_member(self) -> None:
        member, content = self._member, self._content.getvalue()
        self._member, self._content = None, self._sink()
        if member is None:
            raise AssertionError("a member ended that never began")
        if member.type in {tarfile.XHDTYPE, tarfile.XGLTYPE}:
            _check_pax(bytes(content))
        else:
            self._files[member.name] = content


class Bundle(_Members[bytes]):
    """Takes the bytes of a tar stream as they arrive and gives the files in it.

    Feed it with `write` and end it with `files`.
    """

    def __init__(self) -> None:
        super().__init__(io.BytesIO)


class _View:
    """The content of a member that comes in one piece, as the part of the stream that it is."""

    def __init__(self) -> None:
        self._view = memoryview(b"")

    def write(self, data: memoryview) -> None:
        self._view = data

    def getvalue(self) -> memoryview:
        return self._view


def split(body: memoryview) -> tuple[memoryview, dict[str, memoryview]]:
    """The model file in a whole bundle, and the other files by name. They are views of `body`: nothing is copied.

    Raises:
        InvalidModel: `model.bundle`.
        QuotaExceeded: `quota.model_size`, for more files than one bundle may have.
    """
    members = _Members(_View)
    members.write(body)
    return members.files()


def _check_pax(content: bytes) -> None:
    for line in content.split(b"\n"):
        key = line.partition(b" ")[2].partition(b"=")[0]
        if key.startswith(_DECISIVE_PAX_KEYS):
            raise _refuse("an extended header in it gives another name or size")


def _refuse(reason: str) -> InvalidModel:
    return InvalidModel(
        f"the bundle was refused: {reason}",
        code="model.bundle",
        hint=f"a bundle is a tar of plain files: {MODEL_FILE} and the data files it names",
    )
