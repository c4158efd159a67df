from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from blindai.enclave.models.description import Description, Trial
from blindai.enclave.running.exactness import Exactness, row_shape, same_bits
from blindai.wire.tensor import Tensor

TRIED = (("x", (4,)),)
OTHER = (("x", (5,)),)


def exactness(**trial: Any) -> Exactness:
    return Exactness(Description((), (), "test", 0, Trial("onnxruntime", 1, "float32", **trial)))


def test_what_the_trial_has_shown_is_known() -> None:
    known = exactness(max_batch=8, shapes={"x": (1, 4)})
    assert known.shown(TRIED, [1, 1, 6])
    assert not known.shown(TRIED, [4, 5])
    assert not known.shown(OTHER, [1, 1])


@pytest.mark.parametrize("trial", [{}, {"max_batch": 8}, {"max_batch": 8, "shapes": {"x": (2, 4)}}])
def test_a_trial_that_shows_nothing(trial: dict[str, Any]) -> None:
    assert not exactness(**trial).shown(TRIED, [1, 1])


def test_sizes_are_known_once_they_were_compared() -> None:
    known = exactness(max_batch=8)
    known.learn(OTHER, [1, 2], same=True)
    assert known.shown(OTHER, [1, 2])
    assert known.shown(OTHER, [1, 1])
    assert not known.shown(OTHER, [2, 2])
    known.learn(OTHER, [4, 4], same=True)  # of no size that is known: nothing follows
    assert not known.shown(OTHER, [4, 4])
    known.learn(OTHER, [1, 4], same=True)
    assert known.shown(OTHER, [2, 3])


def test_sizes_that_differ_exclude_the_shape_for_good() -> None:
    known = exactness(max_batch=8)
    known.learn(OTHER, [1, 1], same=True)
    assert not known.excluded(OTHER)
    known.learn(OTHER, [1, 2], same=False)
    known.learn(OTHER, [1, 1], same=True)
    assert known.excluded(OTHER)
    assert not known.shown(OTHER, [1, 1])
    assert not known.excluded(TRIED)


def test_the_order_of_inputs_makes_no_shape() -> None:
    a, b = (Tensor.from_array(name, np.zeros((2, 3), np.float32)) for name in "ab")
    assert row_shape({"a": a, "b": b}) == row_shape({"b": b, "a": a}) == (("a", (3,)), ("b", (3,)))


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (np.array([np.nan, 0.0], np.float32), True),
        (np.array([np.nan, -0.0], np.float32), False),
        (np.array([np.nan, 0.0], np.float64), False),
        (np.array([[np.nan, 0.0]], np.float32), False),
    ],
)
def test_bits_are_compared(other: Any, same: bool) -> None:
    one = Tensor.from_array("y", np.array([np.nan, 0.0], np.float32))
    assert same_bits([one], [Tensor.from_array("y", other)]) is same
    assert not same_bits([one], [])
    assert not same_bits([one], [Tensor.from_array("z", one.data)])


def test_text_is_compared() -> None:
    one, other = (Tensor.from_array("y", np.array([text], dtype=object)) for text in (b"a", b"b"))
    assert same_bits([one], [Tensor.from_array("y", np.array([b"a"], dtype=object))])
    assert not same_bits([one], [other])


def test_what_was_seen_long_ago_is_forgotten() -> None:
    known = exactness(max_batch=8, shapes={"x": (1, 4)})
    for size in range(600):
        known.learn((("x", (size, 1)),), [1, 1], same=True)
    assert not known.shown(TRIED, [1, 1])
