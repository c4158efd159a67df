"""A session of a model that does what a test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blindai.enclave.engine import Cancellation, TensorSpec
from blindai.wire.tensor import Tensor

FLOATS = TensorSpec("x", "FP32", (-1, 4))


class Switch:
    """As `engine.Cancellation`."""

    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ScriptedSession:
    """As `engine.Session`: y is what `act` makes of x."""

    optional: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    memory = 0

    def __init__(
        self, act: Callable[[NDArray[Any]], NDArray[Any]] = lambda x: x, inputs: Sequence[TensorSpec] = (FLOATS,)
    ) -> None:
        self.act = act
        self.inputs = tuple(inputs)
        self.runs: list[Mapping[str, Tensor]] = []
        self.closed = False

    def cancellation(self) -> Switch:
        return Switch()

    def run(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str] = (), *, cancellation: Cancellation | None = None
    ) -> list[Tensor]:
        assert not self.closed
        self.runs.append(inputs)
        data = next(iter(inputs.values())).data
        return [Tensor.from_array("y", np.asarray(self.act(data)))]

    def close(self) -> None:
        self.closed = True
