"""Opens the body of an upload: from bytes to a session that runs, and what is known of it.

This is what the process of one model does first, before any request. A model that comes without a trial is tried out,
on every engine and number of threads that the settings allow; one that comes with the trial of an earlier load is
opened as that trial chose, and nothing is measured again.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from blindai.enclave.config import EngineName
from blindai.enclave.engines import engine
from blindai.enclave.model_file.shape_flow import is_bounded
from blindai.enclave.models.bundle import split
from blindai.enclave.models.description import Description, Task, Trial
from blindai.enclave.trial.budget import Budget
from blindai.enclave.trial.choice import BFLOAT16, FLOAT32, Way, try_out
from blindai.errors import BlindAIError
from blindai.wire.task import TASK_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blindai.enclave.engine import Session

TRIAL_MS: Final = 10_000
"""What may be measured at a load takes seconds for the largest models that people wait for, and less for others."""

LIMIT_MS: Final = 60_000
"""As `config.Timeouts.run_ms`: a model that needs longer for one small input could not be used."""


class OpeningSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model may be opened.

    Attributes:
        engines: what it may run on, the reference first.
        reduced_precision: whether an engine may calculate with fewer bits than the model says.
        threads: most threads of one run.
        lanes: runs at once that the session will be asked for.
        max_batch: most requests that may run as one.
        trial_ms: how long the trial may go on before the rest of it is left out.
        limit_ms: how long it may go on before a run of it is stopped and the model refused.
    """

    engines: tuple[EngineName, ...] = (EngineName.ONNXRUNTIME,)
    reduced_precision: bool = False
    threads: int = 1
    lanes: int = 1
    max_batch: int = 16
    trial_ms: int = TRIAL_MS
    limit_ms: int = LIMIT_MS

    @property
    def ways(self) -> Sequence[Way]:
        """All that may be tried, the reference first: one thread, as the file says, on the first engine."""
        return [
            Way(name.value, threads, precision)
            for name in self.engines
            for precision in (FLOAT32, BFLOAT16)
            for threads in sorted({1, self.threads})
            if precision == FLOAT32 or (self.reduced_precision and name is EngineName.OPENVINO)
        ]


class Opened(NamedTuple):
    """A model that can run, and what it is."""

    session: Session
    description: Description


def open_model(body: memoryview, *, bundle: bool, settings: OpeningSettings, trial: Trial | None = None) -> Opened:
    """Open a model, and try it out where `trial` does not say how an earlier load did.

    Args:
        body: the upload in clear. Nobody keeps a view of it: it may be wiped when this has returned or raised.
        bundle: whether it is a bundle; else an ONNX file.

    Raises:
        InvalidModel: with a `model.*` code.
        QuotaExceeded: `quota.memory`; `quota.model_size` for a bundle of too many files; `quota.load_time` where a run
            of the trial does not end.
        ConfigurationError: `configuration.engine`, an engine is not installed.
    """
    files: Mapping[str, memoryview]
    model, files = split(body) if bundle else (body, {})
    load = partial(_load, model, files, settings.lanes)
    if trial is None:
        with Budget(settings.trial_ms / 1000, settings.limit_ms / 1000) as budget:
            session, found = try_out(load, settings.ways, max_batch=settings.max_batch, budget=budget)
        # The length of a text is no part of a shape; and OpenVINO does not check shapes while it runs.
        bounded = TASK_FILE not in files and found.engine == EngineName.ONNXRUNTIME.value and is_bounded(model)
        found = msgspec.structs.replace(found, bounded=bounded)
    else:
        found = trial
        session = load(Way(trial.engine, trial.threads, trial.precision))
    task = Task.NONE
    labels: tuple[str, ...] = ()
    if TASK_FILE in files:
        # Only bundles with a task need the tokenizers library.
        from blindai.enclave.text.session import open_text

        try:
            session = text = open_text(session, files, rows=found.max_batch, probe=trial is None)
        except BlindAIError:
            session.close()
            raise
        task, labels = text.task, text.labels
    description = Description(
        inputs=session.inputs,
        outputs=session.outputs,
        platform=engine(EngineName(found.engine)).platform,
        memory=session.memory,
        trial=found,
        optional=session.optional,
        task=task,
        labels=labels,
    )
    return Opened(session, description)


def _load(model: memoryview, files: Mapping[str, memoryview], lanes: int, way: Way) -> Session:
    chosen = engine(EngineName(way.engine), threads=way.threads, precision=way.precision, lanes=lanes)
    return chosen.load(model, files)
