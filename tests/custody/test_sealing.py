"""A sealed model is on the disk whole, or nothing of it is."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.crypto.stream import StreamDecryptor
from blindai.custody.sealing import SealedModel, new_data_key, seal
from blindai.errors import BlindAIError, ConfigurationError, InvalidModel
from blindai.wire.sealed_model import read_head

KEY = bytes(range(32))
BODY = bytes(range(256)) * 4


def sealed(target: Path, body: list[bytes] | None = None, **changes: Any) -> SealedModel:
    pieces = [BODY] if body is None else body
    whole = b"".join(pieces)
    described: dict[str, Any] = {
        "size": len(whole),
        "model_digest": hashlib.sha256(whole).hexdigest(),
        "content_type": "application/onnx",
        "target": target,
        "key": KEY,
        "chunk_bytes": 64,
    }
    return seal(pieces, **{**described, **changes})


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def opened(path: Path, key: bytes = KEY) -> bytes:
    """By the format alone, without the code that enclaves use."""
    data = path.read_bytes()
    head = read_head(data)
    assert len(data) == head.header.sealed_bytes
    decryptor = StreamDecryptor(head.key(key), chunk_bytes=head.header.chunk_bytes)
    body = bytearray(head.header.size)
    for number in range(head.header.chunks):
        chunk = head.header.chunk(number)
        plaintext = memoryview(body)[chunk.start :]
        decryptor.decrypt_into(data[chunk.offset : chunk.offset + chunk.length], plaintext, last=chunk.last)
    return bytes(body)


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=12).filter(lambda pieces: len(b"".join(pieces)) > 1))
def test_a_body_in_any_pieces_opens_again(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    target = tmp_path_factory.getbasetemp() / "model.sealed"
    made = sealed(target, pieces)
    assert opened(target) == b"".join(pieces)
    assert (made.path, made.header.sealed_bytes) == (target, target.stat().st_size)


def test_a_file_is_sealed_with_a_salt_of_its_own_and_for_its_owner_alone(tmp_path: Path) -> None:
    first, second = sealed(tmp_path / "a"), sealed(tmp_path / "b")
    assert first.header.salt != second.header.salt
    assert (tmp_path / "a").read_bytes()[-64:] != (tmp_path / "b").read_bytes()[-64:]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_another_sealed_model_is_replaced(tmp_path: Path) -> None:
    sealed(tmp_path / "model.sealed")
    sealed(tmp_path / "model.sealed", [BODY, BODY])
    assert opened(tmp_path / "model.sealed") == BODY + BODY
    assert names(tmp_path) == ["model.sealed"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"size": len(BODY) + 1}, "model.sealed_size"),
        ({"size": len(BODY) - 1}, "model.sealed_size"),
        ({"size": len(BODY) * 2}, "model.sealed_size"),
        ({"model_digest": "00" * 32}, "model.sealed_digest"),
    ],
)
def test_another_body_than_described_leaves_nothing(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    (tmp_path / "model.sealed").write_bytes(b"the one before")
    with pytest.raises(InvalidModel) as caught:
        sealed(tmp_path / "model.sealed", **changes)
    assert caught.value.code == code
    assert names(tmp_path) == ["model.sealed"]
    assert (tmp_path / "model.sealed").read_bytes() == b"the one before"


def test_a_body_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def body() -> Iterator[bytes]:
        yield BODY
        raise InvalidModel("became shorter", code="model.changed")

    with pytest.raises(InvalidModel) as caught:
        seal(
            body(),
            size=2 * len(BODY),
            model_digest="00" * 32,
            content_type="application/onnx",
            target=tmp_path / "model.sealed",
            key=KEY,
        )
    assert caught.value.code == "model.changed"
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "changes",
    [{"size": 1}, {"model_digest": "AB" * 32}, {"content_type": "text/plain"}, {"chunk_bytes": 1}],
)
def test_what_no_header_may_say_is_refused_before_anything_is_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        sealed(tmp_path / "model.sealed", **changes)
    assert names(tmp_path) == []


def test_a_key_of_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32"):
        sealed(tmp_path / "model.sealed", key=bytes(16))
    assert names(tmp_path) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file") as caught:
        sealed(tmp_path / "nowhere" / "model.sealed")
    assert caught.value.code == "configuration.output"


def test_a_full_disk_is_said_and_left_as_it_was(tmp_path: Path) -> None:
    """A process that may write files of 100 KiB; the kernel refuses the rest as it does on a full disk."""
    program = """
import hashlib, os, resource, signal, sys
from pathlib import Path
from blindai.custody.sealing import seal
from blindai.errors import ConfigurationError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 10, 100 << 10))
body = os.urandom(1 << 20)
try:
    seal([body], size=len(body), model_digest=hashlib.sha256(body).hexdigest(), content_type="application/onnx",
         target=Path(sys.argv[1]), key=bytes(32))
except ConfigurationError as error:
    print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model.sealed")], capture_output=True, text=True, check=True
    )
    assert "cannot be written: File too large [configuration.output]" in ended.stdout
    assert "nothing of it was kept" in ended.stdout
    assert names(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "write", "replace"])
def test_no_space_left_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif call == "write":
        monkeypatch.setattr("blindai.custody.sealing._write_all", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(BlindAIError, match="No space left on device") as caught:
        sealed(tmp_path / "model.sealed")
    assert caught.value.code == "configuration.output"
    assert names(tmp_path) == []


def test_data_keys_are_random_and_can_be_wiped() -> None:
    first, second = new_data_key(), new_data_key()
    assert isinstance(first, bytearray)
    assert len(first) == 32
    assert first != second
    assert any(first)
