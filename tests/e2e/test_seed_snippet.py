"""The first lines that a user writes, against a cloud, with nothing but an address and a key.

The model is of the shape of ResNet-18, in the two files that torch writes today. What it says must be what ONNX Runtime
says here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import blindai
from blindai.client.credentials import Credentials
from blindai.client.prediction import Output
from blindai.demo.cloud import resnet18
from client_cloud import ClientCloud, client_cloud, empty_home


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientCloud]:
    with client_cloud(tmp_path_factory.mktemp("cloud")) as one:
        yield one


@pytest.fixture
def folder(cloud: ClientCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's program runs: the model and ./manifest.toml lie there."""
    empty_home(tmp_path, monkeypatch)
    here = Path.cwd()
    (here / "manifest.toml").write_text(cloud.scene.platform.manifest, encoding="utf-8")
    resnet18.write_model(here)
    return here


def label_of(output: Output) -> int:
    """By argmax, as the README has it where PyTorch is installed."""
    values: Any = output.as_torch() if importlib.util.find_spec("torch") else output.as_numpy()
    assert tuple(values.shape) == (1, resnet18.CLASSES)
    return int(values.argmax())


def local_label(model: Path) -> int:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return int(np.argmax(session.run(None, {"image": resnet18.image()})[0]))


def test_an_address_and_a_key(cloud: ClientCloud, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLINDAI_ADDR", cloud.enclave.address)
    key, input_batch = cloud.acme.key.text, resnet18.image()

    with blindai.Connection(api_key=key) as client:
        client.upload_model("resnet18.onnx", model_id="acme/resnet18")
        prediction = client.predict("acme/resnet18", input_batch)

    assert label_of(prediction.output[0]) == local_label(folder / "resnet18.onnx")


def test_a_cloud_that_was_signed_in_to(cloud: ClientCloud, folder: Path) -> None:
    cloud.profile(policy="")
    Credentials(cloud.url).keep_key("acme", cloud.acme.key.text)

    with blindai.Connection() as client:
        client.upload_model("resnet18.onnx", model_id="acme/resnet18")
        prediction = client.predict("acme/resnet18", resnet18.image())

    assert label_of(prediction.output[0]) == local_label(folder / "resnet18.onnx")
