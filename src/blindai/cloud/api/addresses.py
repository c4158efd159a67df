"""All routes of the JSON interface."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from blindai.cloud.accounts import Action
from blindai.cloud.api import accounts, devices, enclaves
from blindai.cloud.api.address import Address
from blindai.cloud.api.call import Call
from blindai.cloud.api.openapi import document
from blindai.wire.cloud_api import (
    DENIED,
    EXPIRED,
    PENDING,
    SLOW_DOWN,
    AccessToken,
    Account,
    CreatedKey,
    DeviceCode,
    DeviceCodes,
    DeviceRequest,
    Directory,
    KeyEntry,
    KeyList,
    ModelList,
    NewKey,
    UsageReport,
)


async def description(_: Call) -> dict[str, Any]:
    """This interface, for machines."""
    return document(ADDRESSES)


_NAMESPACE: Final = "/namespaces/{namespace}"
_KEYS: Final = _NAMESPACE + "/keys"

ADDRESSES: Final = (
    Address("GET", "/openapi.json", description, "This document", answer=dict[str, Any], open=True),
    Address("GET", "/directory", enclaves.directory, "Where the enclaves are", answer=Directory, open=True),
    Address(
        "POST",
        "/device/codes",
        devices.request_codes,
        "Begin to sign a command line in (RFC 8628, section 3.1)",
        body=DeviceRequest,
        answer=DeviceCodes,
        open=True,
        codes=("quota.rate",),
    ),
    Address(
        "POST",
        "/device/tokens",
        devices.take_token,
        "Take the access token, once the user has agreed (RFC 8628, section 3.4)",
        body=DeviceCode,
        answer=AccessToken,
        open=True,
        codes=(PENDING, SLOW_DOWN, DENIED, EXPIRED),
    ),
    Address("DELETE", "/token", devices.give_token_back, "Give the access token back", status=HTTPStatus.NO_CONTENT),
    Address("GET", "/account", accounts.account, "Who is signed in", answer=Account),
    Address("GET", _KEYS, accounts.keys, "The keys of an account", action=Action.KEYS, answer=KeyList),
    Address(
        "POST",
        _KEYS,
        accounts.create_key,
        "Make a key, which is shown this once",
        action=Action.KEYS,
        body=NewKey,
        answer=CreatedKey,
        status=HTTPStatus.CREATED,
        codes=("account.key_request", "account.keys"),
    ),
    Address(
        "DELETE",
        _KEYS + "/{key}",
        accounts.revoke_key,
        "Revoke a key; enclaves refuse it within five seconds",
        action=Action.KEYS,
        answer=KeyEntry,
        codes=("account.key_unknown",),
    ),
    Address(
        "GET", _NAMESPACE + "/models", enclaves.models, "The models of an account", action=Action.VIEW, answer=ModelList
    ),
    Address(
        "GET",
        _NAMESPACE + "/usage",
        enclaves.usage,
        "What an account uses and may use",
        action=Action.VIEW,
        answer=UsageReport,
    ),
)
