"""Train a small classifier of handwritten digits and write it as ONNX: what the playground of a cloud's console asks.

    pip install 'blindai[dev]'
    python examples/digits/export.py                          # writes digits.onnx
    blindai models upload digits.onnx --id ACCOUNT/digits

Input `image` FP32 [N, 64]: 8 rows of 8 pixels, each from 0 (paper) to 16 (ink), as in the data set. Output `scores`
FP32 [N, 10]: for each digit how likely it is; they add up to 1.

The data set is "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning
Repository, <https://doi.org/10.24432/C50P49>, as it comes with scikit-learn. Each pixel is the number of black ones in
a square of 4 by 4 of the scanned digit. A fifth of the 1797 images is held out; the others are seen as they are and, so
that it does not matter where in its square a digit was drawn, moved by up to a pixel.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

HELD_OUT_SHARE = 0.2
SEED = 0
INK = 16.0
SIDE = 8
HIDDEN = 32
ROUNDS = 60
ALPHA = 1.0  # what keeps it from being sure of what it has never seen
MOVED = 4  # times that each image is seen somewhere else
FARTHEST = 0.7  # pixels that it is moved by, in each direction

# Of 2022 on purpose: every ONNX Runtime of recent years runs it.
OPSET = 17
IR_VERSION = 8

# Single precision, through two layers.
TOLERANCE = 1e-5

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Training:
    """A fitted model and the images that it has never seen.

    Attributes:
        classifier: takes [N, 64] pixels from 0 to 1.
        images: the held-out ones, [360, 64], from 0 to 16.
        digits: what each of them shows, [360].
    """

    classifier: MLPClassifier
    images: Floats
    digits: npt.NDArray[np.int64]


def train() -> Training:
    """Fit the classifier; the same split and the same seeds every time."""
    published = load_digits()
    seen, held_out, seen_digits, held_out_digits = train_test_split(
        published.data, published.target, test_size=HELD_OUT_SHARE, stratify=published.target, random_state=SEED
    )
    classifier = MLPClassifier(
        (HIDDEN,),
        alpha=ALPHA,
        learning_rate_init=0.003,
        max_iter=ROUNDS,
        n_iter_no_change=ROUNDS,
        random_state=SEED,
    )
    with warnings.catch_warnings():
        # It is stopped after as many rounds as are wanted, and would rather go on.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(_with_moved(seen) / INK, np.tile(seen_digits, 1 + MOVED))
    return Training(classifier, held_out, held_out_digits)


def export(training: Training) -> onnx.ModelProto:
    """The classifier as ONNX: a division, two layers, and a softmax."""
    (into, out), (into_bias, out_bias) = training.classifier.coefs_, training.classifier.intercepts_
    weights = {
        "ink": np.float32(INK),
        "hidden.weight": into.astype(np.float32),
        "hidden.bias": into_bias.astype(np.float32),
        "digits.weight": out.astype(np.float32),
        "digits.bias": out_bias.astype(np.float32),
    }
    nodes = [
        helper.make_node("Div", ["image", "ink"], ["pixels"]),
        helper.make_node("Gemm", ["pixels", "hidden.weight", "hidden.bias"], ["before"]),
        helper.make_node("Relu", ["before"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "digits.weight", "digits.bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", SIDE * SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
        doc_string="Handwritten digits, 8 by 8 pixels from 0 to 16",
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def scores(content: bytes, images: Floats) -> npt.NDArray[np.float32]:
    """What ONNX Runtime makes of `images` with the model in `content`."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(["scores"], {"image": images.astype(np.float32)})
    return np.asarray(found, dtype=np.float32)


def _with_moved(images: Floats) -> Floats:
    """`images`, and each of them `MOVED` times at another place."""
    generator = np.random.default_rng(SEED)
    squares = np.tile(images, (MOVED, 1)).reshape(-1, SIDE, SIDE)
    for axis in (1, 2):
        far = generator.uniform(-FARTHEST, FARTHEST, (len(squares), 1, 1))
        squares = (
            _pushed(squares, axis) * np.maximum(far, 0)
            + squares * (1 - abs(far))
            - (np.minimum(far, 0) * np.flip(_pushed(np.flip(squares, axis), axis), axis))
        )
    return np.concatenate([images, squares.reshape(-1, SIDE * SIDE)])


def _pushed(squares: Floats, axis: int) -> Floats:
    """`squares` one pixel further along `axis`, with paper where they were."""
    paper = [(1, 0) if one == axis else (0, 0) for one in range(squares.ndim)]
    return np.pad(squares, paper).take(range(SIDE), axis)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("digits.onnx"), metavar="FILE", help="the file that is made")
    path: Path = parser.parse_args().out
    training = train()
    content = export(training).SerializeToString(deterministic=True)
    found = scores(content, training.images)
    apart = float(np.abs(found - training.classifier.predict_proba(training.images / INK)).max())
    if apart > TOLERANCE:
        raise SystemExit(f"ONNX Runtime and scikit-learn differ by {apart:.1e}")
    path.write_bytes(content)
    right = int((found.argmax(axis=1) == training.digits).sum())
    print(f"{path}: {len(content):,} bytes, {right} of {len(training.digits)} held-out digits recognised")
    print(f"ONNX Runtime and scikit-learn differ by {apart:.1e} at most")
    print(f"upload it with: blindai models upload {path} --id ACCOUNT/digits")


if __name__ == "__main__":
    main()
