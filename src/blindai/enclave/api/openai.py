"""OpenAI's interface: `/v1/models` and `/v1/embeddings`.

A request for embeddings becomes an inference request of the Open Inference Protocol for the same model, and goes the
way of every other: its queue, its limits, its charge where the model is on loan.
"""

from __future__ import annotations

import asyncio
import base64
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from starlette.responses import Response

from blindai.enclave.api.endpoints import CALLER, read_body
from blindai.enclave.http.reply import JSON_TYPE, Reply, incident, problem_reply
from blindai.enclave.models.model_id import ModelId, parse_model_id
from blindai.enclave.models.model_version import State
from blindai.errors import BlindAIError, InvalidInput, InvalidModel
from blindai.wire import v2
from blindai.wire.openai import Embedding, EmbeddingsRequest, EmbeddingsResponse, Encoding, Model, ModelList, Usage
from blindai.wire.task import EMBEDDING, TEXT, TOKENS
from blindai.wire.tensor import nan_in_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from starlette.requests import Request

    from blindai.enclave.cloud.joining import Membership
    from blindai.enclave.http.exchange import Handler, Headers
    from blindai.enclave.models.repository import Repository
    from blindai.wire.tensor import Buffer

EMBEDDINGS: Final = b"/v1/embeddings"
"""The path of embeddings."""

MODELS_PREFIX: Final = b"/v1/models/"
"""What the path of one model begins with."""

_HEADER_LENGTH: Final = v2.HEADER_LENGTH.encode()
_JSON_HEADERS: Final = b"content-type: " + JSON_TYPE + b"\r\n"

# Vectors that are written between two looks at other requests: the event loop is theirs too.
_SLICE: Final = 64

_encoder = msgspec.json.Encoder()


class OpenAI:
    """Answers what comes in OpenAI's form.

    Args:
        repository: the models.
        handler: what answers an inference request for a version of a model, the newest for None, with these headers; it
            may raise any BlindAIError.
        refused: told of each request that was refused before it reached a model.
        membership: the enclave's part in a cloud.
        max_body_bytes: of one request.
    """

    def __init__(
        self,
        repository: Repository,
        handler: Callable[[ModelId, int | None, Headers], Handler],
        refused: Callable[[BlindAIError], None],
        *,
        membership: Membership | None,
        max_body_bytes: int,
    ) -> None:
        self._repository = repository
        self._handler = handler
        self._refused = refused
        self._membership = membership
        self._max_body_bytes = max_body_bytes
        self._started = int(time.time())

    async def list_models(self, request: Request) -> Response:
        """`GET /v1/models`: all models that can answer, each once; in a cloud, those that the caller finds in lists."""
        ready = [version for version in self._repository if version.state is State.READY]
        caller = request.scope.get(CALLER)
        if self._membership is not None and caller is not None:
            is_listed = self._membership.access.is_listed
            ready = [version for version in ready if version.leased or is_listed(caller, version.id)]
        ids = {version.id for version in ready}
        return _json(ModelList([self._model(model_id) for model_id in sorted(ids)]))

    async def describe_model(self, request: Request) -> Response:
        """`GET /v1/models/{namespace}/{name}`."""
        model_id = parse_model_id(request.path_params["namespace"], request.path_params["name"])
        version = self._repository.resolve(model_id, None)
        if version.state is not State.READY:
            raise version.not_loaded()
        return _json(self._model(model_id))

    async def embed(self, request: Request) -> Response:
        """Embeddings through plain ASGI. Connections of `http.EnclaveHttpProtocol` do not come this way."""
        answer = self.embeddings(request.headers.raw, await read_body(request, self._max_body_bytes))
        status, _, buffers = answer if isinstance(answer, Reply) else await answer
        return Response(b"".join(buffers), status_code=status, media_type=JSON_TYPE.decode())

    def embeddings(self, headers: Headers, body: Buffer) -> Reply | asyncio.Future[Reply]:
        """As `exchange.Handler`: `POST /v1/embeddings`. Refusals are answers, in OpenAI's form."""
        try:
            request = EmbeddingsRequest.parse(bytes(body))
            message, length = _inference_request(request.texts)
            handler = self._handler(_model_id(request.model), None, headers)
        except BlindAIError as error:
            self._refused(error)
            return problem_reply(error, EMBEDDINGS)
        kept = [header for header in headers if header[0] != _HEADER_LENGTH]
        try:
            answer = handler([*kept, (_HEADER_LENGTH, b"%d" % length)], message)
        except BlindAIError as error:
            return problem_reply(_about_text(request, error), EMBEDDINGS)
        return asyncio.get_running_loop().create_task(_embeddings(request, answer))

    def _model(self, model_id: ModelId) -> Model:
        return Model(str(model_id), self._started, model_id.namespace)


def plain_path(path: bytes) -> bytes:
    """The path with the slash in a model's id as it is: OpenAI's clients escape it."""
    if not path.startswith(MODELS_PREFIX):
        return path
    return MODELS_PREFIX + path[len(MODELS_PREFIX) :].replace(b"%2F", b"/", 1)


def _json(value: msgspec.Struct) -> Response:
    return Response(_encoder.encode(value), media_type=JSON_TYPE.decode())


def _model_id(model: str) -> ModelId:
    namespace, _, name = model.partition("/")
    return parse_model_id(namespace, name)


def _inference_request(texts: list[str]) -> tuple[bytes, int]:
    """The inference request for embeddings of these texts, and the length of its JSON part."""
    data: NDArray[Any] = np.empty(len(texts), dtype=object)
    data[:] = [text.encode() for text in texts]  # the decoder lets no half of a surrogate pair through
    buffers, length = v2.encode_request([v2.Tensor(TEXT, "BYTES", data)], [EMBEDDING, TOKENS])
    if length is None:
        raise AssertionError("a request with a tensor has a binary part")
    return b"".join(buffers), length


async def _embeddings(request: EmbeddingsRequest, answer: Reply | asyncio.Future[Reply]) -> Reply:
    try:
        _, headers, buffers = answer if isinstance(answer, Reply) else await answer
        return await _reply(request, headers, b"".join(buffers))
    except BlindAIError as error:
        return problem_reply(_about_text(request, error), EMBEDDINGS)
    except Exception as error:  # noqa: BLE001 - the outermost edge: logged as an incident, answered without internals
        return problem_reply(incident(error), EMBEDDINGS)


async def _reply(request: EmbeddingsRequest, headers: bytes, body: bytes) -> Reply:
    length = next(
        (
            value
            for name, _, value in (line.partition(b": ") for line in headers.splitlines())
            if name == _HEADER_LENGTH
        ),
        None,
    )
    outputs = {one.name: one.data for one in v2.decode_response(body, v2.parse_header_length(length)).outputs}
    vectors, counts = outputs[EMBEDDING], outputs[TOKENS]
    if vectors.ndim != 2 or vectors.dtype != np.float32 or counts.dtype.kind not in "iu":
        raise InvalidModel("the model's answer is no list of vectors", code="model.run")
    if request.dimensions is not None:
        vectors = _shortened(vectors, request.dimensions)
    if request.encoding_format is Encoding.FLOAT and not np.isfinite(vectors).all():
        raise nan_in_json(EMBEDDING)
    data: list[Embedding] = []
    for start in range(0, len(vectors), _SLICE):
        data += (
            Embedding(index, _written(vectors[index], request.encoding_format))
            for index in range(start, min(start + _SLICE, len(vectors)))
        )
        await asyncio.sleep(0)
    used = int(counts.sum())
    return Reply(200, _JSON_HEADERS, (_encoder.encode(EmbeddingsResponse(data, request.model, Usage(used, used))),))


def _written(vector: NDArray[np.float32], encoding: Encoding) -> msgspec.Raw:
    if encoding is Encoding.FLOAT:
        return msgspec.Raw(_encoder.encode(vector.tolist()))
    return msgspec.Raw(b'"' + base64.b64encode(vector.astype("<f4").tobytes()) + b'"')


def _shortened(vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """The first numbers of each vector, with length 1 again."""
    if dimensions > vectors.shape[1]:
        message = f"vectors of this model have {vectors.shape[1]} dimensions, not {dimensions}"
        raise InvalidInput(message, code="input.dimensions")
    if dimensions == vectors.shape[1]:
        return vectors
    short = vectors[:, :dimensions].astype(np.float64)
    lengths = np.sqrt((short * short).sum(axis=1, keepdims=True))
    shortened: NDArray[np.float32] = np.divide(short, lengths, out=short, where=lengths > 0).astype(np.float32)
    return shortened


def _about_text(request: EmbeddingsRequest, error: BlindAIError) -> BlindAIError:
    """`error` in the words of this interface: who sends text knows nothing of inputs and outputs."""
    if error.code != "input.name":
        return error
    return InvalidInput(
        f"the model {request.model} makes no vectors of text",
        code="model.task",
        hint="GET /v2/models/{namespace}/{name} says what it takes and gives",
    )
