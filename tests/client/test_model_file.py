from __future__ import annotations

import base64
import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from blindai.client import model_file
from blindai.client.model_file import CHUNK_BYTES, ModelBody, ModelSource
from blindai.demo.patients import load_model
from blindai.enclave.models.bundle import Bundle
from blindai.errors import InvalidModel
from blindai.wire.bundle import MAX_BUNDLE_FILES


def network(size: int = 64, count: int = 1) -> onnx.ModelProto:
    """y = x + w0 + w1 + ..., each w of 4 * size bytes."""
    names = [f"w{index}" for index in range(count)]
    nodes = [helper.make_node("Add", [f"x{index}", name], [f"x{index + 1}"]) for index, name in enumerate(names)]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [size])],
            [helper.make_tensor_value_info(f"x{count}", TensorProto.FLOAT, [size])],
            initializer=[numpy_helper.from_array(np.full(size, 1.5, np.float32), name) for name in names],
        )
    )


def save_external(folder: Path, *, count: int = 1, location: str = "model.onnx.data", one_file: bool = True) -> Path:
    """An ONNX file with its weights beside it, as exporters write it."""
    path = folder / "model.onnx"
    onnx.save(
        network(count=count),
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=one_file,
        location=location if one_file else None,
        size_threshold=0,
    )
    return path


def relocate(path: Path, location: str) -> None:
    """Let the model at `path` say that its weights are somewhere else."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())


def refusal(source: Any) -> InvalidModel:
    with pytest.raises(InvalidModel) as caught:
        ModelBody.open(source)
    return caught.value


def body_of(source: ModelSource) -> bytes:
    return b"".join(ModelBody.open(source).chunks())


# One file.


def test_single_file_is_sent_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "anything.bin"
    path.write_bytes(load_model())
    for source in (path, str(path)):
        body = ModelBody.open(source)
        assert b"".join(body.chunks()) == load_model()
        assert body.content_type == "application/onnx"
        assert body.content_length == len(load_model())
        assert body.sha256 == hashlib.sha256(load_model()).digest()
        assert body.content_digest == f"sha-256=:{base64.b64encode(body.sha256).decode()}:"
        assert body.files == ("model.onnx",)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_sent_as_they_are(kind: Any) -> None:
    assert body_of(kind(load_model())) == load_model()


def test_bytes_are_not_copied() -> None:
    content = network(CHUNK_BYTES).SerializeToString()
    chunks = list(ModelBody.open(content).chunks())
    assert all(isinstance(chunk, memoryview) and chunk.obj is content for chunk in chunks)


def test_bytearray_may_change_afterwards() -> None:
    content = bytearray(load_model())
    body = ModelBody.open(content)
    content[:] = bytes(len(content))
    assert b"".join(body.chunks()) == load_model()


def test_model_object_is_serialised() -> None:
    model = network()
    assert onnx.load_model_from_string(body_of(model)) == model


def test_body_comes_in_bounded_pieces_and_again_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(network(CHUNK_BYTES).SerializeToString())
    for source in (path, path.read_bytes()):
        body = ModelBody.open(source)
        sizes = [len(chunk) for chunk in body.chunks()]
        assert sizes[:4] == [CHUNK_BYTES] * 4
        assert len(sizes) == 5
        assert b"".join(body.chunks()) == b"".join(body.chunks()) == path.read_bytes()


def test_file_of_another_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(pickle.dumps({"w": 1}))
    error = refusal(path)
    assert error.code == "model.not_onnx"
    assert error.message == f"{path} is a Python pickle, not an ONNX file"
    assert "torch.onnx.export" in error.hint
    assert refusal(path.read_bytes()).code == "model.not_onnx"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (load_model()[:-1], "model.truncated"),
        (load_model()[:100], "model.truncated"),
        (bytes(64), "model.truncated"),
        (b"not a model", "model.damaged"),
    ],
)
def test_damaged_models_are_refused(content: bytes, code: str) -> None:
    assert refusal(content).code == code


def test_empty_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    assert refusal(path).code == "model.empty"
    assert refusal(b"").code == "model.empty"


def test_missing_files_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "model.onnx").code == "model.file_missing"
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file" / "model.onnx").code == "model.file_missing"


def test_folder_is_refused_and_what_is_in_it_named(tmp_path: Path) -> None:
    assert refusal(tmp_path).code == "model.file_type"
    assert "path of the .onnx file" in refusal(tmp_path).hint
    (tmp_path / "decoder.onnx").touch()
    assert "decoder.onnx" in refusal(tmp_path).hint


@pytest.mark.parametrize("path", ["model\0.onnx", "m" * 5000])
def test_paths_that_no_file_has_are_refused(path: str) -> None:
    assert refusal(path).code == "model.file_unreadable"


def test_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(load_model())

    def deny(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", deny)  # root, whom tests may run as, is denied nothing
    error = refusal(path)
    assert error.code == "model.file_unreadable"
    assert str(path) in error.message


def test_device_is_refused() -> None:
    if Path(os.devnull).exists():
        assert refusal(os.devnull).code == "model.file_type"


@pytest.mark.parametrize("source", [None, 3, np.zeros(3), network().graph])
def test_other_objects_are_refused(source: object) -> None:
    assert refusal(source).code == "model.not_onnx"


def test_model_beyond_the_limit_of_protobuf_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(load_model())
    with path.open("r+b") as file:
        file.truncate(2**31)  # sparse: it takes no space
    error = refusal(path)
    assert error.code == "model.too_large"
    assert "save_as_external_data" in error.hint
    monkeypatch.setattr(model_file, "MAX_ONNX_BYTES", 100)
    assert refusal(network()).code == "model.too_large"


# A model with external data.


def members(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        found = {}
        for member in archive.getmembers():
            assert member.isreg()
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
            file = archive.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
        return found


def test_data_file_is_bundled(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    body = ModelBody.open(path)
    content = b"".join(body.chunks())
    assert body.content_type == "application/x-tar"
    assert body.content_length == len(content)
    assert body.sha256 == hashlib.sha256(content).digest()
    found = members(content)
    assert list(found) == list(body.files) == ["model.onnx", "model.onnx.data"]
    assert found["model.onnx"] == path.read_bytes()
    assert found["model.onnx.data"] == (tmp_path / "model.onnx.data").read_bytes()


def test_enclave_takes_the_bundle_apart(tmp_path: Path) -> None:
    path = save_external(tmp_path, count=3, one_file=False)
    bundle = Bundle()
    for chunk in ModelBody.open(path).chunks():
        bundle.write(bytes(chunk))
    assert bundle.files() == (
        path.read_bytes(),
        {f"w{index}": (tmp_path / f"w{index}").read_bytes() for index in range(3)},
    )


def test_file_of_another_name_is_bundled_as_the_model(tmp_path: Path) -> None:
    path = save_external(tmp_path, location="weights.bin").rename(tmp_path / "resnet18.onnx")
    assert ModelBody.open(path).files == ("model.onnx", "weights.bin")


def test_one_data_file_for_each_tensor(tmp_path: Path) -> None:
    path = save_external(tmp_path, count=3, one_file=False)
    assert ModelBody.open(path).files == ("model.onnx", "w0", "w1", "w2")


def test_data_files_in_subfolders(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "model.onnx.data").rename(tmp_path / "weights" / "all é.bin")
    relocate(path, "weights/all é.bin")
    assert list(members(body_of(path))) == ["model.onnx", "weights/all é.bin"]


def test_location_may_begin_with_the_folder_itself(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    relocate(path, "./model.onnx.data")
    assert ModelBody.open(path).files == ("model.onnx", "model.onnx.data")


def test_data_file_of_whole_blocks_is_not_padded(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    data = (tmp_path / "model.onnx.data").read_bytes()
    (tmp_path / "model.onnx.data").write_bytes(data * 2)
    assert members(body_of(path))["model.onnx.data"] == data * 2


def test_bundle_is_the_same_whatever_the_files_say_of_themselves(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    first = ModelBody.open(path).sha256
    os.utime(path, (1, 1))
    (tmp_path / "model.onnx.data").chmod(0o600)
    assert ModelBody.open(path).sha256 == first


def test_missing_data_files_are_all_named(tmp_path: Path) -> None:
    path = save_external(tmp_path, count=3, one_file=False)
    (tmp_path / "w0").unlink()
    (tmp_path / "w2").unlink()
    error = refusal(path)
    assert error.code == "model.external_data_missing"
    listed = error.message.rpartition(": ")[2]  # the folder before it may be called anything
    assert listed == "w0, w2"
    assert str(tmp_path.resolve()) in error.hint


def test_many_missing_data_files_are_counted(tmp_path: Path) -> None:
    path = save_external(tmp_path, count=9, one_file=False)
    for index in range(9):
        (tmp_path / f"w{index}").unlink()
    assert "w0, w1, w2, w3, w4 and 4 more" in refusal(path).message


def test_content_without_a_path_cannot_bring_its_data_files(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    for source in (path.read_bytes(), onnx.load(path, load_external_data=False)):
        error = refusal(source)
        assert error.code == "model.external_data_missing"
        assert "model.onnx.data" in error.message
        assert "path" in error.hint


def test_model_object_that_was_loaded_whole_needs_no_file(tmp_path: Path) -> None:
    assert ModelBody.open(onnx.load(save_external(tmp_path))).files == ("model.onnx",)


def test_data_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    data = tmp_path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    error = refusal(path)
    assert error.code == "model.external_data_truncated"
    assert "255 bytes" in error.message
    assert "256" in error.message


@pytest.mark.parametrize(
    "location",
    [
        "/etc/passwd",
        "../secret",
        "weights/../../secret",
        "weights//w",
        "weights/./w",
        "weights/",
        "..",
        "C:\\secret",
        "C:secret",
        "..\\secret",
        "w\0",
        "w\n",
        "w\u202e",
        "model.onnx",
        "w" * 300,
        "https://example.org/w",
    ],
)
def test_data_files_elsewhere_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(1000))
    path = save_external(folder)
    relocate(path, location)
    error = refusal(path)
    assert error.code == "model.external_data_path"


def test_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = save_external(folder)
    (folder / "model.onnx.data").rename(tmp_path / "secret")
    (folder / "model.onnx.data").symlink_to(tmp_path / "secret")
    error = refusal(path)
    assert error.code == "model.external_data_path"
    assert "secret" in error.message


def test_links_inside_the_folder_and_into_the_models_own_store_are_followed(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    (tmp_path / "model.onnx.data").rename(tmp_path / "real")
    (tmp_path / "model.onnx.data").symlink_to("real")
    assert ModelBody.open(path).files == ("model.onnx", "model.onnx.data")
    # As download caches lay it out: links with names, all to one folder of content.
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    path.rename(blobs / "1")
    (tmp_path / "real").rename(blobs / "2")
    (snapshot / "model.onnx").symlink_to(blobs / "1")
    (snapshot / "model.onnx.data").symlink_to(blobs / "2")
    assert ModelBody.open(snapshot / "model.onnx").files == ("model.onnx", "model.onnx.data")


def test_name_too_long_for_a_bundle_is_refused(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    name = "w" * 101
    (tmp_path / "model.onnx.data").rename(tmp_path / name)
    relocate(path, name)
    assert refusal(path).code == "model.external_data_path"


def test_more_data_files_than_a_bundle_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_BUNDLE_FILES > 3
    monkeypatch.setattr(model_file, "MAX_BUNDLE_FILES", 3)
    assert len(ModelBody.open(save_external(tmp_path, count=2, one_file=False)).files) == 3
    assert refusal(save_external(tmp_path, count=3, one_file=False)).code == "model.too_large"


def test_data_file_of_more_than_8_gib_has_a_header_that_tar_reads() -> None:
    header = model_file._tar_header("w", 8**11 + 1)
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == 8**11 + 1


# Files that change under our hands.


def test_file_that_becomes_shorter_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(load_model())
    body = ModelBody.open(path)
    path.write_bytes(load_model()[:-1])
    with pytest.raises(InvalidModel) as caught:
        list(body.chunks())
    assert caught.value.code == "model.changed"


def test_file_that_grows_keeps_the_announced_length(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(load_model())
    body = ModelBody.open(path)
    path.write_bytes(load_model() + b"more")
    assert b"".join(body.chunks()) == load_model()


def test_file_that_is_gone_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(load_model())
    body = ModelBody.open(path)
    path.unlink()
    with pytest.raises(InvalidModel) as caught:
        list(body.chunks())
    assert caught.value.code == "model.file_unreadable"
