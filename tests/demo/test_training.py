"""Retraining gives the model and the patients that the package carries."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from sklearn.datasets import load_breast_cancer

from blindai.demo.patients import load_model, load_patients

SCRIPT = Path(__file__).parents[2] / "examples" / "breast_cancer" / "train.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("breast_cancer_train", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def training(script: ModuleType) -> Any:
    return script.train()


def run(model: bytes, features: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[Any, Any]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    label, probabilities = session.run(["label", "probabilities"], {"features": features})
    return label, probabilities


def test_retrained_model_agrees_with_the_packaged_one(script: ModuleType, training: Any) -> None:
    features = load_patients().features
    label, probabilities = run(load_model(), features)
    again, again_probabilities = run(script.export(training).SerializeToString(), features)
    np.testing.assert_array_equal(label, again)
    np.testing.assert_allclose(probabilities, again_probabilities, atol=1e-5, rtol=0)


def test_packaged_model_agrees_with_scikit_learn(training: Any) -> None:
    label, probabilities = run(load_model(), load_patients().features)
    np.testing.assert_array_equal(label, training.classifier.predict(training.features))
    np.testing.assert_allclose(probabilities, training.classifier.predict_proba(training.features), atol=1e-5, rtol=0)


def test_script_writes_the_packaged_patients(script: ModuleType, training: Any, tmp_path: Path) -> None:
    script.write(training, tmp_path)
    packaged = SCRIPT.parents[2] / "src" / "blindai" / "demo" / "breast_cancer" / "patients.csv"
    assert (tmp_path / "patients.csv").read_bytes() == packaged.read_bytes()


def test_held_out_patients_were_not_trained_on(training: Any) -> None:
    # The scaler keeps the mean of what it was fitted on: here, of everyone but the held-out patients.
    others = np.delete(load_breast_cancer().data, training.cases, axis=0)
    np.testing.assert_allclose(training.classifier[0].mean_, others.mean(axis=0))


def test_accuracy_is_what_the_documentation_says() -> None:
    patients = load_patients()
    label, _ = run(load_model(), patients.features)
    assert (int((label == patients.malignant).sum()), len(patients)) == (111, 114)
