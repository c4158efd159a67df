"""The calls of the enclave's HTTP interface as values: what to send, and what to make of the answer. No I/O.

`Connection` and `AsyncConnection` differ only in how they carry these out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from urllib.parse import quote

import msgspec

from blindai.attestation.result import AttestationResult
from blindai.channel.http1 import Answer, request_head
from blindai.client.model_file import ModelBody
from blindai.client.prediction import Prediction
from blindai.client.profile import parse_namespace
from blindai.errors import InvalidInput, Unavailable
from blindai.wire import v2
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import ModelVisibility, Visibility
from blindai.wire.lease import ModelLease
from blindai.wire.metadata import (
    ModelMetadata,
    ModelUploaded,
    RepositoryIndexRequest,
    RepositoryModel,
    ServerMetadata,
    StatisticsResponse,
)
from blindai.wire.problems import error_from
from blindai.wire.tensor import Tensor

if TYPE_CHECKING:
    from blindai.channel.client import AttestedChannel
    from blindai.client.receipt import ReceiptRequest

T = TypeVar("T")

# Metadata, indices and errors. A model with the most inputs the protocol takes describes itself in far less.
MAX_MESSAGE_BYTES: Final = 16 << 20

# The largest prediction that a client takes unless told otherwise: a guard against an answer that fills its memory.
MAX_PREDICTION_BYTES: Final = 1 << 30

# A year has eight digits.
_SECONDS: Final = re.compile(r"[0-9]{1,8}", re.ASCII)

# What a cloud's secrets begin with: keys, and tokens that are no keys. Custodians' tokens begin otherwise.
_CLOUD_KEYS: Final = "bai_"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, ready to be sent, and how to read its answer."""

    head: bytes = field(repr=False)  # holds the API key
    body: Iterable[bytes | bytearray | memoryview] = field(repr=False)
    parse: Callable[[Answer, AttestationResult], T]
    max_answer_bytes: int = MAX_MESSAGE_BYTES
    expect_continue: bool = False
    bind: Callable[[AttestedChannel], Call[T]] | None = None

    def on(self, channel: AttestedChannel) -> Call[T]:
        """This call for one connection: a receipt is asked for by the keys that were attested there."""
        return self if self.bind is None else self.bind(channel)

    def read(self, answer: Answer, result: AttestationResult) -> T:
        """The value of `answer`.

        Raises:
            BlindAIError: the server refused; the class and code are those of the refusal.
        """
        if answer.status >= 400:
            error = error_from(answer.status, answer.body)
            error.retry_after = retry_seconds(answer.headers.get("retry-after"))
            raise error
        return self.parse(answer, result)


class Calls:
    """Builds calls for one server on behalf of one API key."""

    def __init__(self, authority: str, api_key: str | None) -> None:
        """`authority` is `host:port`.

        Raises:
            InvalidInput, AuthenticationError: as `checked_key`.
        """
        api_key = checked_key(api_key)
        self._authority = authority
        self._headers: list[tuple[str, str]] = []
        self._last_infer_head: tuple[object, bytes] = (None, b"")
        if api_key is not None:
            self._headers.append(("Authorization", f"Bearer {api_key}"))

    def server(self) -> Call[ServerMetadata]:
        return Call(self._head("GET", "/v2"), (), _decoded(ServerMetadata))

    def model(self, model_id: str, version: str | None = None) -> Call[ModelMetadata]:
        return Call(self._head("GET", _model_path(model_id, version)), (), _decoded(ModelMetadata))

    def lease(self, model_id: str) -> Call[ModelLease]:
        return Call(self._head("GET", _model_path(model_id, None) + "/lease"), (), _decoded(ModelLease))

    def statistics(self) -> Call[StatisticsResponse]:
        return Call(self._head("GET", "/v2/models/stats"), (), _decoded(StatisticsResponse))

    def metrics(self) -> Call[str]:
        return Call(self._head("GET", "/metrics"), (), _text)

    def index(self, *, ready: bool = False) -> Call[tuple[RepositoryModel, ...]]:
        body = msgspec.json.encode(RepositoryIndexRequest(ready=ready))
        return Call(
            self._head("POST", "/v2/repository/index", *_json(body)), (body,), _decoded(tuple[RepositoryModel, ...])
        )

    def load(self, model_id: str) -> Call[None]:
        return self._control(model_id, "load")

    def unload(self, model_id: str) -> Call[None]:
        return self._control(model_id, "unload")

    def visibility(self, model_id: str) -> Call[ModelVisibility]:
        return Call(self._head("GET", f"{_repository_path(model_id)}/visibility"), (), _decoded(ModelVisibility))

    def set_visibility(self, model_id: str, visibility: ModelVisibility) -> Call[ModelVisibility]:
        body = msgspec.json.encode(visibility)
        head = self._head("PUT", f"{_repository_path(model_id)}/visibility", *_json(body))
        return Call(head, (body,), _decoded(ModelVisibility))

    def delete(self, model_id: str, version: str | None = None) -> Call[None]:
        return Call(self._head("DELETE", _repository_path(model_id) + _version_query(version)), (), _nothing)

    def upload(
        self, model_id: str, model: ModelBody, chunks: Iterable[bytes | memoryview], version: str | None = None
    ) -> Call[ModelUploaded]:
        head = self._head(
            "PUT",
            _repository_path(model_id) + _version_query(version),
            ("Content-Type", model.content_type),
            ("Content-Length", str(model.content_length)),
            ("Content-Digest", model.content_digest),
            ("Expect", "100-continue"),
        )
        return Call(head, chunks, _decoded(ModelUploaded), expect_continue=True)

    def infer(
        self,
        model_id: str,
        inputs: Sequence[Tensor],
        *,
        version: str | None = None,
        outputs: Sequence[str] | None = None,
        binary: bool = True,
        max_answer_bytes: int = MAX_PREDICTION_BYTES,
        receipt: ReceiptRequest | None = None,
    ) -> Call[Prediction]:
        parameters = None if receipt is None else receipt.parameters
        buffers, header_length = v2.encode_request(inputs, outputs, binary=binary, parameters=parameters)
        head = self._infer_head(model_id, version, sum(map(len, buffers)), header_length)
        parse = _prediction if receipt is None else partial(_prediction, receipt=receipt)
        return Call(head, buffers, parse, max_answer_bytes)

    def _infer_head(self, model_id: str, version: str | None, length: int, header_length: int | None) -> bytes:
        """The head of an inference request. Most follow one of the same model and size, so the last is kept."""
        key = (model_id, version, length, header_length)
        last_key, head = self._last_infer_head
        if key != last_key:
            headers = [
                ("Content-Type", "application/json" if header_length is None else "application/octet-stream"),
                ("Content-Length", str(length)),
            ]
            if header_length is not None:
                headers.append(("Inference-Header-Content-Length", str(header_length)))
            head = self._head("POST", _model_path(model_id, version) + "/infer", *headers)
            self._last_infer_head = (key, head)
        return head

    def _control(self, model_id: str, action: str) -> Call[None]:
        body = b"{}"
        return Call(self._head("POST", f"{_repository_path(model_id)}/{action}", *_json(body)), (body,), _nothing)

    def _head(self, method: str, target: str, *headers: tuple[str, str]) -> bytes:
        return request_head(method, target, self._authority, [*self._headers, *headers])


def retry_seconds(header: str | None) -> int:
    """The value of a header Retry-After that is a number of seconds (RFC 9110, section 10.2.3); 0 for any other."""
    return int(header) if header and _SECONDS.fullmatch(header) else 0


def checked_key(api_key: str | None) -> str | None:
    """`api_key`, where it can be one. Nobody is asked.

    Raises:
        InvalidInput: `input.api_key`, it cannot stand in a header.
        AuthenticationError: `authentication.key_format`, it is meant to be a key of a cloud, and is mistyped.
    """
    if api_key is None:
        return None
    if api_key.strip().startswith(_CLOUD_KEYS):
        return ApiKey.parse(api_key).text
    if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise InvalidInput(
            "the API key holds characters that no API key has", code="input.api_key", hint="copy it once more"
        )
    return api_key


def wanted_visibility(visibility: str, shared_with: Sequence[str]) -> ModelVisibility:
    """What to ask for.

    Raises:
        InvalidInput: `input.visibility`, `account.name`.
    """
    kinds = [kind.value for kind in Visibility]
    if visibility not in kinds:
        raise InvalidInput(f"a model is {', '.join(kinds[:-1])} or {kinds[-1]}", code="input.visibility")
    if (visibility == Visibility.SHARED) != bool(shared_with):
        raise InvalidInput(
            "accounts go with a model that is shared, and with no other",
            code="input.visibility",
            hint='as in set_visibility("acme/resnet18", "shared", shared_with=["clinic"])',
        )
    accounts = tuple(dict.fromkeys(map(parse_namespace, shared_with)))
    return ModelVisibility(Visibility(visibility), accounts)


def _json(body: bytes) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("Content-Type", "application/json"), ("Content-Length", str(len(body)))


def _model_path(model_id: str, version: str | None) -> str:
    path = f"/v2/models/{_quoted(model_id)}"
    return path if version is None else f"{path}/versions/{_decimal(version)}"


def _repository_path(model_id: str) -> str:
    return f"/v2/repository/models/{_quoted(model_id)}"


def _version_query(version: str | None) -> str:
    return "" if version is None else f"?version={_decimal(version)}"


def _decimal(version: str) -> str:
    version = str(version)  # a number says the same
    if not version.isascii() or not version.isdecimal():
        raise InvalidInput(
            f"{version!r} is not a version",
            code="model.version",
            hint='a version is a string of decimal digits, as in "1"',
        )
    return version


def _quoted(model_id: str) -> str:
    """The two parts of a model id, each safe in a path. Which characters an id may hold is the server's to say."""
    namespace, slash, name = model_id.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise InvalidInput(
            f"{model_id!r} is not a model id",
            code="model.id",
            hint="a model id has two parts, namespace/name, as in acme/resnet18",
        )
    return f"{quote(namespace, safe='')}/{quote(name, safe='')}"


def _decoded(kind: Any) -> Callable[[Answer, AttestationResult], Any]:
    decoder = msgspec.json.Decoder(kind)

    def parse(answer: Answer, _result: AttestationResult) -> Any:
        try:
            return decoder.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _unreadable(str(error)) from error

    return parse


def _text(answer: Answer, _result: AttestationResult) -> str:
    try:
        return bytes(answer.body).decode()
    except UnicodeDecodeError as error:
        raise _unreadable(str(error)) from error


def _nothing(_answer: Answer, _result: AttestationResult) -> None:
    return None


def _prediction(answer: Answer, result: AttestationResult, receipt: ReceiptRequest | None = None) -> Prediction:
    try:
        header_length = v2.parse_header_length(answer.headers.get(v2.HEADER_LENGTH))
        response = v2.decode_response(answer.body, header_length)
    except InvalidInput as error:
        # The fault is the server's, not the caller's.
        raise _unreadable(error.message) from error
    signed = None if receipt is None else receipt.answered(response)
    return Prediction(response, attestation=result, receipt=signed)


def _unreadable(reason: str) -> Unavailable:
    return Unavailable(f"the server's answer cannot be read: {reason}", code="unavailable.protocol")
