"""`blindai custodian seal`: a sealed model and its key, or neither."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from typer.testing import CliRunner, Result

from blindai.cli.app import app
from blindai.client.model_file import ModelBody
from blindai.crypto.stream import StreamDecryptor
from blindai.wire.sealed_model import read_head
from onnx_models import identity, model, value


def seal(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["custodian", "seal", *map(str, arguments)])


def opened(path: Path, key_file: Path) -> bytes:
    data = path.read_bytes()
    head = read_head(data)
    decryptor = StreamDecryptor(
        head.key(bytes.fromhex(key_file.read_text("ascii"))), chunk_bytes=head.header.chunk_bytes
    )
    body = bytearray(head.header.size)
    for number in range(head.header.chunks):
        chunk = head.header.chunk(number)
        sealed = data[chunk.offset : chunk.offset + chunk.length]
        decryptor.decrypt_into(sealed, memoryview(body)[chunk.start :], last=chunk.last)
    return bytes(body)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(identity())
    return path


def test_a_model_is_sealed_with_a_key_that_only_its_owner_reads(file: Path, tmp_path: Path) -> None:
    target, key_file = tmp_path / "model.sealed", tmp_path / "model.key"
    done = seal(file, "-o", target, "--key-file", key_file)
    assert (done.exit_code, done.stderr) == (0, "")
    assert key_file.stat().st_mode & 0o777 == 0o600
    key = key_file.read_text("ascii").strip()
    assert len(bytes.fromhex(key)) == 32
    assert key not in done.output
    assert hashlib.sha256(file.read_bytes()).hexdigest() in done.stdout
    assert opened(target, key_file) == file.read_bytes()


def test_external_data_is_sealed_as_it_would_be_uploaded(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    made = onnx.load_from_string(
        model(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            inputs=[value("x", shape=(1, 64))],
            outputs=[value("y", shape=(1, 64))],
            initializers=[weights],
        )
    )
    onnx.save_model(made, tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=16)
    target, key_file = tmp_path / "model.sealed", tmp_path / "model.key"
    done = seal(tmp_path / "model.onnx", "--output", target, "--key-file", key_file, "--json")
    assert done.exit_code == 0
    body = ModelBody.open(tmp_path / "model.onnx")
    assert json.loads(done.stdout) == {
        "sealed": str(target),
        "bytes": target.stat().st_size,
        "key_file": str(key_file),
        "model_digest": body.sha256.hex(),
        "model_bytes": body.content_length,
        "content_type": "application/x-tar",
        "files": ["model.onnx", "weights"],
    }
    assert opened(target, key_file) == b"".join(bytes(chunk) for chunk in body.chunks())


def test_a_key_is_never_overwritten(file: Path, tmp_path: Path) -> None:
    key_file = tmp_path / "model.key"
    key_file.write_text("the key of another model")
    done = seal(file, "-o", tmp_path / "model.sealed", "--key-file", key_file)
    assert (done.exit_code, "configuration.output" in done.output) == (2, True)
    assert key_file.read_text() == "the key of another model"
    assert not (tmp_path / "model.sealed").exists()


def test_a_model_that_is_none_makes_no_key(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"PK\x03\x04 a zip archive")
    done = seal(tmp_path / "model.onnx", "-o", tmp_path / "model.sealed", "--key-file", tmp_path / "model.key")
    assert (done.exit_code, "model.not_onnx" in done.output) == (5, True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("missing", ["sealed", "key"])
def test_where_one_cannot_be_written_the_other_is_not_kept(file: Path, tmp_path: Path, missing: str) -> None:
    (tmp_path / "a file").write_bytes(b"")
    nowhere = tmp_path / "a file" / "x"
    target, key_file = tmp_path / "model.sealed", tmp_path / "model.key"
    if missing == "sealed":
        target = nowhere
    else:
        key_file = nowhere
    done = seal(file, "-o", target, "--key-file", key_file, "--json")
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"]["code"] == "configuration.output"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "model.onnx"]
