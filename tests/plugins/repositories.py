"""Repositories whose models run in the test's own process, with any engine."""

from __future__ import annotations

from collections.abc import Callable

from blindai.enclave.config import EnclaveConfig, Limits, Runtime
from blindai.enclave.engine import Engine
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.enclave.model_file.opening import Opened
from blindai.enclave.models.bundle import split
from blindai.enclave.models.description import Description, Trial
from blindai.enclave.models.model_id import ModelId
from blindai.enclave.models.model_version import ModelVersion
from blindai.enclave.models.repository import Repository
from blindai.enclave.running.runner import Plain
from blindai.enclave.running.thread_runner import RunningThreads, ThreadLoader


def opening_with(engine: Engine) -> Callable[[Plain, Trial | None], Opened]:
    """Opens the bodies of uploads with `engine`, and tries nothing out."""

    def open_body(plain: Plain, trial: Trial | None) -> Opened:
        model, external = split(plain.view) if plain.bundle else (plain.view, {})
        session = engine.load(model, external)
        description = Description(
            inputs=session.inputs,
            outputs=session.outputs,
            platform=engine.platform,
            memory=session.memory,
            trial=trial or Trial(engine=engine.platform, threads=1, precision="float32"),
            optional=session.optional,
        )
        return Opened(session, description)

    return open_body


class ThreadRepository(Repository):
    """A repository with threads of its own."""

    def __init__(
        self, engine: Engine | None = None, limits: Limits | None = None, runtime: Runtime | None = None
    ) -> None:
        config = EnclaveConfig(limits=limits or Limits(), runtime=runtime or Runtime())
        engine = engine or OnnxRuntimeEngine()
        self.threads = RunningThreads(config.runtime.workers)
        super().__init__(ThreadLoader(opening_with(engine), self.threads), engine, config, self.threads)

    async def close(self) -> None:
        await super().close()
        await self._loader.close()
        self.threads.close()


async def upload(
    repository: Repository, model_id: ModelId, body: bytes, *, version: int | None = None, bundle: bool = False
) -> ModelVersion:
    """Upload a body in one piece."""
    with repository.admit(model_id, version=version, size=len(body)) as admission:
        draft = admission.begin(bundle=bundle, observe=lambda _: None)
        await draft.write(body)
        await draft.finish()
        return await repository.commit(admission, draft.stored)
