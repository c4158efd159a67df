"""The description of the JSON interface for machines (OpenAPI 3.1), made of its addresses."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from functools import cache
from http import HTTPStatus
from importlib.metadata import version as installed_version
from typing import Any, Final, cast

import msgspec

from blindai.cloud.api.address import Address
from blindai.wire.cloud import KeyId, Namespace
from blindai.wire.cloud_api import PREFIX, SURROGATES
from blindai.wire.problems import FAMILIES, PROBLEMS

# What a route may refuse: what its port does before it is asked (`web.http`), and the limit on calls; whatever needs a
# token; what has a body; and what names an account, or has a part in its path at all.
_EVERYWHERE: Final = (
    "http.request",
    "http.target",
    "http.trailers",
    "http.upgrade",
    "http.pipelining",
    "http.timeout",
    "http.headers_too_large",
    "quota.body",
    "quota.requests",
    "busy",
    "internal",
)
_SIGNED_IN: Final = ("authentication.access_token",)
_WITH_BODY: Final = ("http.content_type", "input.body")
_WITH_PARTS: Final = ("http.not_found", "account.unknown", "account.role")

_PARTS: Final[dict[str, Any]] = {"namespace": Namespace, "key": KeyId}
_REFERENCE: Final = "#/components/schemas/{name}"
_SCHEME: Final = "accessToken"
_JSON: Final = "application/json"

_PROBLEM: Final = {
    "description": "What was refused: a sentence for people, a stable code, and sometimes what to do next.",
    "type": "object",
    "required": ["error", "code"],
    "properties": {"error": {"type": "string"}, "code": {"type": "string"}, "hint": {"type": "string"}},
    "additionalProperties": False,
}

# Headers that a refusal has.
_HEADERS: Final[dict[int, dict[str, Any]]] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string", "const": "Bearer"}}},
    429: {
        "Retry-After": {
            "description": "Seconds until the next request is taken.",
            "required": True,
            "schema": {"type": "integer", "minimum": 1},
        }
    },
}


@cache
def document(addresses: tuple[Address, ...]) -> dict[str, Any]:
    """The whole document."""
    structs = list(dict.fromkeys(kind for one in addresses for kind in (one.body, one.answer) if kind is not None))
    schemas, components = msgspec.json.schema_components(structs, ref_template=_REFERENCE)
    schema_of = dict(zip(structs, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in addresses:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schema_of)
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": "BlindAI Cloud",
            "version": installed_version("blindai"),
            "description": "Accounts, API keys and counts. Models and requests go to an attested enclave, never here.",
        },
        "servers": [{"url": PREFIX}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                _SCHEME: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "What `blindai login` fetches. An API key is none.",
                }
            },
            "schemas": {**components, "Problem": _PROBLEM},
        },
    }
    return cast("dict[str, Any]", _portable(whole))


def codes_of(address: Address) -> tuple[str, ...]:
    """All codes with which a route may refuse."""
    return (
        *_EVERYWHERE,
        *(() if address.open else _SIGNED_IN),
        *(() if address.body is None else _WITH_BODY),
        *(_WITH_PARTS if "{" in address.path else ()),
        *address.codes,
    )


def _operation(address: Address, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": address.handler.__name__,
        "summary": address.summary,
        "responses": {str(int(address.status)): _answer(address, schema_of), **_refusals(codes_of(address))},
        "security": [] if address.open else [{_SCHEME: []}],
    }
    parts = re.findall(r"{(\w+)}", address.path)
    if parts:
        operation["parameters"] = [
            {"name": part, "in": "path", "required": True, "schema": msgspec.json.schema(_PARTS[part])}
            for part in parts
        ]
    if address.body is not None:
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": schema_of[address.body]}}}
    return operation


def _answer(address: Address, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": address.status.phrase}
    if address.answer is not None:
        answer["content"] = {_JSON: {"schema": schema_of[address.answer]}}
    return answer


def _refusals(codes: Iterable[str]) -> dict[str, Any]:
    """For each status the codes that have it."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault((PROBLEMS.get(code) or FAMILIES[code.partition(".")[0]]).status, []).append(code)
    refusals: dict[str, Any] = {}
    for status, its_codes in sorted(by_status.items()):
        schema = {
            "allOf": [
                {"$ref": _REFERENCE.format(name="Problem")},
                {"type": "object", "properties": {"code": {"enum": sorted(its_codes)}}},
            ]
        }
        refusals[str(status)] = {"description": HTTPStatus(status).phrase, "content": {_JSON: {"schema": schema}}}
        if status in _HEADERS:
            refusals[str(status)]["headers"] = _HEADERS[status]
    return refusals


def _portable(value: Any) -> Any:
    r"""Python's `\A` and `\Z` as JSON Schema says them (ECMA-262), and docstrings without their indentation."""
    if isinstance(value, dict):
        return {name: _said(name, part) for name, part in value.items()}
    if isinstance(value, list):
        return [_portable(part) for part in value]
    return value


def _said(name: str, value: Any) -> Any:
    if isinstance(value, str) and name == "pattern":
        # No text of JSON has halves of characters, and not every machine can say them.
        return re.sub(r"\\Z$", "$", re.sub(r"^\\A", "^", value)).replace(SURROGATES, "")
    if isinstance(value, str) and name == "description":
        return inspect.cleandoc(value)
    return _portable(value)
