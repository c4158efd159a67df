"""Inputs made up for a model of which nothing is known but its signature.

They are drawn from a seeded generator, so that two sessions of one model get the same. What integers mean nobody says:
mostly indices into a table of unknown length, or masks of zeros and ones. So they are small, and smaller where the
model refuses them.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from blindai.wire.datatype import DATATYPES, Kind, bfloat16_from_float
from blindai.wire.metadata import VARIABLE
from blindai.wire.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from blindai.enclave.engine import TensorSpec

SIZES: Final = (8, 32, 128, 224, 1024, 16_000, 16, 4, 3, 2, 1)
"""What is tried for dimensions that the request decides, but the first: few tokens or columns, then sides of pictures,
then samples of sound, then what is left."""

RANKS: Final = (2, 1, 4, 3, 0)
"""What is tried for inputs of unknown rank."""

IDS: Final = (100, 2, 1)
"""Integers are drawn below this: the first rows of a vocabulary, then a flag, then zero alone."""

MAX_ELEMENTS: Final = 2**24
"""Of one made-up tensor. More would take the memory of the model's process for nothing: the picture of a camera has
2**23."""

_WORDS: Final = ("the", "red", "house", "is", "old", "and", "a", "river", "runs", "behind", "it", "slowly")
_MAX_WORDS: Final = 12


class Values(enum.Enum):
    """Which values are drawn.

    Attributes:
        ORDINARY: floats in [-1, 1], small integers.
        EXTREME: each row of floats has another scale, some all zero, so that what is taken over a whole batch (the
            range of a quantised tensor) differs from what is taken over one row.
        LARGE: integers near the end of their type: what an engine holds in fewer bits shows.
    """

    ORDINARY = "ordinary"
    EXTREME = "extreme"
    LARGE = "large"


_SCALES: Final = (1.0, 1000.0, 0.0, 0.001, 30.0)


class Shape(msgspec.Struct, frozen=True):
    """How the open sizes of a signature are filled.

    Attributes:
        size: for dimensions that the request decides, but the first.
        rank: for inputs of unknown rank.
        ids: integers are drawn below it.
    """

    size: int = SIZES[0]
    rank: int = RANKS[0]
    ids: int = IDS[0]

    def of(self, spec: TensorSpec, rows: int) -> tuple[int, ...]:
        """The whole shape of one input, with so many rows where the request decides on them."""
        shape = spec.shape if spec.ranked else (VARIABLE,) * self.rank
        return tuple(
            (rows if axis == 0 else self.size) if size == VARIABLE else size for axis, size in enumerate(shape)
        )


def shapes(specs: Sequence[TensorSpec]) -> Iterator[Shape]:
    """What to try in turn, until the model accepts one; only what makes a difference to it."""
    sized = any(VARIABLE in spec.shape[1:] or not spec.ranked for spec in specs)
    ranks = RANKS if any(not spec.ranked for spec in specs) else RANKS[:1]
    whole = any(DATATYPES[spec.datatype].kind is Kind.INTEGER for spec in specs)
    for rank in ranks:
        for size in SIZES if sized else SIZES[:1]:
            for ids in IDS if whole else IDS[:1]:
                shape = Shape(size, rank, ids)
                if all(np.prod(shape.of(spec, 1), dtype=float) <= MAX_ELEMENTS for spec in specs):
                    yield shape


def draw(
    specs: Sequence[TensorSpec], shape: Shape, *, seed: int, rows: int = 1, values: Values = Values.ORDINARY
) -> Mapping[str, Tensor]:
    """Made-up inputs of these specs. The same arguments give the same."""
    random = np.random.default_rng(seed)
    return {spec.name: Tensor(spec.name, spec.datatype, _data(spec, shape, rows, values, random)) for spec in specs}


def _data(spec: TensorSpec, shape: Shape, rows: int, values: Values, random: np.random.Generator) -> NDArray[Any]:
    datatype = DATATYPES[spec.datatype]
    sizes = shape.of(spec, rows)
    match datatype.kind:
        case Kind.BYTES:
            return _texts(sizes, random)
        case Kind.BOOL:
            return random.integers(0, 2, sizes).astype(datatype.dtype)
        case Kind.INTEGER:
            return _integers(spec, sizes, shape.ids, values, random)
    floats = random.uniform(-1, 1, sizes)
    if values is Values.EXTREME and sizes:
        scales = random.permutation(np.resize(_SCALES, sizes[0]))
        floats *= scales.reshape(-1, *[1] * (len(sizes) - 1))
    return bfloat16_from_float(floats) if spec.datatype == "BF16" else floats.astype(datatype.dtype)


def _integers(
    spec: TensorSpec, sizes: tuple[int, ...], ids: int, values: Values, random: np.random.Generator
) -> NDArray[Any]:
    dtype = DATATYPES[spec.datatype].dtype
    if values is Values.LARGE:
        largest = np.iinfo(dtype).max
        return random.integers(largest // 2, largest, sizes, dtype=dtype, endpoint=True)
    lowered = spec.name.lower()
    if "mask" in lowered and sizes:
        # As for texts of different lengths: ones, then zeros, but no row without a one.
        lengths = random.integers(1, max(sizes[-1], 1), (*sizes[:-1], 1), endpoint=True)
        return np.broadcast_to(np.arange(sizes[-1]) < lengths, sizes).astype(dtype)
    if "type" in lowered or "segment" in lowered:
        ids = min(ids, 2)
    return random.integers(0, ids, sizes).astype(dtype)


def _texts(sizes: tuple[int, ...], random: np.random.Generator) -> NDArray[Any]:
    count = int(np.prod(sizes))
    texts: NDArray[Any] = np.empty(count, dtype=object)
    for index in range(count):
        texts[index] = " ".join(random.choice(_WORDS, random.integers(1, _MAX_WORDS))).encode()
    return texts.reshape(sizes)
