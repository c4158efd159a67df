"""Train the demo's classifier and write the files that the package carries.

    pip install 'blindai[dev]'
    python examples/breast_cancer/train.py              # writes into src/blindai/demo/breast_cancer
    python examples/breast_cancer/train.py --out DIR

The model is a logistic regression on the 30 standardised measurements of the Wisconsin breast cancer data
set, trained on 455 patients; the other 114 are held out and written beside it. Nothing here is a medical device.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

PACKAGED = Path(__file__).parents[2] / "src" / "blindai" / "demo" / "breast_cancer"
HELD_OUT_SHARE = 0.2
SEED = 0
# Old opsets on purpose: every ONNX Runtime of recent years runs them.
OPSETS = {"": 17, "ai.onnx.ml": 1}


@dataclass(frozen=True)
class Training:
    """A fitted model and the patients it has never seen.

    Attributes:
        classifier: takes [N, 30] measurements; class 1 is malignant.
        cases: row numbers of the held-out patients in the published data set.
        features: their measurements, [114, 30] float64.
        malignant: the diagnoses, [114] int64, 1 for malignant.
        feature_names: the 30 column names.
    """

    classifier: Pipeline
    cases: npt.NDArray[np.int64]
    features: npt.NDArray[np.float64]
    malignant: npt.NDArray[np.int64]
    feature_names: tuple[str, ...]


def train() -> Training:
    """Fit the classifier; the same split and the same coefficients every time."""
    published = load_breast_cancer()
    # scikit-learn codes malignant as 0; here 1 is what a physician looks for.
    malignant = (published.target == 0).astype(np.int64)
    seen, held_out = train_test_split(
        np.arange(len(malignant)), test_size=HELD_OUT_SHARE, stratify=malignant, random_state=SEED
    )
    held_out = np.sort(held_out)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(published.data[seen], malignant[seen])
    return Training(
        classifier=classifier,
        cases=held_out,
        features=published.data[held_out],
        malignant=malignant[held_out],
        feature_names=tuple(name.replace(" ", "_") for name in published.feature_names),
    )


def export(training: Training) -> onnx.ModelProto:
    """The classifier as ONNX: features FP32 [N, 30] -> label INT64 [N], probabilities FP32 [N, 2]."""
    model: onnx.ModelProto = to_onnx(
        training.classifier,
        initial_types=[("features", FloatTensorType([None, len(training.feature_names)]))],
        name="breast_cancer",
        options={
            "zipmap": False
        },  # else the probabilities are a list of dictionaries, which no tensor protocol carries
        target_opset=OPSETS,
    )
    del model.opset_import[:]  # skl2onnx lists the default domain twice
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in OPSETS.items())
    model.doc_string = "Wisconsin breast cancer classifier of the BlindAI demo; label 1 is malignant"
    onnx.checker.check_model(model, full_check=True)
    return model


def write(training: Training, folder: Path) -> None:
    """Write model.onnx and patients.csv into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(export(training).SerializeToString(deterministic=True))
    with (folder / "patients.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["case", "malignant", *training.feature_names])
        for case, malignant, row in zip(training.cases, training.malignant, training.features, strict=True):
            table.writerow([int(case), int(malignant), *(repr(float(value)) for value in row)])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the classifier of the BlindAI demo.")
    parser.add_argument("--out", type=Path, default=PACKAGED, metavar="DIR")
    folder: Path = parser.parse_args().out
    training = train()
    write(training, folder)
    right = int((training.classifier.predict(training.features) == training.malignant).sum())
    print(f"{folder}: {right} of {len(training.malignant)} held-out patients classified correctly")


if __name__ == "__main__":
    main()
