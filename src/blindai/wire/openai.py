"""The messages of OpenAI's interface that the enclave speaks, as bytes and back; no I/O.

Source: OpenAI API reference, "Embeddings", "Models", "Error codes" (https://platform.openai.com/docs/api-reference). A
model's name there is its id, `namespace/name`.

Errors are `{"error": {"message", "type", "param", "code"}}`, with our code and all else that a problem of ours has
(`wire.problems`); `type` is the nearest of theirs.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import msgspec

from blindai.errors import BlindAIError, InvalidInput
from blindai.wire import problems
from blindai.wire.problems import MAX_PROBLEM_BYTES, ProblemBody, error_of, problem_of, status_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blindai.wire.tensor import Buffer

PREFIX: Final = "/v1/"
"""What every path of this interface begins with."""

MAX_DIMENSIONS: Final = 1 << 20
"""Of one vector. None in use has a hundredth of it."""

_PARAMS: Final[Mapping[str, str]] = {
    "model.id": "model",
    "model.not_found": "model",
    "model.not_loaded": "model",
    "model.task": "model",
    "input.text": "input",
    "input.tokens": "input",
    "input.dimensions": "dimensions",
    "quota.texts": "input",
    "quota.text_size": "input",
}
"""Which member of a request a code is about."""


class Encoding(enum.StrEnum):
    """How a vector is written: as JSON numbers, or as base64 of little-endian FP32."""

    FLOAT = "float"
    BASE64 = "base64"


_Tokens: TypeAlias = list[int]


class EmbeddingsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /v1/embeddings`.

    Attributes:
        model: id of a model.
        input: one text or several. Token ids have their place here in OpenAI's interface, and are refused: they are
            numbers of OpenAI's own vocabularies, which no model here has.
        encoding_format: how vectors are written.
        dimensions: cut vectors off after so many numbers and give them length 1 again; the whole without it. That means
            something only for models that were trained for it.
        user: not looked at.
    """

    model: str
    input: str | list[str | int | _Tokens]
    encoding_format: Encoding = Encoding.FLOAT
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=MAX_DIMENSIONS)] | None = None
    user: str | None = None

    @classmethod
    def parse(cls, body: Buffer) -> EmbeddingsRequest:
        """Read a request.

        Raises:
            InvalidInput: `input.json`, `input.message`.
        """
        try:
            return _decoder.decode(body)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"the body is not what this address takes: {error}", code="input.message") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise InvalidInput("the body is not JSON", code="input.json") from None

    @property
    def texts(self) -> list[str]:
        """The texts.

        Raises:
            InvalidInput: `input.message`, there is none; `input.tokens`, there are token ids instead.
        """
        if isinstance(self.input, str):
            return [self.input]
        texts = [one for one in self.input if isinstance(one, str)]
        if len(texts) < len(self.input):
            raise InvalidInput(
                "`input` has token ids, which stand for other words in each vocabulary",
                code="input.tokens",
                hint="send text; LangChain does with check_embedding_ctx_length=False",
            )
        if not texts:
            raise InvalidInput("`input` is an empty list", code="input.message")
        return texts


class Embedding(msgspec.Struct, frozen=True, tag="embedding", tag_field="object"):
    """One vector.

    Attributes:
        index: of its text in the request.
        embedding: a list of numbers, or text in base64.
    """

    index: int
    embedding: msgspec.Raw


class Usage(msgspec.Struct, frozen=True):
    """How many tokens the model has read, in all texts together. Both are the same: embedding writes none."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(msgspec.Struct, frozen=True, tag="list", tag_field="object"):
    """Answer of `POST /v1/embeddings`."""

    data: list[Embedding]
    model: str
    usage: Usage


class Model(msgspec.Struct, frozen=True, tag="model", tag_field="object"):
    """Answer of `GET /v1/models/{namespace}/{name}`.

    Attributes:
        id: `namespace/name`.
        created: seconds since the Unix epoch when the server started; no model is older, none outlives it.
        owned_by: the namespace.
    """

    id: str
    created: int
    owned_by: str


class ModelList(msgspec.Struct, frozen=True, tag="list", tag_field="object"):
    """Answer of `GET /v1/models`."""

    data: list[Model]


class ErrorDetail(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was wrong.

    Attributes:
        message: a sentence.
        type: OpenAI's class of errors.
        code: our code.
        param: the member of the request that was wrong, where that is known.
        hint, used, granted, request_id, state, reason: as in `ProblemBody`; OpenAI's clients hand them on.
    """

    message: str
    type: str
    code: str
    param: str | None
    hint: str = ""
    used: int = 0
    granted: int = 0
    request_id: str = ""
    state: str = ""
    reason: str = ""


class ErrorBody(msgspec.Struct, frozen=True):
    """The JSON object of an error."""

    error: ErrorDetail


_decoder = msgspec.json.Decoder(EmbeddingsRequest)
_error_decoder = msgspec.json.Decoder(ErrorBody)
_encoder = msgspec.json.Encoder()

ErrorType: TypeAlias = Literal[
    "invalid_request_error",
    "authentication_error",
    "insufficient_quota",
    "permission_error",
    "not_found_error",
    "rate_limit_error",
    "server_error",
]

_TYPES: Final[Mapping[int, ErrorType]] = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_body(error: BlindAIError) -> bytes:
    """Encode `error` as the body of a response in OpenAI's form."""
    return _encoder.encode(ErrorBody(error_detail(error)))


def error_detail(error: BlindAIError) -> ErrorDetail:
    """What is said of `error` in OpenAI's form."""
    status = status_of(error)
    problem = problem_of(error)
    return ErrorDetail(
        message=problem.error,
        type=_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error"),
        code=problem.code,
        param=_PARAMS.get(problem.code),
        hint=problem.hint,
        used=problem.used,
        granted=problem.granted,
        request_id=problem.request_id,
        state=problem.state,
        reason=problem.reason,
    )


def error_from(status: int, body: bytes) -> BlindAIError:
    """Rebuild the error that a response with `status` (>= 400) and `body` stands for.

    A server that refuses a connection before it has read what is asked of it answers in the form of `wire.problems`, so
    that is read as well. What is in neither form becomes `http.status`, as there.
    """
    try:
        detail = _error_decoder.decode(body).error if len(body) <= MAX_PROBLEM_BYTES else None
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        detail = None
    if detail is None:
        return problems.error_from(status, body)
    problem = ProblemBody(
        error=detail.message,
        code=detail.code,
        hint=detail.hint,
        used=detail.used,
        granted=detail.granted,
        request_id=detail.request_id,
        state=detail.state,
        reason=detail.reason,
    )
    return error_of(status, problem)
