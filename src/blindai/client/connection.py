"""The client: attests the enclave on every connection it opens, then sends data over that same connection.

`Connection` blocks, `async_connection.AsyncConnection` awaits; both carry out the same `calls.Call` values over the
same `channel.client.AttestedChannel`, and differ in nothing else.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from blindai.attestation.policy import Policy
from blindai.channel.flow import BlockingStream
from blindai.client.budget import BudgetWait
from blindai.client.calls import MAX_PREDICTION_BYTES, Call, wanted_visibility
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


class Connection(Session):
    """A blocking client. It connects and attests at once, so that every refusal comes before any data exists.

    Safe to use from several threads: each call that runs at the same time has a connection of its own.
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
        """Connect and attest.

        Args:
            addr: `https://host:port`; without it the environment variable BLINDAI_ADDR, then the stored profile: its
                server, or where its cloud (`blindai login`) has the account's models.
            api_key: sent as a bearer token, after attestation only; without it the one that was stored for that cloud,
                where it was the profile that named it.
            namespace: another account of that cloud, whose models are meant.
            policy: a manifest's path, or a `Policy`; without it ./manifest.toml, then the stored profile's.
            simulation: without a policy, accept the simulated platform of this very installation.
            timeout: seconds to wait for each read and write; None waits for ever.
            progress: show a bar during uploads, and what `wait_for_budget` waits for; None shows it on a terminal.

        Raises:
            ConfigurationError: no address or no policy, or one that cannot be read; no time to wait.
            AuthenticationError: `authentication.key_format`, the API key is mistyped; nothing was contacted.
            AttestationError: the peer is refused.
            Unavailable: nothing answers at the address.
        """
        super().__init__(
            addr, api_key=api_key, namespace=namespace, policy=policy, simulation=simulation, timeout=timeout
        )
        self._progress = progress
        self._lock = threading.Lock()
        if not self._is_found:
            self._go_to(self._destination.find())
        self._give_back(self._open())

    def predict(
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
        """Run a model.

        Args:
            model_id: `namespace/name`.
            inputs: an array, tensor or list for a model with one input; a dict by input name, or one for each input.
            version: a decimal string; the newest without it.
            outputs: names of the outputs to return; all without it.
            binary: send tensors in binary form; otherwise as JSON numbers.
            max_answer_bytes: refuse a longer answer.
            wait_for_budget: for a model on loan whose budget is used up: seconds to wait until its custodian has given
                more; without it the call is refused at once.
            sign: have the enclave sign a receipt; it is verified before this returns, and stands in `.receipt`.

        Raises:
            InvalidInput, ModelNotFound, QuotaExceeded, Unavailable, AttestationError: as they say.
            BudgetExhausted: the budget is used up and the custodian has not given more in time, or has denied it.
            ReceiptError: `receipt.*`, what came is not what the enclave signed, or it signed nothing.
            LeaseStopped, LeaseExpired: the custodian of a model on loan has stopped it; the enclave cannot reach them.
        """
        model = self._model(model_id, version)
        call = self._infer(model, inputs, version, outputs, max_answer_bytes, binary=binary, sign=sign)
        try:
            return self._run(call) if wait_for_budget is None else self._run_patiently(model_id, call, wait_for_budget)
        except (InvalidInput, ModelNotFound):
            # The model may have been replaced by one with other inputs: look again next time.
            self._forget(model_id)
            raise

    def embed(
        self, model_id: str, texts: Texts, *, version: str | None = None, wait_for_budget: float | None = None
    ) -> NDArray[np.float32]:
        """The vectors of texts, FP32 [n, d]. A long list is sent in several requests, all to one version.

        Args:
            model_id: `namespace/name` of a model that embeds text.
            texts: a list of texts; one text is a list of one.
            version, wait_for_budget: as in `predict`.

        Raises:
            InvalidInput: `input.name`, the model does something else.
            BlindAIError: as `predict`.
        """
        return self._follow(model_id, embed(self._calls, model_id, texts, version), wait_for_budget)

    def classify(
        self, model_id: str, texts: Texts, *, version: str | None = None, wait_for_budget: float | None = None
    ) -> list[Classification]:
        """What a classifier says of texts: for each its label, and the scores of all labels.

        Args, Raises: as `embed`.
        """
        steps = classify(self._calls, self._models, model_id, texts, version)
        return self._follow(model_id, steps, wait_for_budget)

    def lease(self, model_id: str) -> ModelLease:
        """How the lease of a model on loan stands: its state, what was used, what is left.

        Raises:
            InvalidInput: `lease.none`, the model is not on loan.
            AuthenticationError: `authentication.token`, this connection's API key is not a token for it.
        """
        return self._run(self._calls.lease(model_id))

    def upload_model(
        self,
        model: ModelSource,
        *,
        model_id: str,
        version: str | None = None,
        tokenizer: str | os.PathLike[str] | bytes | None = None,
        task: TaskSource | None = None,
        progress: bool | None = None,
    ) -> ModelUploaded:
        """Upload an ONNX model with its external data, streamed; what the enclave received is checked by digest.

        Args:
            model: path of an ONNX file, or of a folder with `model.onnx`, `tokenizer.json` and `blindai-task.json`; or
                the content of an ONNX file.
            model_id: `namespace/name`.
            version: a decimal string; the next one without it.
            tokenizer: `tokenizer.json`, for a model that takes text.
            task: what the model does with text: `"embed"`, or all that may stand in `blindai-task.json`.
            progress: show a bar; None is as this client was told.

        Raises:
            InvalidModel: it is not a model the enclave can run; nothing was stored.
            QuotaExceeded, Unavailable, AttestationError: as they say.
        """
        body = ModelBody.open(model, tokenizer=tokenizer, task=task)
        shown = self._progress if progress is None else progress
        with upload_progress(body, model_id, enabled=shown) as chunks:
            uploaded = self._run(self._calls.upload(model_id, body, chunks, version), seconds=UPLOAD_SECONDS)
        self._forget(model_id)
        return uploaded

    def models(self, *, ready: bool = False) -> tuple[RepositoryModel, ...]:
        """The models of the enclave, every version; with `ready`, those that can answer now."""
        return self._run(self._calls.index(ready=ready))

    def model(self, model_id: str, *, version: str | None = None) -> ModelMetadata:
        """Inputs, outputs and versions of a model.

        Raises:
            ModelNotFound: see there.
        """
        return self._run(self._calls.model(model_id, version))

    def delete_model(self, model_id: str, *, version: str | None = None) -> None:
        """Delete one version, or the model with all versions.

        Raises:
            ModelNotFound: see there.
        """
        self._forget(model_id)
        self._run(self._calls.delete(model_id, version))

    def visibility(self, model_id: str) -> ModelVisibility:
        """Who may query a model, besides its own account.

        Raises:
            ModelNotFound: see there; also for a model of somebody else's.
        """
        return self._run(self._calls.visibility(model_id))

    def set_visibility(self, model_id: str, visibility: str, *, shared_with: Sequence[str] = ()) -> ModelVisibility:
        """Say who may query a model. Only a key of the model's own account may, with the scope `upload`.

        Args:
            model_id: `namespace/name`.
            visibility: `private`, `shared` or `public`.
            shared_with: the accounts that may, for `shared`; those that were named before may no more.

        Raises:
            InvalidInput: `input.visibility`, there is no such one, or accounts do not go with it; `account.name`.
            ModelNotFound, PermissionDenied: as they say.
        """
        return self._run(self._calls.set_visibility(model_id, wanted_visibility(visibility, shared_with)))

    def load_model(self, model_id: str) -> None:
        """Make an unloaded model ready again.

        Raises:
            ModelNotFound: see there.
        """
        self._run(self._calls.load(model_id), seconds=UPLOAD_SECONDS)

    def unload_model(self, model_id: str) -> None:
        """Free what a model needs to run, and keep the model.

        Raises:
            ModelNotFound: see there.
        """
        self._run(self._calls.unload(model_id))

    def server(self) -> ServerMetadata:
        """Name, version and extensions of the server."""
        return self._run(self._calls.server())

    def statistics(self) -> StatisticsResponse:
        """Counts and times of every model since the server started."""
        return self._run(self._calls.statistics())

    def metrics(self) -> str:
        """What the enclave counts, in Prometheus' text format."""
        return self._run(self._calls.metrics())

    def close(self) -> None:
        """Close all connections. Calls after it are refused."""
        with self._lock:
            self._closed = True
            links, self._idle = self._idle, deque()
        for link in links:
            # A peer that is gone, or takes nothing, hears no good-bye.
            with contextlib.closing(link.stream), contextlib.suppress(Unavailable):
                link.stream.run(link.channel.close(), seconds=GOODBYE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _follow(self, model_id: str, steps: Steps[T], wait_for_budget: float | None) -> T:
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
                    answer = self._run(call)
                else:
                    answer = self._run_patiently(model_id, call, wait_for_budget)
            except (InvalidInput, ModelNotFound):
                self._forget(model_id)
                raise

    def _run_patiently(self, model_id: str, call: Call[T], seconds: float) -> T:
        try:
            return self._run(call)
        except BudgetExhausted as error:
            wait = BudgetWait(error, seconds, time.monotonic())
        with waiting_progress(wait.words, enabled=self._progress):
            while True:
                time.sleep(wait.pause(time.monotonic()))
                if wait.look(self.lease(model_id)):
                    try:
                        return self._run(call)
                    except BudgetExhausted as error:
                        wait.refused(error)

    def _model(self, model_id: str, version: str | None) -> ModelMetadata:
        known = self._models.get((model_id, version))
        if known is None:
            known = self._models[model_id, version] = self.model(model_id, version=version)
        return known

    def _run(self, call: Call[T], *, seconds: float | None = None) -> T:
        link = self._take()
        sent_before = link.channel.application_bytes_sent
        try:
            try:
                sending = call.on(link.channel)
                answer = link.stream.run(link.exchange(sending), seconds=seconds)
            except Unavailable:
                link.stream.close()
                if not self._may_retry(link, sent_before):
                    raise
                link = self._open()
                sending = call.on(link.channel)
                answer = link.stream.run(link.exchange(sending), seconds=seconds)
        except BaseException:
            link.stream.close()
            raise
        self._give_back(link)
        return sending.read(answer, link.channel.result)

    def _take(self) -> Link:
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                return self._open()
            if link.fit(self._party):
                return link
            link.stream.close()

    def _give_back(self, link: Link) -> None:
        if link.channel.usable:
            with self._lock:
                if not self._closed:
                    self._idle.append(link)
                    return
        link.stream.close()

    def _open(self) -> Link:
        channel = self._new_channel()
        stream = BlockingStream(
            self._address.host, self._address.port, connect_seconds=CONNECT_SECONDS, seconds=self._timeout
        )
        try:
            stream.run(channel.open())
        except BaseException as error:
            stream.close()
            if isinstance(error, AttestationError):
                self._explain(error)
            raise
        return self._attested(channel, stream)


# The original's name for the same thing.
connect = Connection
