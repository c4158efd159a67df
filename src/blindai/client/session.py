"""What both clients are made of: whom to talk to, under which policy, and what is known of the models there. No I/O."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from blindai.attestation.measure.local import local_policy
from blindai.attestation.policy import Policy
from blindai.attestation.result import AttestationResult
from blindai.channel.client import AttestedChannel
from blindai.channel.flow import Flow
from blindai.channel.http1 import Answer
from blindai.channel.opened import server_name
from blindai.channel.relying_party import RelyingParty
from blindai.channel.transcript import Transcript
from blindai.client.calls import Call, Calls, checked_key
from blindai.client.destination import Destination
from blindai.client.inputs import to_tensors
from blindai.client.prediction import Prediction
from blindai.client.profile import Address, resolve_policy
from blindai.client.receipt import ReceiptRequest
from blindai.errors import AttestationError, ConfigurationError, Unavailable
from blindai.wire.metadata import ModelMetadata

CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 60.0
# The server answers an upload after it has built the session: minutes for a model of gigabytes.
UPLOAD_SECONDS: Final = 600.0
GOODBYE_SECONDS: Final = 1.0

_log = logging.getLogger("blindai")


@dataclass(slots=True)
class Link:
    """One attested connection."""

    channel: AttestedChannel
    stream: Any  # BlockingStream or AsyncStream, by the class that made it

    def exchange(self, call: Call[Any]) -> Flow[Answer]:
        return self.channel.exchange(
            call.head, call.body, max_answer_bytes=call.max_answer_bytes, expect_continue=call.expect_continue
        )

    def fit(self, party: RelyingParty) -> bool:
        """Whether a request may be sent on it now."""
        return self.channel.usable and not self.channel.result.has_expired(party.now()) and not self.stream.is_stale()


class Session:
    """What both clients are made of: whom to talk to, under which policy, and what is known of the models there."""

    def __init__(
        self,
        addr: str | None,
        *,
        api_key: str | None,
        namespace: str | None,
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
        self._destination = Destination.choose(addr, namespace=namespace)
        self._policy = local_policy() if simulation and policy is None else resolve_policy(policy)
        self._api_key = checked_key(self._destination.api_key() if api_key is None else api_key)
        self._is_found = False
        self._address: Address
        self._party: RelyingParty
        self._calls: Calls
        if self._destination.address is not None:
            self._go_to(self._destination.address)
        self._timeout = timeout
        self._idle: deque[Link] = deque()
        self._models: dict[tuple[str, str | None], ModelMetadata] = {}
        self._attestation: AttestationResult | None = None
        self._transcript: Transcript | None = None
        self._closed = False

    @property
    def address(self) -> str:
        """The server's address, as a URL; that of the cloud as long as it was not asked for the server."""
        return self._address.url if self._is_found else self._destination.name

    @property
    def policy(self) -> Policy:
        return self._policy

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
    def transcript(self) -> Transcript | None:
        """What the last fresh gate was appraised on; None before the first."""
        return self._transcript

    @property
    def simulated(self) -> bool:
        """Whether the enclave runs on the simulated platform, which protects nothing."""
        return self.attestation.simulated

    def __repr__(self) -> str:
        state = "not connected" if self._attestation is None else f"attested, {self._attestation.mode}"
        if self._attestation is not None and self._attestation.simulated:
            state += ", SIMULATED"
        return f"<{type(self).__name__} {self.address} ({state})>"

    def _go_to(self, address: Address) -> None:
        self._is_found = True
        self._address = address
        self._party = RelyingParty(address.authority, self._policy)
        self._calls = Calls(address.authority, self._api_key)

    def _new_channel(self) -> AttestedChannel:
        if self._closed:
            raise Unavailable("this connection was closed", code="unavailable.closed", hint="open a new one")
        return AttestedChannel(self._party, server_name=server_name(self._address.host))

    def _attested(self, channel: AttestedChannel, stream: Any) -> Link:
        first = self._attestation is None
        self._attestation = channel.result
        self._transcript = channel.transcript or self._transcript
        if first and channel.result.simulated:
            _log.warning("%s runs on the SIMULATED platform: nothing protects what you send it", self.address)
        return Link(channel, stream)

    def _explain(self, error: AttestationError) -> None:
        error.hint = error.hint or f"blindai verify {self.address} --explain"

    def _may_retry(self, link: Link, sent_before: int) -> bool:
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
        sign: bool,
    ) -> Call[Prediction]:
        tensors = to_tensors(inputs, model.inputs)
        call = partial(
            self._calls.infer,
            model.name,
            tensors,
            version=version,
            outputs=outputs,
            binary=binary,
            max_answer_bytes=max_answer_bytes,
        )
        if not sign:
            return call()

        def signed(channel: AttestedChannel) -> Call[Prediction]:
            return call(
                receipt=ReceiptRequest.on(
                    channel.vouching,
                    channel.result,
                    address=self.address,
                    now=self._party.now(),
                    model=model.name,
                    version=version,
                    sent=tensors,
                )
            )

        return replace(call(), bind=signed)

    def _forget(self, model_id: str) -> None:
        for known in list(self._models):  # a copy: other threads add to it
            if known[0] == model_id:
                self._models.pop(known, None)
