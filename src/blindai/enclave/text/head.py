"""From what a model gives for the tokens of a text to the answer for that text.

Each row is calculated by itself, never as part of an array whose size depends on other texts: how NumPy orders a sum
may depend on the shape, and an answer must not change by a bit with its neighbours. Numbers that are none, or infinite,
are the model's own: they go through as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from blindai.enclave.engine import TensorSpec
from blindai.errors import InvalidModel
from blindai.wire.metadata import VARIABLE
from blindai.wire.task import (
    EMBEDDING,
    LABEL,
    SCORES,
    Activation,
    Pooling,
    TextTask,
    TextTaskName,
    refused_task,
)
from blindai.wire.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_SHORTEST: Final = 1e-12
"""A vector is not divided by less, as in PyTorch's `normalize`: a vector of zeros stays one."""


class Head(Protocol):
    """What makes answers.

    Attributes:
        outputs: what there is of them.
    """

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def row(self, given: NDArray[Any], tokens: int) -> NDArray[np.float32]:
        """The FP32 vector of one text, from what the model gave for it.

        Raises:
            InvalidModel: `model.run`, the model gave something of another shape than it did at first.
        """

    def tensors(self, rows: Sequence[NDArray[np.float32]]) -> Mapping[str, Tensor]:
        """All outputs by name, of these vectors."""


def head_of(task: TextTask, sample: NDArray[Any], tokens: int) -> Head:
    """What makes the answers of `task`.

    Args:
        sample: what the model gave for one text of so many tokens.

    Raises:
        InvalidModel: `model.task_file`, the model gives nothing that `task` could be done with.
    """
    if task.task is TextTaskName.CLASSIFY:
        if sample.shape != (len(task.labels),):
            shape = [VARIABLE, *sample.shape]
            raise refused_task(f"it has {len(task.labels)} labels, and the output of the model is {shape} for a text")
        return _Classifier(task)
    if task.pooling is Pooling.NONE:
        if sample.ndim != 1 or not sample.size:
            raise refused_task(f"without `pooling` the model must give one vector, not {list(sample.shape)}")
        return _Embedder(task, sample.size)
    if sample.ndim != 2 or sample.shape[0] != tokens or not sample.shape[1]:
        shape = list(sample.shape)
        raise refused_task(f"for {tokens} tokens the model must give as many vectors, its output is {shape}")
    return _Embedder(task, sample.shape[1])


class _Embedder:
    """Vectors."""

    def __init__(self, task: TextTask, size: int) -> None:
        self._pooling = task.pooling
        self._normalize = task.normalize
        self._size = size
        self.outputs = (TensorSpec(EMBEDDING, "FP32", (VARIABLE, size)),)

    def row(self, given: NDArray[Any], tokens: int) -> NDArray[np.float32]:
        _require(given, (self._size,) if self._pooling is Pooling.NONE else (tokens, self._size))
        vector: NDArray[np.float64]
        # In float64: sums over hundreds of tokens keep every digit that FP32 can show.
        with np.errstate(all="ignore"):
            if self._pooling is Pooling.MEAN:
                vector = np.add.reduce(given, axis=0, dtype=np.float64) / tokens
            else:
                vector = (given if self._pooling is Pooling.NONE else given[0]).astype(np.float64)
            if self._normalize:
                vector = vector / np.maximum(np.sqrt(np.dot(vector, vector)), _SHORTEST)
            return vector.astype(np.float32)

    def tensors(self, rows: Sequence[NDArray[np.float32]]) -> Mapping[str, Tensor]:
        return {EMBEDDING: Tensor(EMBEDDING, "FP32", _stacked(rows, self._size))}


class _Classifier:
    """Scores."""

    def __init__(self, task: TextTask) -> None:
        self._activation = task.activation
        self._labels = [label.encode() for label in task.labels]
        self.outputs = (
            TensorSpec(SCORES, "FP32", (VARIABLE, len(task.labels))),
            TensorSpec(LABEL, "BYTES", (VARIABLE,)),
        )

    def row(self, given: NDArray[Any], tokens: int) -> NDArray[np.float32]:
        _require(given, (len(self._labels),))
        scores: NDArray[np.float64] = given.astype(np.float64)
        with np.errstate(all="ignore"):
            if self._activation is Activation.SOFTMAX:
                scores = np.exp(scores - scores.max())
                scores /= scores.sum()
            elif self._activation is Activation.SIGMOID:
                scores = 0.5 * (1.0 + np.tanh(0.5 * scores))  # the same, and no power of e beyond its range
            return scores.astype(np.float32)

    def tensors(self, rows: Sequence[NDArray[np.float32]]) -> Mapping[str, Tensor]:
        labels: NDArray[Any] = np.empty(len(rows), dtype=object)
        for index, row in enumerate(rows):
            labels[index] = self._labels[int(row.argmax())]
        scores = _stacked(rows, len(self._labels))
        return {SCORES: Tensor(SCORES, "FP32", scores), LABEL: Tensor(LABEL, "BYTES", labels)}


def _require(given: NDArray[Any], shape: tuple[int, ...]) -> None:
    if given.shape != shape:
        message = f"the model gave {list(given.shape)} for a text for which it should give {list(shape)}"
        raise InvalidModel(message, code="model.run")


def _stacked(rows: Sequence[NDArray[np.float32]], size: int) -> NDArray[np.float32]:
    return np.stack(rows) if rows else np.empty((0, size), np.float32)
