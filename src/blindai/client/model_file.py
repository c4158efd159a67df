"""What `upload_model` sends: one ONNX file, or a tar of it and its external data files, and of what makes it take text.

What can be judged here is judged before a byte leaves; whether the model can run is for the server to say.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias

import msgspec

from blindai.client.external_data import external_data
from blindai.errors import InvalidModel
from blindai.wire.bundle import BUNDLE_TYPE, MAX_BUNDLE_FILES, MODEL_FILE, ONNX_TYPE, is_plain_name
from blindai.wire.model_format import HEAD_BYTES, foreign_format
from blindai.wire.task import MAX_TASK_BYTES, MAX_TOKENIZER_BYTES, TASK_FILE, TOKENIZER_FILE, TextTask, refused_task
from blindai.wire.tensor import quoted

if TYPE_CHECKING:
    import onnx

ModelSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | onnx.ModelProto"

TaskSource: TypeAlias = "TextTask | str | Mapping[str, Any]"
"""What a model does with text: the name of a task, or all that may stand in its file."""

CHUNK_BYTES: Final = 1 << 20
"""What is read, hashed and handed on at a time."""

MAX_ONNX_BYTES: Final = 2**31 - 1
"""The largest message that protobuf libraries read; larger models keep their weights in other files."""

# ustar writes a length as 11 octal digits; GNU's header can state more, but holds shorter names.
_USTAR_LIMIT: Final = 8**11


class _Part(msgspec.Struct, frozen=True):
    """A file of the upload: its name in the bundle, its length, and where its bytes are."""

    name: str
    size: int
    content: Path | bytes

    def open(self) -> BinaryIO:
        return self.content.open("rb") if isinstance(self.content, Path) else io.BytesIO(self.content)

    def chunks(self) -> Iterator[bytes | memoryview]:
        if isinstance(self.content, bytes):
            view = memoryview(self.content)
            yield from (view[start : start + CHUNK_BYTES] for start in range(0, self.size, CHUNK_BYTES))
            return
        left = self.size
        try:
            with self.content.open("rb", buffering=0) as file:
                while left:
                    data = file.read(min(left, CHUNK_BYTES))
                    if not data:
                        raise _refuse("model.changed", f"{self.content} became shorter while it was read")
                    left -= len(data)
                    yield data
        except OSError as error:
            raise _unreadable(error) from error


class ModelBody:
    """The body of an upload.

    It is read twice, once for its digest and once to be sent, and never held in memory whole (unless it came as
    bytes). A file that changes in between is refused by the server, whose digest then differs.

    Attributes:
        content_type: `application/onnx`, or `application/x-tar` for a model of several files.
        content_length: in bytes.
        sha256: digest of the body.
        files: names in the bundle; one name for a single file.
    """

    __slots__ = ("_parts", "content_length", "content_type", "files", "sha256")

    def __init__(self, parts: tuple[_Part, ...]) -> None:
        self._parts = parts
        self.files = tuple(part.name for part in parts)
        self.content_type = ONNX_TYPE if len(parts) == 1 else BUNDLE_TYPE
        digest, length = hashlib.sha256(), 0
        for chunk in self.chunks():
            digest.update(chunk)
            length += len(chunk)
        self.content_length = length
        self.sha256 = digest.digest()

    @classmethod
    def open(
        cls,
        source: ModelSource,
        *,
        tokenizer: str | os.PathLike[str] | bytes | None = None,
        task: TaskSource | None = None,
    ) -> ModelBody:
        """Check a model and make it ready to be sent.

        Args:
            source: path of an ONNX file, beside which its external data files are; or of a folder with `model.onnx`,
                `tokenizer.json` and `blindai-task.json`; or such a file's bytes; or an `onnx.ModelProto` that holds
                all its weights.
            tokenizer: path of `tokenizer.json`, or its content.
            task: what the model does with text.

        Raises:
            InvalidModel: `model.file_missing`, `model.file_type`, `model.file_unreadable`, `model.changed`,
                `model.empty`, `model.not_onnx`, `model.truncated`, `model.damaged`, `model.too_complex`,
                `model.too_large`, `model.external_data_missing`, `model.external_data_path`,
                `model.external_data_truncated`, `model.tokenizer`, `model.task_file`.
        """
        if isinstance(source, str | os.PathLike) and os.path.isdir(source):  # noqa: PTH112  # pathlib's raises for odd names
            source, tokenizer, task = _folder(Path(source), tokenizer, task)
        model, path = _model_part(source)
        try:
            _require_onnx(model)
            with model.open() as file:
                needed = external_data(file, model.size)
            return cls((model, *_external_parts(path, needed), *_text_parts(tokenizer, task, needed)))
        except OSError as error:
            raise _unreadable(error) from error

    @property
    def content_digest(self) -> str:
        """The header Content-Digest (RFC 9530, section 2)."""
        return f"sha-256=:{base64.b64encode(self.sha256).decode()}:"

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The body, from its beginning each time, in pieces of at most `CHUNK_BYTES`.

        Raises:
            InvalidModel: `model.changed`, a file became shorter; `model.file_unreadable`, it is gone.
        """
        if len(self._parts) == 1:
            yield from self._parts[0].chunks()
            return
        for part in self._parts:
            yield _tar_header(part.name, part.size)
            yield from part.chunks()
            if part.size % tarfile.BLOCKSIZE:
                yield bytes(-part.size % tarfile.BLOCKSIZE)
        yield bytes(2 * tarfile.BLOCKSIZE)


def _model_part(source: ModelSource) -> tuple[_Part, Path | None]:
    """The ONNX file itself, and the path it came from, if any."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return _Part(MODEL_FILE, _file_size(path), path), path
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)  # the same object if it is bytes already; else a copy that nobody can change
        return _Part(MODEL_FILE, len(content), content), None
    serialize = getattr(source, "SerializeToString", None)
    if serialize is None or not hasattr(source, "graph"):
        message = f"a {type(source).__name__} is no model"
        raise _refuse("model.not_onnx", message, "give a path, bytes or an onnx.ModelProto")
    if source.ByteSize() > MAX_ONNX_BYTES:
        raise _too_large(source.ByteSize())
    content = serialize()
    return _Part(MODEL_FILE, len(content), content), None


def _file_size(path: Path) -> int:
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        raise _refuse("model.file_missing", f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise _unreadable(error) from error
    if not path.is_file():
        raise _refuse("model.file_type", f"{path} is not a regular file")
    return size


def _folder(
    folder: Path, tokenizer: str | os.PathLike[str] | bytes | None, task: TaskSource | None
) -> tuple[Path, str | os.PathLike[str] | bytes, TaskSource]:
    """The files of a model that takes text; what is given beside the folder goes before what is in it."""
    task_file = folder / TASK_FILE
    if task is None and not task_file.is_file():
        found = ", ".join(sorted(child.name for child in folder.glob("*.onnx"))[:3])
        hint = f"it holds {found}: give its path" if found else "give the path of the .onnx file"
        raise _refuse("model.file_type", f"{folder} is a folder without {TASK_FILE}", hint)
    if task is None:
        if task_file.stat().st_size > MAX_TASK_BYTES:
            raise refused_task(f"it has more than {MAX_TASK_BYTES} bytes")
        task = TextTask.parse(task_file.read_bytes())
    return folder / MODEL_FILE, folder / TOKENIZER_FILE if tokenizer is None else tokenizer, task


def _text_parts(
    tokenizer: str | os.PathLike[str] | bytes | None, task: TaskSource | None, needed: Mapping[str, int]
) -> tuple[_Part, ...]:
    """The tokenizer and the task file."""
    if tokenizer is None and task is None:
        return ()
    if tokenizer is None:
        raise _refuse("model.tokenizer", "a model that takes text needs its tokenizer", f"give its {TOKENIZER_FILE}")
    if task is None:
        raise _refuse(
            "model.task_file", "a model with a tokenizer needs a task", 'say what it does, as in task="embed"'
        )
    taken = {TOKENIZER_FILE, TASK_FILE} & set(needed)
    if taken:
        message = f"the model keeps weights in {taken.pop()}, which has another meaning in a bundle"
        raise _refuse("model.external_data_path", message, "rename the data file")
    if isinstance(tokenizer, bytes):
        part = _Part(TOKENIZER_FILE, len(tokenizer), tokenizer)
    else:
        path = Path(tokenizer)
        part = _Part(TOKENIZER_FILE, _file_size(path), path)
    if part.size > MAX_TOKENIZER_BYTES:
        message = f"the tokenizer has {part.size} bytes, at most {MAX_TOKENIZER_BYTES} are accepted"
        raise _refuse("model.tokenizer", message)
    content = _task(task).encode()
    return part, _Part(TASK_FILE, len(content), content)


def _task(source: TaskSource) -> TextTask:
    if isinstance(source, TextTask):
        source = msgspec.to_builtins(source)
    try:
        return msgspec.convert({"task": source} if isinstance(source, str) else source, TextTask)
    except msgspec.ValidationError as error:
        raise refused_task(str(error)) from None


def _require_onnx(model: _Part) -> None:
    """Refuse what is recognisably something else. The server judges the model itself."""
    where = str(model.content) if isinstance(model.content, Path) else "the model"
    if not model.size:
        raise _refuse("model.empty", f"{where} is empty")
    with model.open() as file:
        foreign = foreign_format(file.read(HEAD_BYTES))
    if foreign is not None:
        raise _refuse("model.not_onnx", f"{where} is {foreign.what}, not an ONNX file", foreign.hint)
    if model.size > MAX_ONNX_BYTES:
        raise _too_large(model.size)


def _external_parts(path: Path | None, needed: dict[str, int]) -> tuple[_Part, ...]:
    """The files that hold the model's weights, in the order of their names."""
    if not needed:
        return ()
    for location, length in needed.items():
        if not is_plain_name(location) or location == MODEL_FILE:
            message = f"the model keeps weights in {quoted(location)}, which is not the name of another file beside it"
            raise _refuse("model.external_data_path", message, "save it with its data files in its own folder")
        _tar_header(location, length)
    if path is None:
        message = f"the model keeps its weights in other files: {_listed(needed)}"
        raise _refuse("model.external_data_missing", message, "give the model's path instead of its content")
    missing = [location for location in sorted(needed) if not (path.parent / location).is_file()]
    if missing:
        message = f"the model keeps weights in files that are not beside {path}: {_listed(missing)}"
        raise _refuse("model.external_data_missing", message, f"put them into {path.parent.resolve()}")
    if len(needed) >= MAX_BUNDLE_FILES:
        message = f"the model keeps its weights in {len(needed)} files, at most {MAX_BUNDLE_FILES - 1} are accepted"
        raise _refuse("model.too_large", message, "save all tensors to one file")
    return tuple(_external_part(path, location, needed[location]) for location in sorted(needed))


def _external_part(path: Path, location: str, needed: int) -> _Part:
    file = path.parent / location
    # A model from a stranger must not pick the files that leave this machine. Links inside the model's folder are
    # fine, and so is the folder that the model's own link leads to: download caches are laid out like that.
    target = file.resolve()
    if not any(target.is_relative_to(folder) for folder in (path.parent.resolve(), path.resolve().parent)):
        message = f"the data file {file} is a link to {target}, outside the model's folder"
        raise _refuse("model.external_data_path", message, "put the file itself there")
    size = file.stat().st_size
    if size < needed:
        message = f"the data file {file} has {size} bytes, the model needs {needed} of it"
        raise _refuse("model.external_data_truncated", message, "copy or download it once more")
    return _Part(location, size, file)


def _tar_header(name: str, size: int) -> bytes:
    """One block, the same for the same name and length: no times, no owners."""
    member = tarfile.TarInfo(name)
    member.size = size
    try:
        if size < _USTAR_LIMIT:
            header = member.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
        else:
            header = member.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
    except ValueError:
        header = b""
    if len(header) != tarfile.BLOCKSIZE:
        message = f"the name of the data file {quoted(name)} is too long"
        raise _refuse("model.external_data_path", message, "at most 100 bytes")
    return header


def _listed(names: dict[str, int] | list[str]) -> str:
    first = sorted(names)[:5]
    return ", ".join(first) + (f" and {len(names) - len(first)} more" if len(names) > len(first) else "")


def _too_large(size: int) -> InvalidModel:
    message = f"the ONNX file has {size} bytes; protobuf reads at most {MAX_ONNX_BYTES}"
    hint = "save it with its weights in another file: onnx.save(..., save_as_external_data=True)"
    return _refuse("model.too_large", message, hint)


def _unreadable(error: Exception) -> InvalidModel:
    return _refuse("model.file_unreadable", f"the model cannot be read: {error}")


def _refuse(code: str, message: str, hint: str = "") -> InvalidModel:
    return InvalidModel(message, code=code, hint=hint)
