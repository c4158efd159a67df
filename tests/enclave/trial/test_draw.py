from __future__ import annotations

import numpy as np
import pytest

from blindai.enclave.engine import TensorSpec
from blindai.enclave.trial import draw as module
from blindai.enclave.trial.agreement import identical
from blindai.enclave.trial.draw import Shape, Values, draw, shapes
from blindai.wire.datatype import DATATYPES
from blindai.wire.tensor import Tensor

IDS = TensorSpec("input_ids", "INT64", (-1, -1))
MASK = TensorSpec("attention_mask", "INT64", (-1, -1))
TYPES = TensorSpec("token_type_ids", "INT64", (-1, -1))


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
@pytest.mark.parametrize("values", list(Values))
def test_each_datatype_can_be_drawn(datatype: str, values: Values) -> None:
    spec = TensorSpec("x", datatype, (-1, 3, -1))
    (tensor,) = draw([spec], Shape(size=5), seed=1, rows=2, values=values).values()
    spec.refuse_other(tensor)
    assert tensor.data.shape == (2, 3, 5)
    assert tensor.data.dtype == DATATYPES[datatype].dtype


def test_the_same_seed_gives_the_same() -> None:
    def drawn(seed: int) -> list[Tensor]:
        return list(draw([IDS, TensorSpec("x", "FP32", (-1, 4))], Shape(), seed=seed).values())

    assert identical(drawn(3), drawn(3))
    assert not identical(drawn(3), drawn(4))


def test_ids_masks_and_types_are_what_their_names_say() -> None:
    drawn = draw([IDS, MASK, TYPES], Shape(ids=50), seed=0, rows=20)
    assert 2 < drawn["input_ids"].data.max() < 50
    assert drawn["input_ids"].data.min() >= 0
    assert set(np.unique(drawn["token_type_ids"].data)) == {0, 1}
    mask = drawn["attention_mask"].data
    assert (mask[:, 0] == 1).all()
    assert (np.diff(mask) <= 0).all(), "ones, then zeros"
    assert len(set(mask.sum(axis=1))) > 1, "texts of different lengths"


def test_floats_are_at_most_one_and_extremes_have_a_scale_for_each_row() -> None:
    spec = TensorSpec("x", "FP32", (-1, 64))
    ordinary = draw([spec], Shape(), seed=0, rows=5)["x"].data
    assert np.abs(ordinary).max() <= 1
    largest = np.abs(draw([spec], Shape(), seed=0, rows=5, values=Values.EXTREME)["x"].data).max(axis=1)
    assert largest.min() == 0
    assert largest.max() > 500


def test_large_integers_do_not_fit_in_half_their_bits() -> None:
    assert draw([IDS], Shape(), seed=0, values=Values.LARGE)["input_ids"].data.min() > 2**61


def test_only_what_makes_a_difference_is_tried() -> None:
    fixed = TensorSpec("x", "FP32", (-1, 4))
    assert list(shapes([fixed])) == [Shape()]
    assert {shape.size for shape in shapes([TensorSpec("x", "FP32", (1, -1))])} == set(module.SIZES)
    assert {shape.ids for shape in shapes([TensorSpec("x", "INT32", (4,))])} == set(module.IDS)
    assert {shape.rank for shape in shapes([TensorSpec("x", "FP32", (-1,), ranked=False)])} == set(module.RANKS)
    assert list(shapes([])) == [Shape()]


def test_a_scalar_and_an_unknown_rank_have_a_shape() -> None:
    assert Shape().of(TensorSpec("x", "FP32", ()), 3) == ()
    assert Shape(size=7, rank=3).of(TensorSpec("x", "FP32", (-1,), ranked=False), 2) == (2, 7, 7)
    for values in Values:
        assert draw([TensorSpec("x", "FP32", ())], Shape(), seed=0, values=values)["x"].data.shape == ()


def test_a_declared_size_that_would_fill_the_memory_is_not_drawn() -> None:
    assert list(shapes([TensorSpec("x", "FP32", (2**40,))])) == []
    square = TensorSpec("x", "FP32", (1, 3, -1, -1))
    assert max(shape.size for shape in shapes([square])) == 1024
