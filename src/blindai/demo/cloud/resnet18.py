"""A model of the shape of ResNet-18, as two files: a graph that torch exported, and weights made on the spot.

`resnet18.onnx` beside this module is what `torch.onnx.export` of torch 2.13 writes with its defaults, by
`examples/resnet18/export.py`, less the exporter's notes on where each node came from. It names a second file for the
weights, 46.7 MB, which is not kept here: it is made from a seed, in the length that the graph asks for. So the story
needs no torch, and the package stays small. The model was never trained: its scores mean nothing, but they are the same
wherever it is run by the same engine.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from blindai.client.external_data import external_data

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRAPH: Final = Path(__file__).with_name("resnet18.onnx")
INPUT_SHAPE: Final = (1, 3, 224, 224)
CLASSES: Final = 1000

_SEED: Final = 18

# Along each side of a picture.
_SQUARES: Final = 2

# Wide enough that a picture reaches the scores through twenty layers, and narrow enough that these stay finite.
_DEVIATION: Final = np.float32(0.05)


def write_model(folder: Path) -> Path:
    """Write `resnet18.onnx` and the file of its weights into `folder`; where the first one is."""
    graph = GRAPH.read_bytes()
    path = folder / GRAPH.name
    path.write_bytes(graph)
    for location, size in external_data(BytesIO(graph), len(graph)).items():
        (folder / location).write_bytes(_weights(size))
    return path


def image(number: int = 0) -> NDArray[np.float32]:
    """A picture of nothing, FP32 [1, 3, 224, 224]: squares of colours that follow from its number."""
    squares = np.random.default_rng(number).standard_normal((1, 3, _SQUARES, _SQUARES), dtype=np.float32)
    side = INPUT_SHAPE[-1] // _SQUARES
    return squares.repeat(side, axis=2).repeat(side, axis=3)


def _weights(size: int) -> bytes:
    values = np.random.default_rng(_SEED).standard_normal(size // 4, dtype=np.float32)
    return (values * _DEVIATION).tobytes()
