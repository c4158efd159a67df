"""A second copy of a small model, in the server's own process, to be run without a hand-over.

Models of strangers run in processes of their own, and a second copy is made of those alone whose runs cannot last or
grow: time and memory follow from the shapes of the inputs (see `shape_flow`). That is found here again, from the file:
what the confined process says of a model is what the model makes it say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from blindai.crypto.wipe import wipe
from blindai.enclave.config import EngineName
from blindai.enclave.engines import engine
from blindai.enclave.limits import INLINE_MODEL_BYTES, INLINE_PEAK_BYTES
from blindai.enclave.model_file.shape_flow import is_bounded
from blindai.enclave.models.bundle import split
from blindai.enclave.models.description import Task
from blindai.enclave.trial.choice import FLOAT32
from blindai.errors import BlindAIError

if TYPE_CHECKING:
    from blindai.enclave.config import Runtime
    from blindai.enclave.engine import Session
    from blindai.enclave.models.description import Description
    from blindai.enclave.models.plain_model import PlainModel


@runtime_checkable
class Measured(Protocol):
    """A runner of which the kernel knows how much memory it has taken."""

    @property
    def peak(self) -> int:
        """The most bytes that it had, besides what it shares with others."""


def is_light(runner: object) -> bool:
    """Whether a second copy of what `runner` has loaded takes little memory, and took little while it was loaded."""
    return isinstance(runner, Measured) and runner.peak <= INLINE_PEAK_BYTES


def may_have_copy(description: Description, size: int, runtime: Runtime) -> bool:
    """Whether a second copy could be of use, by what the model's process says of it.

    Args:
        description: of the model.
        size: bytes of its upload.
        runtime: how models run.
    """
    trial = description.trial
    return (
        trial.bounded
        and 0.0 < trial.run_us < runtime.inline_us
        and size <= INLINE_MODEL_BYTES
        and description.task is Task.NONE
        and (trial.engine, trial.threads, trial.precision) == (EngineName.ONNXRUNTIME.value, 1, FLOAT32)
    )


def open_copy(plain: PlainModel) -> Session | None:
    """Load a second copy, which answers as the first one does; None where it may not run here. Blocking.

    Args:
        plain: a model of which `may_have_copy` holds, and `is_light` of what runs it.
    """
    body = plain.read()  # not mapped: its process has the file too
    try:
        view = memoryview(body)
        model, external = split(view) if plain.bundle else (view, {})
        return engine(EngineName.ONNXRUNTIME).load(model, external) if is_bounded(model) else None
    except BlindAIError:
        return None  # it runs in its process all the same
    finally:
        wipe(body)
