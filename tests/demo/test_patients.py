from __future__ import annotations

import numpy as np
import onnx

from blindai.demo.patients import load_model, load_patients


def test_patients_have_the_documented_shapes() -> None:
    patients = load_patients()
    assert len(patients) == 114
    assert patients.features.shape == (114, 30)
    assert patients.features.dtype == np.dtype(np.float32)
    assert patients.cases.shape == (114,)
    assert patients.cases.dtype == np.dtype(np.int64)
    assert patients.malignant.shape == (114,)
    assert patients.malignant.dtype == np.dtype(np.int64)
    assert set(patients.malignant.tolist()) == {0, 1}
    assert len(set(patients.cases.tolist())) == 114
    assert np.isfinite(patients.features).all()


def test_first_patient_is_the_published_one() -> None:
    patients = load_patients()
    assert patients.cases[0] == 4
    assert patients.malignant[0] == 1
    assert patients.feature_names[0] == "mean_radius"
    assert patients.features[0, 0] == np.float32(20.29)


def test_model_declares_the_documented_tensors() -> None:
    graph = onnx.load_model_from_string(load_model()).graph
    assert [value.name for value in graph.input] == ["features"]
    assert [value.name for value in graph.output] == ["label", "probabilities"]
