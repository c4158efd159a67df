"""The same client as `connection.Connection`, for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from blindai.attestation.policy import Policy
from blindai.channel.flow import AsyncStream
from blindai.client.budget import BudgetWait
from blindai.client.calls import MAX_PREDICTION_BYTES, Call, Calls, wanted_visibility
from blindai.client.model_file import ModelBody, ModelSource, TaskSource
from blindai.client.prediction import Prediction
from blindai.client.progress import upload_progress, waiting_progress
from blindai.client.session import ANSWER_SECONDS, CONNECT_SECONDS, GOODBYE_SECONDS, UPLOAD_SECONDS, Link, Session
from blindai.client.text import Classification, Steps, Texts, classify, embed
from blindai.errors import AttestationError, BudgetExhausted, InvalidInput, ModelNotFound, Unavailable
from blindai.wire.cloud import ModelVisibility
from blindai.wire.lease import ModelLease
from blindai.wire.metadata import ModelMetadata, ModelUploaded, RepositoryModel, ServerMetadata, StatisticsResponse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

# Connections that one AsyncConnection opens for calls made at the same time.
MAX_CONNECTIONS: Final = 8


class AsyncConnection(Session):
    """The same client for asyncio. It connects with the first call, or in `async with`.

    Calls made at the same time have connections of their own, at most `MAX_CONNECTIONS`. It belongs to the event loop
    in which it is first used.
    """

    def __init__(
        self,
        addr: str | None = None,
        *,
        api_key: str | None = None,
        namespace: str | None = None,
        policy: Policy | str | os.PathLike[str] | None = None,
        simulation: bool = False,
        timeout: float | None = ANSWER_SECONDS,
        progress: bool | None = None,
    ) -> None:
        """The arguments are those of `Connection`; nothing is contacted yet.

        Raises:
            ConfigurationError: no address or no policy, or one that cannot be read.
        """
        super().__init__(
            addr, api_key=api_key, namespace=namespace, policy=policy, simulation=simulation, timeout=timeout
        )
        self._progress = progress
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)

    async def predict(
        self,
        model_id: str,
        inputs: Any,
        *,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        binary: bool = True,
        max_answer_bytes: int = MAX_PREDICTION_BYTES,
        wait_for_budget: float | None = None,
        sign: bool = False,
    ) -> Prediction:
        """See `Connection`."""
        model = await self._model(model_id, version)
        call = self._infer(model, inputs, version, outputs, max_answer_bytes, binary=binary, sign=sign)
        try:
            if wait_for_budget is None:
                return await self._run(call)
            return await self._run_patiently(model_id, call, wait_for_budget)
        except (InvalidInput, ModelNotFound):
            # The model may have been replaced by one with other inputs: look again next time.
            self._forget(model_id)
            raise

    async def embed(
        self, model_id: str, texts: Texts, *, version: str | None = None, wait_for_budget: float | None = None
    ) -> NDArray[np.float32]:
        """See `Connection`."""
        return await self._follow(model_id, embed(await self._found(), model_id, texts, version), wait_for_budget)

    async def classify(
        self, model_id: str, texts: Texts, *, version: str | None = None, wait_for_budget: float | None = None
    ) -> list[Classification]:
        """See `Connection`."""
        steps = classify(await self._found(), self._models, model_id, texts, version)
        return await self._follow(model_id, steps, wait_for_budget)

    async def lease(self, model_id: str) -> ModelLease:
        """See `Connection`."""
        return await self._run((await self._found()).lease(model_id))

    async def upload_model(
        self,
        model: ModelSource,
        *,
        model_id: str,
        version: str | None = None,
        tokenizer: str | os.PathLike[str] | bytes | None = None,
        task: TaskSource | None = None,
        progress: bool | None = None,
    ) -> ModelUploaded:
        """See `Connection`."""
        body = ModelBody.open(model, tokenizer=tokenizer, task=task)
        shown = self._progress if progress is None else progress
        with upload_progress(body, model_id, enabled=shown) as chunks:
            uploaded = await self._run(
                (await self._found()).upload(model_id, body, chunks, version), seconds=UPLOAD_SECONDS
            )
        self._forget(model_id)
        return uploaded

    async def models(self, *, ready: bool = False) -> tuple[RepositoryModel, ...]:
        """See `Connection`."""
        return await self._run((await self._found()).index(ready=ready))

    async def model(self, model_id: str, *, version: str | None = None) -> ModelMetadata:
        """See `Connection`."""
        return await self._run((await self._found()).model(model_id, version))

    async def delete_model(self, model_id: str, *, version: str | None = None) -> None:
        """See `Connection`."""
        self._forget(model_id)
        await self._run((await self._found()).delete(model_id, version))

    async def visibility(self, model_id: str) -> ModelVisibility:
        """See `Connection`."""
        return await self._run((await self._found()).visibility(model_id))

    async def set_visibility(
        self, model_id: str, visibility: str, *, shared_with: Sequence[str] = ()
    ) -> ModelVisibility:
        """See `Connection`."""
        return await self._run(
            (await self._found()).set_visibility(model_id, wanted_visibility(visibility, shared_with))
        )

    async def load_model(self, model_id: str) -> None:
        """See `Connection`."""
        await self._run((await self._found()).load(model_id), seconds=UPLOAD_SECONDS)

    async def unload_model(self, model_id: str) -> None:
        """See `Connection`."""
        await self._run((await self._found()).unload(model_id))

    async def server(self) -> ServerMetadata:
        """See `Connection`."""
        return await self._run((await self._found()).server())

    async def statistics(self) -> StatisticsResponse:
        """See `Connection`."""
        return await self._run((await self._found()).statistics())

    async def metrics(self) -> str:
        """See `Connection`."""
        return await self._run((await self._found()).metrics())

    async def close(self) -> None:
        """Close all connections. Calls after it are refused."""
        self._closed = True
        while self._idle:
            link = self._idle.pop()
            # A peer that is gone, or takes nothing, hears no good-bye.
            with contextlib.closing(link.stream), contextlib.suppress(Unavailable):
                await link.stream.run(link.channel.close(), seconds=GOODBYE_SECONDS)

    async def __aenter__(self) -> Self:
        self._give_back(await self._open())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _follow(self, model_id: str, steps: Steps[T], wait_for_budget: float | None) -> T:
        """Carry out one call after the other, and give what they come to."""
        answer: Any = None
        while True:
            try:
                call = steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                if wait_for_budget is None:
                    answer = await self._run(call)
                else:
                    answer = await self._run_patiently(model_id, call, wait_for_budget)
            except (InvalidInput, ModelNotFound):
                self._forget(model_id)
                raise

    async def _run_patiently(self, model_id: str, call: Call[T], seconds: float) -> T:
        try:
            return await self._run(call)
        except BudgetExhausted as error:
            wait = BudgetWait(error, seconds, time.monotonic())
        with waiting_progress(wait.words, enabled=self._progress):
            while True:
                await asyncio.sleep(wait.pause(time.monotonic()))
                if wait.look(await self.lease(model_id)):
                    try:
                        return await self._run(call)
                    except BudgetExhausted as error:
                        wait.refused(error)

    async def _model(self, model_id: str, version: str | None) -> ModelMetadata:
        known = self._models.get((model_id, version))
        if known is None:
            known = self._models[model_id, version] = await self.model(model_id, version=version)
        return known

    async def _run(self, call: Call[T], *, seconds: float | None = None) -> T:
        async with self._places:
            link = await self._take()
            sent_before = link.channel.application_bytes_sent
            try:
                try:
                    sending = call.on(link.channel)
                    answer = await link.stream.run(link.exchange(sending), seconds=seconds)
                except Unavailable:
                    link.stream.close()
                    if not self._may_retry(link, sent_before):
                        raise
                    link = await self._open()
                    sending = call.on(link.channel)
                    answer = await link.stream.run(link.exchange(sending), seconds=seconds)
            except BaseException:
                link.stream.close()
                raise
            self._give_back(link)
        return sending.read(answer, link.channel.result)

    async def _found(self) -> Calls:
        """The calls of the server, once it is known who that is: a cloud's directory is asked in a thread."""
        if not self._is_found:
            self._go_to(await asyncio.to_thread(self._destination.find))
        return self._calls

    async def _take(self) -> Link:
        while self._idle:
            link = self._idle.pop()
            if link.fit(self._party):
                return link
            link.stream.close()
        return await self._open()

    def _give_back(self, link: Link) -> None:
        if link.channel.usable and not self._closed:
            self._idle.append(link)
        else:
            link.stream.close()

    async def _open(self) -> Link:
        await self._found()
        channel = self._new_channel()
        stream = await AsyncStream.connect(
            self._address.host, self._address.port, connect_seconds=CONNECT_SECONDS, seconds=self._timeout
        )
        try:
            await stream.run(channel.open())
        except BaseException as error:
            stream.close()
            if isinstance(error, AttestationError):
                self._explain(error)
            raise
        return self._attested(channel, stream)
