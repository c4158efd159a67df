"""The interface every inference engine has: bytes of a model in, a session that runs tensors out.

What a model's inputs must be is checked here, against the model's own description and with our own codes, so that an
engine sees only what it asked for and every engine refuses alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from blindai.errors import InvalidInput
from blindai.wire.metadata import VARIABLE, TensorMetadata
from blindai.wire.tensor import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from blindai.wire.tensor import Buffer, Tensor

MAX_LISTED = 16
"""Names that an error message lists: some tables have hundreds of columns."""


class TensorSpec(msgspec.Struct, frozen=True):
    """What a model says of one input or output.

    Attributes:
        name: the model's name for it.
        datatype: V2 datatype.
        shape: its dimensions, -1 where the request decides. A tensor of unknown rank shows one such dimension.
        ranked: whether the rank is known; where it is not, any shape is accepted.
        required: False for an input that the model has a value for; a request may replace it.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    ranked: bool = True
    required: bool = True

    @property
    def metadata(self) -> TensorMetadata:
        """The same, as the message that describes it to clients."""
        return TensorMetadata(self.name, self.datatype, self.shape)

    def refuse_other(self, tensor: Tensor) -> None:
        """Raises InvalidInput, `input.datatype` or `input.shape`, unless `tensor` is what this input takes."""
        if tensor.datatype != self.datatype:
            message = f"input {quoted(self.name)}: expected {self.datatype}, got {quoted(tensor.datatype)[1:-1]}"
            raise InvalidInput(message, code="input.datatype", hint="convert the tensor before sending it")
        shape = tensor.data.shape
        if shape == self.shape or not self.ranked:
            return
        if len(shape) == len(self.shape):
            for got, expected in zip(shape, self.shape, strict=True):
                if got != expected != VARIABLE:
                    break
            else:
                return
        message = f"input {quoted(self.name)}: expected shape {list(self.shape)}, got {list(shape)}"
        hint = "-1 stands for any size" if VARIABLE in self.shape else ""
        raise InvalidInput(message, code="input.shape", hint=hint)


class Cancellation(Protocol):
    """Stops runs from another thread: the guard against a model that never ends."""

    def cancel(self) -> None:
        """Stop the run this was given to, before its next operator. It ends with `quota.run_time`."""


class Session(Protocol):
    """One loaded model. Threads may run it at the same time.

    Attributes:
        inputs: what a request must send, in the model's order.
        optional: what it may send too, in place of a value that the model has.
        outputs: what it may ask for, in the model's order.
        memory: estimate of the bytes it holds: the model and its external data.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def optional(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def memory(self) -> int: ...

    def run(
        self,
        inputs: Mapping[str, Tensor],
        outputs: Sequence[str] = (),
        *,
        cancellation: Cancellation | None = None,
    ) -> list[Tensor]:
        """Runs the model.

        Args:
            inputs: tensors by name.
            outputs: names of the wanted outputs, in the order wanted; all of them when empty.
            cancellation: made by this session's `cancellation()`; one run each.

        Raises:
            InvalidInput: `input.name`, `input.missing`, `input.datatype`, `input.shape`, `input.bytes` for text that is
                not UTF-8, `input.run` when the model cannot work on these values.
            InvalidModel: `model.run` when the model itself is at fault.
            QuotaExceeded: `quota.memory`; `quota.run_time` after a cancellation.
        """

    def cancellation(self) -> Cancellation:
        """A new switch to stop one `run` with."""

    def close(self) -> None:
        """Free the model, whoever still refers to this session. No run may be in progress, and none can follow."""


class Repetition(Protocol):
    """Runs a session on inputs that are like others in all but their values."""

    def run(
        self,
        inputs: dict[str, NDArray[Any]],
        outputs: Sequence[str] = (),
        *,
        cancellation: Cancellation | None = None,
    ) -> list[NDArray[Any]]:
        """As `Session.run`, with arrays in place of tensors, and without looking at their names and shapes.

        Args:
            inputs: contiguous arrays by name, alike in dtype and shape to those of a run that succeeded.
            outputs: not looked at: those that the repetition was made for are computed.
            cancellation: as there.
        """


@runtime_checkable
class Repeatable(Protocol):
    """A session that can do without looking at what it was shown to take."""

    def repetition(self, inputs: Sequence[tuple[str, str]], outputs: Sequence[str]) -> Repetition | None:
        """For inputs of these names and datatypes that it has run; None where it must look at each."""


class Engine(Protocol):
    """Loads models.

    Attributes:
        platform: what model metadata calls it.
    """

    @property
    def platform(self) -> str: ...

    def load(self, model: Buffer, external: Mapping[str, Buffer]) -> Session:
        """Loads a model from memory; no file is opened.

        Args:
            model: the model file.
            external: the external data files, by the location that the model gives them.

        Raises:
            InvalidModel: with a `model.*` code.
            QuotaExceeded: `quota.memory`.
        """


class Signature:
    """All inputs and outputs of a model, looked up by name.

    Args:
        inputs: every input a request may send, optional ones too.
        outputs: every output.
    """

    __slots__ = ("_all_outputs", "_inputs", "_outputs", "_required")

    def __init__(self, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> None:
        self._inputs = {spec.name: spec for spec in inputs}
        self._required = [spec.name for spec in self._inputs.values() if spec.required]
        self._outputs = {spec.name: spec for spec in outputs}
        self._all_outputs = list(self._outputs)

    def check_inputs(self, inputs: Mapping[str, Tensor]) -> None:
        """Raises InvalidInput unless these are inputs of the model, all it needs, each of its datatype and shape."""
        for name, tensor in inputs.items():
            spec = self._inputs.get(name)
            if spec is None:
                message = f"the model has no input {quoted(name)}, it has {_listed(self._inputs)}"
                raise InvalidInput(message, code="input.name")
            spec.refuse_other(tensor)
        for name in self._required:
            if name not in inputs:
                message = f"input {self._inputs[name].metadata} is missing"
                raise InvalidInput(message, code="input.missing", hint=f"the model takes {_listed(self._required)}")

    def select_outputs(self, outputs: Sequence[str]) -> list[str]:
        """The outputs to compute: those named, in that order, or all. Raises InvalidInput `input.name`."""
        if not outputs:
            return self._all_outputs
        for name in outputs:
            if name not in self._outputs:
                message = f"the model has no output {quoted(name)}, it has {_listed(self._outputs)}"
                raise InvalidInput(message, code="input.name")
        return list(outputs)

    def output(self, name: str) -> TensorSpec:
        return self._outputs[name]


def _listed(names: Iterable[str]) -> str:
    known = [quoted(name) for name in names]
    if not known:
        return "none"
    more = f" and {len(known) - MAX_LISTED} more" if len(known) > MAX_LISTED else ""
    return ", ".join(known[:MAX_LISTED]) + more
