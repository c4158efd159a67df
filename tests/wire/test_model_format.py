from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile

import numpy as np
import onnx
import pytest
from onnx import helper

from blindai.wire.model_format import HEAD_BYTES, foreign_format


def zipped(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return content.getvalue()


def tarred() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"))
    return content.getvalue()


def saved() -> bytes:
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "what", "hint"),
    [
        (pickle.dumps({}, protocol=2), "pickle", "torch.onnx.export"),
        (pickle.dumps({}, protocol=3), "pickle", "torch.onnx.export"),
        (pickle.dumps({}, protocol=4), "pickle", "torch.onnx.export"),
        (pickle.dumps({}, protocol=5), "pickle", "torch.onnx.export"),
        (zipped("model/data.pkl"), "PyTorch", "torch.onnx.export"),
        (zipped(), "zip", "torch.onnx.export"),
        (gzip.compress(b"model", mtime=0), "gzip", "unpack"),
        (tarred(), "tar", "unpack"),
        (b"GGUF\x03\0\0\0" + bytes(64), "GGUF", "ONNX"),
        (b'\x40\0\0\0\0\0\0\0{"w":{"dtype":"F32"}}', "safetensors", "torch.onnx.export"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5", "tf2onnx"),
        (saved(), "NumPy", "ONNX"),
        (b"\x1c\0\0\0TFL3" + bytes(64), "TensorFlow Lite", "tf2onnx"),
        (b"\x1c\0\0\0ORTM" + bytes(64), "ONNX Runtime's own format", "ONNX file"),
        (b"<!DOCTYPE html><html>", "web page", "downloaded"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS", "git lfs pull"),
    ],
)
def test_other_formats_are_named(content: bytes, what: str, hint: str) -> None:
    found = foreign_format(content[:HEAD_BYTES])
    assert found is not None
    assert what in found.what
    assert hint in found.hint


def test_onnx_files_are_not_taken_for_something_else() -> None:
    graph = helper.make_graph([], "g", [], [])
    producers = ["", "pytorch", "skl2onnx", "tf2onnx", "keras2onnx", "OnnxMLTools", "onnx.quantize", "{}", "PK", "GGUF"]
    for ir_version in range(3, onnx.IR_VERSION + 1):
        for producer in producers:
            model = helper.make_model(graph, ir_version=ir_version, producer_name=producer)
            assert foreign_format(model.SerializeToString()[:HEAD_BYTES]) is None
    assert foreign_format(b"") is None
