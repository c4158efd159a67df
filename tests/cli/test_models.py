"""`blindai models` and `blindai predict`, from upload to deletion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from blindai.cli.predict import _plain_value
from blindai.demo.patients import load_model, load_patients
from blindai.wire.api_key import ApiKey

from .conftest import Run

MODEL = "clinic/cli"


@pytest.fixture
def model_file(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(load_model())
    return path


@pytest.fixture
def uploaded(run: Run, address: str, model_file: Path) -> str:
    assert run("models", "upload", model_file, "--id", MODEL, "--addr", address).code == 0
    return MODEL


@pytest.fixture(autouse=True)
def nothing_is_left(run: Run, address: str) -> Iterator[None]:
    yield
    run("models", "delete", MODEL, "--addr", address)


def test_upload_list_delete(run: Run, address: str, model_file: Path) -> None:
    ended = run("models", "upload", model_file, "--id", MODEL, "--addr", address)
    assert ended.code == 0
    assert f"uploaded {MODEL} version 1, 1,111 bytes" in ended.out
    assert "'features' FP32 [-1, 30]" in ended.out
    assert ended.err == "SIMULATED: no hardware protects what this server is sent\n"
    listed = run("models", "list", "--addr", address)
    assert [MODEL, "1", "READY"] in [line.split() for line in listed.out.splitlines()]
    assert run("models", "delete", MODEL, "--addr", address).out == f"deleted {MODEL}\n"
    assert "no models" in run("models", "list", "--addr", address).out


def test_json(run: Run, address: str, model_file: Path) -> None:
    upload = run("models", "upload", model_file, "--id", MODEL, "--addr", address, "--json")
    assert (upload.json["name"], upload.json["version"], upload.json["size"]) == (MODEL, "1", 1111)
    listed = run("models", "list", "--addr", address, "--json")
    assert listed.json == [{"name": MODEL, "version": "1", "state": "READY", "reason": ""}]
    assert run("models", "delete", MODEL, "--addr", address, "--json").json == {"deleted": MODEL, "version": None}


def test_a_file_that_is_no_model(run: Run, folder: Path, address: str) -> None:
    (folder / "model.pt").write_bytes(b"PK\x03\x04" + bytes(100))
    ended = run("models", "upload", "model.pt", "--id", MODEL, "--addr", address, "--json")
    assert (ended.code, ended.json["error"]["code"]) == (5, "model.not_onnx")
    assert "torch.onnx.export" in ended.json["error"]["hint"]


def test_a_model_that_is_not_there(run: Run, folder: Path, address: str) -> None:
    (folder / "input.json").write_text("[[1.0]]")
    for arguments in (["models", "delete", MODEL], ["predict", MODEL, "input.json"]):
        ended = run(*arguments, "--addr", address, "--json")
        assert (ended.code, ended.json["error"]["code"]) == (4, "model.not_found")


def test_an_id_without_a_namespace(run: Run, address: str, model_file: Path) -> None:
    ended = run("models", "upload", model_file, "--id", "model", "--addr", address)
    assert ended.code == 5
    assert "namespace/name" in ended.err


@pytest.mark.parametrize("form", ["npy", "npz", "csv", "json", "object", "-"])
def test_predict_from_a_file(run: Run, program: Run, folder: Path, address: str, uploaded: str, form: str) -> None:
    patients = load_patients()
    rows = patients.features[:3]
    source, stdin = {"object": "input.json", "-": "-"}.get(form, f"input.{form}"), None
    match form:
        case "npy":
            np.save(folder / source, rows)
        case "npz":
            np.savez(folder / source, features=rows)
        case "csv":
            np.savetxt(folder / source, rows, delimiter=",")
        case "json":
            (folder / source).write_text(json.dumps(rows.tolist()))
        case "object":
            (folder / source).write_text(json.dumps({"features": rows.tolist()}))
        case _:
            stdin = json.dumps(rows.tolist()).encode()
    arguments = ("predict", uploaded, source, "--addr", address, "--json")
    ended = run(*arguments) if stdin is None else program(*arguments, stdin=stdin)
    assert ended.code == 0, ended.out
    label, probabilities = ended.json["outputs"]
    assert (label["name"], label["datatype"], label["shape"]) == ("label", "INT64", [3])
    assert label["data"] == patients.malignant[:3].tolist()
    assert probabilities["shape"] == [3, 2]
    assert ended.json["simulated"] is True


def test_predict_for_people(run: Run, folder: Path, address: str, uploaded: str) -> None:
    np.save(folder / "rows.npy", load_patients().features)
    ended = run("predict", uploaded, "rows.npy", "--addr", address)
    assert ended.code == 0
    assert "114 values; --json prints all" in ended.out
    assert "SIMULATED" in ended.out + ended.err


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2", b"\x93NUMPY", b"\xff"])
def test_input_that_cannot_be_read(run: Run, folder: Path, address: str, content: bytes) -> None:
    (folder / "input.json").write_bytes(content)
    ended = run("predict", MODEL, "input.json", "--addr", address, "--json")
    assert (ended.code, ended.json["error"]["code"]) == (5, "input.file")


def test_input_of_another_shape(run: Run, folder: Path, address: str, uploaded: str) -> None:
    (folder / "input.json").write_text("[[1.0, 2.0]]")
    ended = run("predict", uploaded, "input.json", "--addr", address, "--json")
    assert (ended.code, ended.json["error"]["code"]) == (5, "input.shape")


def test_an_api_key_comes_from_a_file_and_is_never_shown(run: Run, folder: Path, address: str) -> None:
    secret = ApiKey.new().text
    (folder / "key").write_text(f"{secret}\n")
    ended = run("models", "list", "--addr", address, "--api-key-file", "key")
    assert ended.code == 0
    assert secret[-10:] not in ended.out + ended.err
    assert run("models", "list", "--addr", address, "--api-key-file", "none").code == 2
    (folder / "key").write_text("")
    refused = run("models", "list", "--addr", address, "--api-key-file", "key", "--json")
    assert (refused.code, refused.json["error"]["code"]) == (2, "configuration.api_key_file")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"text", "text"),
        (b"\xff\x00", "\\xff\x00"),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (1.5, 1.5),
        (7, 7),
        (True, True),
    ],
)
def test_values_that_json_does_not_have(value: object, shown: object) -> None:
    """By the names of ProtoJSON, and bytes as text."""
    assert _plain_value(value) == shown
