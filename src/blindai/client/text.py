"""Text in, vectors or labels out: what `embed` and `classify` send, and what they make of the answers. No I/O.

Each is a generator of calls: whoever carries them out sends each call's value back in, and gets the result at the end.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import msgspec
import numpy as np

from blindai.client.arrays import read
from blindai.errors import InvalidInput, Unavailable
from blindai.wire.metadata import ModelMetadata
from blindai.wire.task import EMBEDDING, LABEL, SCORES, TEXT
from blindai.wire.tensor import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blindai.client.calls import Call, Calls
    from blindai.client.prediction import Prediction

T = TypeVar("T")

Texts: TypeAlias = "str | Sequence[str] | NDArray[Any]"
Steps: TypeAlias = "Generator[Call[Any], Any, T]"
Known: TypeAlias = "MutableMapping[tuple[str, str | None], ModelMetadata]"
"""What is known of models, by id and version."""

TEXTS_PER_REQUEST: Final = 256
"""A longer list goes in several requests: enough for many texts of one length, far from the time one run may take."""


class Classification(msgspec.Struct, frozen=True):
    """What a classifier says of one text.

    Attributes:
        label: the label with the highest score.
        score: its score.
        scores: of every label, in the model's order.
    """

    label: str
    score: float
    scores: dict[str, float]

    def __repr__(self) -> str:
        # Never the values: they are confidential, and what is printed ends up in logs.
        return f"Classification({len(self.scores)} labels)"


def embed(calls: Calls, model_id: str, texts: Texts, version: str | None) -> Steps[NDArray[np.float32]]:
    """The vectors of `texts`, FP32 [n, d].

    Raises:
        InvalidInput: `input.unsupported_type`, `input.datatype`, `input.shape`, `input.value`: these are no texts.
        Unavailable: `unavailable.protocol`, the answer is not one.
    """
    parts: list[NDArray[np.float32]] = []
    for tensor in _requests(texts):
        prediction: Prediction = yield calls.infer(model_id, [tensor], version=version, outputs=[EMBEDDING])
        # A newer version of the model may come in between; its vectors would be of another space.
        version = version or prediction.version or None
        vectors = _output(prediction, EMBEDDING)
        if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != tensor.data.size:
            raise _unreadable("it is no vector for each text")
        parts.append(vectors)
    if len({part.shape[1] for part in parts}) != 1:
        raise _unreadable("its vectors have several sizes")
    return np.concatenate(parts)


def classify(
    calls: Calls, known: Known, model_id: str, texts: Texts, version: str | None
) -> Steps[list[Classification]]:
    """The labels of `texts`, one result for each.

    Args:
        known: what is known of models; what is asked in addition is kept there.

    Raises:
        InvalidInput, Unavailable: as `embed`.
    """
    results: list[Classification] = []
    for tensor in _requests(texts):
        prediction: Prediction = yield calls.infer(model_id, [tensor], version=version, outputs=[SCORES, LABEL])
        version = version or prediction.version or None
        scores, best = _output(prediction, SCORES), _output(prediction, LABEL)
        if scores.ndim != 2 or scores.dtype != np.float32 or not len(scores) == best.size == tensor.data.size:
            raise _unreadable("it is no list of scores for each text")
        key = model_id, version
        # Under one version's name there may be another model by now: what is remembered is held against the answer.
        if key not in known or not _agree(known[key].labels, scores, best):
            known[key] = yield calls.model(model_id, version)
            if not _agree(known[key].labels, scores, best):
                raise _unreadable("its labels are not those of the model")
        results += _classifications(known[key].labels, scores)
    return results


def _requests(texts: Texts) -> Iterator[Tensor]:
    """The inputs of one request after the other; one without any text where there is none."""
    datatype, data = read(texts).values("BYTES")
    if data.ndim > 1:
        raise InvalidInput("texts are a list, not lists of lists", code="input.shape")
    data = data.reshape(-1)
    for start in range(0, max(1, data.size), TEXTS_PER_REQUEST):
        yield Tensor(TEXT, datatype, data[start : start + TEXTS_PER_REQUEST])


def _output(prediction: Prediction, name: str) -> NDArray[Any]:
    for output in prediction.output:
        if output.name == name:
            return output.as_numpy()
    raise _unreadable(f"it has no {name!r}")


def _agree(labels: Sequence[str], scores: NDArray[np.float32], best: NDArray[Any]) -> bool:
    if scores.shape[1] != len(labels) or not labels:
        return False
    return all(labels[int(row.argmax())].encode() == label for row, label in zip(scores, best, strict=True))


def _classifications(labels: Sequence[str], scores: NDArray[np.float32]) -> Iterator[Classification]:
    for row in scores:
        best = int(row.argmax())
        yield Classification(labels[best], float(row[best]), dict(zip(labels, row.tolist(), strict=True)))


def _unreadable(reason: str) -> Unavailable:
    return Unavailable(f"the server's answer cannot be read: {reason}", code="unavailable.protocol")
