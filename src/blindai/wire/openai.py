"""The messages of OpenAI's interface that the enclave speaks, as bytes and back; no I/O.

Source: OpenAI API reference, "Embeddings", "Models", "Error codes" (https://platform.openai.com/docs/api-reference). A
model's name there is its id, `namespace/name`.

Errors are `{"error": {"message", "type", "param", "code"}}`, with our code; `type` is the nearest of theirs.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import msgspec

from blindai.errors import BlindAIError, InvalidInput
from blindai.wire.problems import status_of

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
        message: a sentence, with our hint behind it where there is one.
        type: OpenAI's class of errors.
        code: our code.
        param: the member of the request that was wrong, where that is known.
    """

    message: str
    type: str
    code: str
    param: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """The JSON object of an error."""

    error: ErrorDetail


_decoder = msgspec.json.Decoder(EmbeddingsRequest)
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
    status = status_of(error)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    message = f"{error.message} ({error.hint})" if error.hint else error.message
    return _encoder.encode(ErrorBody(ErrorDetail(message, kind, error.code, _PARAMS.get(error.code))))
