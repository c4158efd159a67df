"""The patients and the classifier of the demo, as packaged (see breast_cancer/README.md for their source)."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

_FOLDER = Path(__file__).with_name("breast_cancer")

MODEL_FILE = _FOLDER / "model.onnx"


class Patients(msgspec.Struct, frozen=True, eq=False):
    """Held-out patients of the Wisconsin breast cancer data set.

    Attributes:
        cases: row numbers in the published data set, int64 [N].
        features: measurements in the model's order, float32 [N, 30].
        malignant: the hospital's diagnosis, int64 [N]; 1 is malignant, 0 benign.
        feature_names: 30 names, in column order.
    """

    cases: npt.NDArray[np.int64]
    features: npt.NDArray[np.float32]
    malignant: npt.NDArray[np.int64]
    feature_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.cases)


def load_patients() -> Patients:
    """Read the packaged patients."""
    text = (_FOLDER / "patients.csv").read_text(encoding="utf-8")
    (_, _, *feature_names), *rows = csv.reader(text.splitlines())
    return Patients(
        cases=np.array([row[0] for row in rows], dtype=np.int64),
        features=np.array([row[2:] for row in rows], dtype=np.float64).astype(np.float32),
        malignant=np.array([row[1] for row in rows], dtype=np.int64),
        feature_names=tuple(feature_names),
    )


def load_model() -> bytes:
    """Read the packaged classifier, an ONNX file.

    Input `features` FP32 [N, 30]; outputs `label` INT64 [N] (1 is malignant) and `probabilities` FP32 [N, 2].
    """
    return MODEL_FILE.read_bytes()
