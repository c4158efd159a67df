"""The OpenAPI description of the enclave's HTTP interface, written by hand and compared with the routes by a test."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any, Final

from blindai.enclave.cloud.access import Need
from blindai.enclave.models.model_id import RULE
from blindai.enclave.models.upload import FILE_TYPES
from blindai.wire.bundle import BUNDLE_TYPE
from blindai.wire.cloud import MAX_SHARED_WITH, Visibility
from blindai.wire.lease import STATES
from blindai.wire.openai import MAX_DIMENSIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHA256: Final = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_STRING: Final = {"type": "string"}
_NUMBER: Final = {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"}
# `model_id.RULE`.
_PART: Final = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$", "not": {"pattern": "[.][.]"}}
_MODEL_ID: Final = {
    "type": "string",
    "pattern": "^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?/[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$",
    "not": {"pattern": "[.][.]"},
}
# `wire.cloud.Namespace`.
_ACCOUNT: Final = {"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$", "minLength": 2, "maxLength": 39}
_BOOLEAN: Final = {"type": "boolean"}
_BINARY: Final = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_OBJECT: Final = {"type": "object"}

_PROBLEM_RESPONSE: Final = {"$ref": "#/components/responses/Problem"}
_NAMESPACE: Final = {"$ref": "#/components/parameters/namespace"}
_NAME: Final = {"$ref": "#/components/parameters/name"}
_VERSION: Final = {"$ref": "#/components/parameters/version"}
_VERSION_QUERY: Final = {"name": "version", "in": "query", "required": False, "schema": _NUMBER}
_JSON_LENGTH: Final = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "required": False,
    "description": "Length of the JSON part of a body with binary tensors behind it; without it all is JSON.",
    "schema": {"type": "integer", "minimum": 0},
}
_CONTENT_DIGEST: Final = {
    "name": "Content-Digest",
    "in": "header",
    "required": False,
    "description": "RFC 9530 digest of the body (sha-256 or sha-512); checked before anything is stored.",
    "schema": _STRING,
}


_KEY: Final[dict[str, list[str]]] = {"key": []}
_SECURITY: Final[Mapping[Need, list[dict[str, list[str]]]]] = {
    Need.NOTHING: [],
    Need.KEY: [_KEY],
    Need.OWN: [_KEY],
    Need.MODEL: [{}, _KEY],  # public ones need none
    Need.REFUSED: [{}, _KEY],  # whoever asks
}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _struct(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def _ref(schema: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _operation(
    summary: str,
    answer: dict[str, Any],
    *,
    status: int = 200,
    parameters: tuple[dict[str, Any], ...] = (),
    body: dict[str, Any] | None = None,
    body_required: bool = True,
    tag: str = "models",
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "tags": [tag],
        "responses": {str(status): {"description": "done", "content": answer}, "default": _PROBLEM_RESPONSE},
    }
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = {"required": body_required, "content": body}
    return operation


def _model_paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for suffix, address in (("", (_NAMESPACE, _NAME)), ("/versions/{version}", (_NAMESPACE, _NAME, _VERSION))):
        path = "/v2/models/{namespace}/{name}" + suffix
        paths[path] = {"get": _operation("Inputs and outputs", _json(_ref("Model")), parameters=address)}
        paths[path + "/ready"] = {"get": _operation("Whether it can be run", _json(_OBJECT), parameters=address)}
        paths[path + "/config"] = {
            "get": _operation("Configuration as Triton's clients read it", _json(_OBJECT), parameters=address)
        }
        paths[path + "/stats"] = {"get": _operation("Counts and times", _json(_OBJECT), parameters=address)}
        paths[path + "/infer"] = {
            "post": _operation(
                "Run the model",
                {**_json(_ref("InferResponse")), **_BINARY},
                parameters=(*address, _JSON_LENGTH),
                body={**_json(_ref("InferRequest")), **_BINARY},
            )
        }
    return paths


def _repository_paths() -> dict[str, Any]:
    address = (_NAMESPACE, _NAME, _VERSION_QUERY)
    stored = "/v2/repository/models/{namespace}/{name}"
    tag = "repository"
    return {
        "/v2/repository/index": {
            "post": _operation(
                "All model versions",
                _json(_array(_ref("IndexEntry"))),
                body=_json(_struct({}, {"ready": _BOOLEAN})),
                body_required=False,
                tag=tag,
            )
        },
        stored: {
            "put": _operation(
                "Upload a version: an ONNX file, or a tar of model.onnx and its external data files",
                _json(_ref("Upload")),
                status=201,
                parameters=(*address, _CONTENT_DIGEST),
                body={kind: {"schema": {"type": "string", "format": "binary"}} for kind in (*FILE_TYPES, BUNDLE_TYPE)},
                tag=tag,
            ),
            "delete": _operation("Delete one version or all", _json(_OBJECT), parameters=address, tag=tag),
        },
        stored + "/load": {"post": _operation("Make ready again", _json(_OBJECT), parameters=address, tag=tag)},
        stored + "/unload": {"post": _operation("Free the session", _json(_OBJECT), parameters=address, tag=tag)},
        stored + "/visibility": {
            "get": _operation(
                "Who may query a model, in a cloud",
                _json(_ref("Visibility")),
                parameters=(_NAMESPACE, _NAME),
                tag=tag,
            ),
            "put": _operation(
                "Let nobody else, some accounts, or everybody query a model",
                _json(_ref("Visibility")),
                parameters=(_NAMESPACE, _NAME),
                body=_json(_ref("Visibility")),
                tag=tag,
            ),
        },
    }


def _server_paths() -> dict[str, Any]:
    text = {"text/plain": {"schema": _STRING}}
    return {
        "/v2": {"get": _operation("Name, version and extensions", _json(_ref("Server")), tag="server")},
        "/v2/health/live": {"get": _operation("Whether the server runs", _json(_OBJECT), tag="server")},
        "/v2/health/ready": {"get": _operation("Whether it takes requests", _json(_OBJECT), tag="server")},
        "/v2/models/{namespace}/{name}/lease": {
            "get": _operation(
                "How the lease of a model on loan stands for the consumer who asks",
                _json(_ref("Lease")),
                parameters=(_NAMESPACE, _NAME),
            )
        },
        "/v2/models/stats": {"get": _operation("Counts and times of all models", _json(_OBJECT), tag="server")},
        "/metrics": {"get": _operation("Metrics for Prometheus", text, tag="server")},
        "/openapi.json": {"get": _operation("This document", _json(_OBJECT), tag="server")},
        "/.well-known/blindai/attestation": {
            "post": _operation(
                "The gate: the one request a new connection may make. Once it is open, the answer is a problem.",
                _json(_OBJECT),
                tag="server",
            )
        },
    }


def _openai_paths() -> dict[str, Any]:
    tag = "openai"
    return {
        "/v1/models": {"get": _openai_operation("All models that can answer", "ModelList", tag=tag)},
        "/v1/models/{namespace}/{name}": {
            "get": _openai_operation("One model", "ModelEntry", parameters=(_NAMESPACE, _NAME), tag=tag)
        },
        "/v1/embeddings": {
            "post": _openai_operation("Vectors of texts", "Embeddings", body=_json(_ref("EmbeddingsRequest")), tag=tag)
        },
    }


def _openai_operation(summary: str, answer: str, **options: Any) -> dict[str, Any]:
    operation = _operation(summary, _json(_ref(answer)), **options)
    operation["responses"]["default"] = {"$ref": "#/components/responses/Error"}
    return operation


def _schemas() -> dict[str, Any]:
    shape = _array({"type": "integer"})
    spec = _struct({"name": _STRING, "datatype": _STRING, "shape": shape})
    tensor = _struct(
        {"name": _STRING, "datatype": _STRING, "shape": shape}, {"data": {"type": "array"}, "parameters": _OBJECT}
    )
    return {
        "Problem": _struct({"error": _STRING, "code": _STRING}, {"hint": _STRING}),
        "Server": _struct({"name": _STRING, "version": _STRING, "extensions": _array(_STRING)}),
        "Model": _struct(
            {
                "name": _STRING,
                "versions": _array(_NUMBER),
                "platform": _STRING,
                "inputs": _array(spec),
                "outputs": _array(spec),
            },
            {"leased": _BOOLEAN, "trial": _OBJECT},
        ),
        "Lease": _struct(
            {"model": _STRING, "state": {"type": "string", "enum": list(STATES)}},
            {
                "reason": _STRING,
                "used": {"type": "integer"},
                "budget": {"type": "integer"},
                "soft_ms": {"type": "integer"},
                "hard_ms": {"type": "integer"},
                "request": _struct(
                    {"id": _STRING, "state": _STRING}, {"reason": _STRING, "granted": {"type": "integer"}}
                ),
            },
        ),
        "Upload": _struct(
            {
                "name": _STRING,
                "version": _NUMBER,
                "sha256": _SHA256,
                "size": {"type": "integer"},
                "inputs": _array(spec),
                "outputs": _array(spec),
                "platform": _STRING,
            }
        ),
        "Visibility": {
            "oneOf": [
                _struct(
                    {
                        "visibility": {"type": "string", "const": Visibility.SHARED},
                        "shared_with": {**_array(_ACCOUNT), "minItems": 1, "maxItems": MAX_SHARED_WITH},
                    }
                ),
                _struct(
                    {"visibility": {"type": "string", "enum": [Visibility.PRIVATE, Visibility.PUBLIC]}},
                    {"shared_with": {**_array(_ACCOUNT), "maxItems": 0}},
                ),
            ]
        },
        "IndexEntry": _struct({"name": _STRING, "version": _NUMBER, "state": _STRING, "reason": _STRING}),
        "InferRequest": _struct(
            {"inputs": _array(tensor)},
            {
                "id": _STRING,
                "parameters": _OBJECT,
                "outputs": _array(_struct({"name": _STRING}, {"parameters": _OBJECT})),
            },
        ),
        "InferResponse": _struct(
            {"model_name": _STRING, "outputs": _array(tensor)}, {"model_version": _NUMBER, "id": _STRING}
        ),
        **_openai_schemas(),
    }


def _openai_schemas() -> dict[str, Any]:
    integer = {"type": "integer"}
    vector = {"oneOf": [_array({"type": "number"}), {"type": "string", "contentEncoding": "base64"}]}
    listed = {"type": "string", "const": "list"}
    model = {"object": {"type": "string", "const": "model"}, "id": _STRING, "created": integer, "owned_by": _STRING}
    entry = {"object": {"type": "string", "const": "embedding"}, "index": integer, "embedding": vector}
    detail = {"message": _STRING, "type": _STRING, "code": _STRING, "param": {"type": ["string", "null"]}}
    return {
        "Error": _struct({"error": _struct(detail, {"hint": _STRING})}),
        "ModelEntry": _struct(model),
        "ModelList": _struct({"object": listed, "data": _array(_ref("ModelEntry"))}),
        "EmbeddingsRequest": _struct(
            {"model": _MODEL_ID, "input": {"oneOf": [_STRING, {**_array(_STRING), "minItems": 1}]}},
            {
                "encoding_format": {"type": "string", "enum": ["float", "base64"]},
                "dimensions": {"type": "integer", "minimum": 1, "maximum": MAX_DIMENSIONS},
                "user": _STRING,
            },
        )
        | {"additionalProperties": False},
        "Embeddings": _struct(
            {
                "object": listed,
                "data": _array(_struct(entry)),
                "model": _STRING,
                "usage": _struct({"prompt_tokens": integer, "total_tokens": integer}),
            }
        ),
    }


def document(needs: Mapping[tuple[str, str], Need] | None = None) -> dict[str, Any]:
    """The whole document (OpenAPI 3.1).

    Args:
        needs: in a cloud, what each method and path needs. Elsewhere no API key is asked for, but a model on loan has
            tokens of its consumers.
    """
    whole = _document()
    if needs is None:
        return whole
    paths = {
        path: {method: {**one, "security": _SECURITY[needs[method.upper(), path]]} for method, one in item.items()}
        for path, item in whole["paths"].items()
    }
    return {**whole, "paths": paths}


@cache
def _document() -> dict[str, Any]:
    part = {"in": "path", "required": True}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "BlindAI enclave",
            "version": installed_version("blindai"),
            "description": "Open Inference Protocol V2 behind attested TLS. A model id is " + RULE + ".",
        },
        "security": [{}, _KEY],
        "paths": {**_server_paths(), **_model_paths(), **_repository_paths(), **_openai_paths()},
        "components": {
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "bearerFormat": "bai_sk_ and 36 characters"}
            },
            "parameters": {
                "namespace": {"name": "namespace", **part, "schema": _PART},
                "name": {"name": "name", **part, "schema": _PART},
                "version": {"name": "version", **part, "schema": _NUMBER},
            },
            "responses": {
                "Problem": {"description": "What was wrong, with a stable code", "content": _json(_ref("Problem"))},
                "Error": {"description": "The same, in OpenAI's form", "content": _json(_ref("Error"))},
            },
            "schemas": _schemas(),
        },
    }
