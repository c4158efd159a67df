"""Opens the body of an upload: from bytes to a session that runs, and what is known of it.

This is what the process of one model does first, before any request. A model that comes without a trial is tried out,
on every engine and number of threads that the settings allow; one that comes with the trial of an earlier load is
opened as that trial chose, and nothing is measured again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from blindai.enclave.bundle import split
from blindai.enclave.config import EngineName
from blindai.enclave.description import Description, Trial
from blindai.enclave.engines import engine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blindai.enclave.engine import Session

FLOAT32 = "float32"
"""`Trial.precision` of a model that calculates as its file says."""


class OpeningSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model may be opened.

    Attributes:
        engines: what it may run on, the reference first.
        reduced_precision: whether an engine may calculate with fewer bits than the model says.
        threads: most threads of one run.
        max_batch: most requests that may run as one.
        trial_ms: how long the trial may go on before the rest of it is left out.
    """

    engines: tuple[EngineName, ...] = (EngineName.ONNXRUNTIME,)
    reduced_precision: bool = False
    threads: int = 1
    max_batch: int = 16
    trial_ms: int = 10_000


class Opened(NamedTuple):
    """A model that can run, and what it is."""

    session: Session
    description: Description


def open_model(body: memoryview, *, bundle: bool, settings: OpeningSettings, trial: Trial | None = None) -> Opened:
    """Open a model, and try it out where `trial` does not say how an earlier load did.

    Args:
        body: the upload in clear. The engines keep no view of it: it may be wiped when this has returned or raised.
        bundle: whether it is a bundle; else an ONNX file.

    Raises:
        InvalidModel: with a `model.*` code.
        QuotaExceeded: `quota.memory`; `quota.model_size` for a bundle of too many files.
    """
    files: Mapping[str, memoryview]
    model, files = split(body) if bundle else (body, {})
    if trial is None:
        trial = Trial(engine=settings.engines[0], threads=1, precision=FLOAT32)
    chosen = engine(EngineName(trial.engine), threads=trial.threads)
    session = chosen.load(model, files)
    description = Description(
        inputs=session.inputs,
        outputs=session.outputs,
        platform=chosen.platform,
        memory=session.memory,
        trial=trial,
        optional=session.optional,
    )
    return Opened(session, description)
