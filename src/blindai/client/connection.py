"""The client: attests the enclave on every connection it opens, then sends data over that same connection.

`Connection` blocks, `AsyncConnection` awaits; both carry out the same `calls.Call` values over the same
`channel.client.AttestedChannel`, and differ in nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from blindai.attestation.measure.local import local_policy
from blindai.attestation.policy import Policy
from blindai.attestation.result import AttestationResult
from blindai.channel.client import AttestedChannel
from blindai.channel.flow import AsyncStream, BlockingStream, Flow
from blindai.channel.http1 import Answer
from blindai.channel.relying_party import RelyingParty
from blindai.client.calls import MAX_PREDICTION_BYTES, Call, Calls
from blindai.client.inputs import to_tensors
from blindai.client.model_file import ModelBody, ModelSource
from blindai.client.prediction import Prediction
from blindai.client.profile import Address, resolve_address, resolve_policy
from blindai.client.progress import upload_progress
from blindai.errors import AttestationError, ConfigurationError, InvalidInput, ModelNotFound, Unavailable
from blindai.wire.metadata import ModelMetadata, ModelUploaded, RepositoryModel, ServerMetadata

T = TypeVar("T")

CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 60.0
# The server answers an upload after it has built the session: minutes for a model of gigabytes.
UPLOAD_SECONDS: Final = 600.0
GOODBYE_SECONDS: Final = 1.0

# Connections that one AsyncConnection opens for calls made at the same time.
MAX_CONNECTIONS: Final = 8

_log = logging.getLogger("blindai")


@dataclass(slots=True)
class _Link:
    """One attested connection."""

    channel: AttestedChannel
    stream: Any  # BlockingStream or AsyncStream, by the class that made it

    def exchange(self, call: Call[Any]) -> Flow[Answer]:
        return self.channel.exchange(
            call.head, call.body, max_answer_bytes=call.max_answer_bytes, expect_continue=call.expect_continue
        )

    def fit(self, party: RelyingParty) -> bool:
        """Whether a request may be sent on it now."""
        expires_at = self.channel.result.expires_at
        return (
            self.channel.usable and expires_at is not None and party.now() < expires_at and not self.stream.is_stale()
        )


class _Client:
    """What both clients are made of: whom to talk to, under which policy, and what is known of the models there."""

    def __init__(
        self,
        addr: str | None,
        *,
        api_key: str | None,
        policy: Policy | str | os.PathLike[str] | None,
        simulation: bool,
        timeout: float | None,
    ) -> None:
        if timeout is not None and not timeout > 0:
            raise ConfigurationError(
                f"a timeout of {timeout} seconds leaves no time for an answer",
                code="configuration.timeout",
                hint="give a number of seconds above 0, or None to wait for ever",
            )
        self._address: Address = resolve_address(addr)
        chosen = local_policy() if simulation and policy is None else resolve_policy(policy)
        self._party = RelyingParty(self._address.authority, chosen)
        self._calls = Calls(self._address.authority, api_key)
        self._timeout = timeout
        self._idle: deque[_Link] = deque()
        self._models: dict[tuple[str, str | None], ModelMetadata] = {}
        self._attestation: AttestationResult | None = None
        self._closed = False

    @property
    def address(self) -> str:
        """The server's address, as a URL."""
        return self._address.url

    @property
    def policy(self) -> Policy:
        return self._party.policy

    @property
    def attestation(self) -> AttestationResult:
        """The verdict on the connection opened last.

        Raises:
            AttestationError: `channel.not_open`, before the first connection.
        """
        if self._attestation is None:
            raise AttestationError("no connection is open yet", code="channel.not_open", step="channel")
        return self._attestation

    @property
    def simulated(self) -> bool:
        """Whether the enclave runs on the simulated platform, which protects nothing."""
        return self.attestation.simulated

    def __repr__(self) -> str:
        state = "not connected" if self._attestation is None else f"attested, {self._attestation.mode}"
        if self._attestation is not None and self._attestation.simulated:
            state += ", SIMULATED"
        return f"<{type(self).__name__} {self.address} ({state})>"

    def _new_channel(self) -> AttestedChannel:
        if self._closed:
            raise Unavailable("this connection was closed", code="unavailable.closed", hint="open a new one")
        return AttestedChannel(self._party, server_name=_server_name(self._address.host))

    def _attested(self, channel: AttestedChannel, stream: Any) -> _Link:
        first = self._attestation is None
        self._attestation = channel.result
        if first and channel.result.simulated:
            _log.warning("%s runs on the SIMULATED platform: nothing protects what you send it", self.address)
        return _Link(channel, stream)

    def _explain(self, error: AttestationError) -> None:
        error.hint = error.hint or f"blindai verify {self.address} --explain"

    def _may_retry(self, link: _Link, sent_before: int) -> bool:
        """A request is sent twice only if not a byte of it left the first time."""
        return link.channel.application_bytes_sent == sent_before

    def _infer(
        self,
        model: ModelMetadata,
        inputs: Any,
        version: str | None,
        outputs: Sequence[str] | None,
        max_answer_bytes: int,
        *,
        binary: bool,
    ) -> Call[Prediction]:
        return self._calls.infer(
            model.name,
            to_tensors(inputs, model.inputs),
            version=version,
            outputs=outputs,
            binary=binary,
            max_answer_bytes=max_answer_bytes,
        )

    def _forget(self, model_id: str) -> None:
        for known in list(self._models):  # a copy: other threads add to it
            if known[0] == model_id:
                self._models.pop(known, None)


class Connection(_Client):
    """A blocking client. It connects and attests at once, so that every refusal comes before any data exists.

    Safe to use from several threads: each call that runs at the same time has a connection of its own.
    """

    def __init__(
        self,
        addr: str | None = None,
        *,
        api_key: str | None = None,
        policy: Policy | str | os.PathLike[str] | None = None,
        simulation: bool = False,
        timeout: float | None = ANSWER_SECONDS,
        progress: bool | None = None,
    ) -> None:
        """Connect and attest.

        Args:
            addr: `https://host:port`; without it the environment variable BLINDAI_ADDR, then the stored profile.
            api_key: sent as a bearer token, after attestation only.
            policy: a manifest's path, or a `Policy`; without it ./manifest.toml, then the stored profile's.
            simulation: without a policy, accept the simulated platform of this very installation.
            timeout: seconds to wait for each read and write; None waits for ever.
            progress: show a bar during uploads; None shows it on a terminal.

        Raises:
            ConfigurationError: no address or no policy, or one that cannot be read; no time to wait.
            AttestationError: the peer is refused.
            Unavailable: nothing answers at the address.
        """
        super().__init__(addr, api_key=api_key, policy=policy, simulation=simulation, timeout=timeout)
        self._progress = progress
        self._lock = threading.Lock()
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
    ) -> Prediction:
        """Run a model.

        Args:
            model_id: `namespace/name`.
            inputs: an array, tensor or list for a model with one input; a dict by input name, or one for each input.
            version: a decimal string; the newest without it.
            outputs: names of the outputs to return; all without it.
            binary: send tensors in binary form; otherwise as JSON numbers.
            max_answer_bytes: refuse a longer answer.

        Raises:
            InvalidInput, ModelNotFound, QuotaExceeded, Unavailable, AttestationError: as they say.
        """
        model = self._model(model_id, version)
        call = self._infer(model, inputs, version, outputs, max_answer_bytes, binary=binary)
        try:
            return self._run(call)
        except (InvalidInput, ModelNotFound):
            # The model may have been replaced by one with other inputs: look again next time.
            self._forget(model_id)
            raise

    def upload_model(
        self,
        model: ModelSource,
        *,
        model_id: str,
        version: str | None = None,
        progress: bool | None = None,
    ) -> ModelUploaded:
        """Upload an ONNX model with its external data, streamed; what the enclave received is checked by digest.

        Raises:
            InvalidModel: it is not a model the enclave can run; nothing was stored.
            QuotaExceeded, Unavailable, AttestationError: as they say.
        """
        body = ModelBody.open(model)
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
                answer = link.stream.run(link.exchange(call), seconds=seconds)
            except Unavailable:
                link.stream.close()
                if not self._may_retry(link, sent_before):
                    raise
                link = self._open()
                answer = link.stream.run(link.exchange(call), seconds=seconds)
        except BaseException:
            link.stream.close()
            raise
        self._give_back(link)
        return call.read(answer, link.channel.result)

    def _take(self) -> _Link:
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                return self._open()
            if link.fit(self._party):
                return link
            link.stream.close()

    def _give_back(self, link: _Link) -> None:
        if link.channel.usable:
            with self._lock:
                if not self._closed:
                    self._idle.append(link)
                    return
        link.stream.close()

    def _open(self) -> _Link:
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


class AsyncConnection(_Client):
    """The same client for asyncio. It connects with the first call, or in `async with`.

    Calls made at the same time have connections of their own, at most `MAX_CONNECTIONS`.
    """

    def __init__(
        self,
        addr: str | None = None,
        *,
        api_key: str | None = None,
        policy: Policy | str | os.PathLike[str] | None = None,
        simulation: bool = False,
        timeout: float | None = ANSWER_SECONDS,
        progress: bool | None = None,
    ) -> None:
        """The arguments are those of `Connection`; nothing is contacted yet.

        Raises:
            ConfigurationError: no address or no policy, or one that cannot be read.
        """
        super().__init__(addr, api_key=api_key, policy=policy, simulation=simulation, timeout=timeout)
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
    ) -> Prediction:
        """See `Connection`."""
        model = await self._model(model_id, version)
        call = self._infer(model, inputs, version, outputs, max_answer_bytes, binary=binary)
        try:
            return await self._run(call)
        except (InvalidInput, ModelNotFound):
            # The model may have been replaced by one with other inputs: look again next time.
            self._forget(model_id)
            raise

    async def upload_model(
        self,
        model: ModelSource,
        *,
        model_id: str,
        version: str | None = None,
        progress: bool | None = None,
    ) -> ModelUploaded:
        """See `Connection`."""
        body = ModelBody.open(model)
        shown = self._progress if progress is None else progress
        with upload_progress(body, model_id, enabled=shown) as chunks:
            uploaded = await self._run(self._calls.upload(model_id, body, chunks, version), seconds=UPLOAD_SECONDS)
        self._forget(model_id)
        return uploaded

    async def models(self, *, ready: bool = False) -> tuple[RepositoryModel, ...]:
        """See `Connection`."""
        return await self._run(self._calls.index(ready=ready))

    async def model(self, model_id: str, *, version: str | None = None) -> ModelMetadata:
        """See `Connection`."""
        return await self._run(self._calls.model(model_id, version))

    async def delete_model(self, model_id: str, *, version: str | None = None) -> None:
        """See `Connection`."""
        self._forget(model_id)
        await self._run(self._calls.delete(model_id, version))

    async def load_model(self, model_id: str) -> None:
        """See `Connection`."""
        await self._run(self._calls.load(model_id), seconds=UPLOAD_SECONDS)

    async def unload_model(self, model_id: str) -> None:
        """See `Connection`."""
        await self._run(self._calls.unload(model_id))

    async def server(self) -> ServerMetadata:
        """See `Connection`."""
        return await self._run(self._calls.server())

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
                    answer = await link.stream.run(link.exchange(call), seconds=seconds)
                except Unavailable:
                    link.stream.close()
                    if not self._may_retry(link, sent_before):
                        raise
                    link = await self._open()
                    answer = await link.stream.run(link.exchange(call), seconds=seconds)
            except BaseException:
                link.stream.close()
                raise
            self._give_back(link)
        return call.read(answer, link.channel.result)

    async def _take(self) -> _Link:
        while self._idle:
            link = self._idle.pop()
            if link.fit(self._party):
                return link
            link.stream.close()
        return await self._open()

    def _give_back(self, link: _Link) -> None:
        if link.channel.usable and not self._closed:
            self._idle.append(link)
        else:
            link.stream.close()

    async def _open(self) -> _Link:
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


# The original's name for the same thing.
connect = Connection


def _server_name(host: str) -> str | None:
    """What goes into SNI: names only, never addresses (RFC 6066, section 3)."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    return None
