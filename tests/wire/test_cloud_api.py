"""The JSON interface of the control plane: what is taken, what is shown, and where the models of an account live."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import Scope
from blindai.wire.cloud_api import (
    AccessToken,
    CreatedKey,
    DeviceCode,
    DeviceRequest,
    Directory,
    Endpoint,
    KeyEntry,
    KeyList,
    NewKey,
)

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ENTRY = KeyEntry("bai_sk_00000000", "acme", "laptop", (Scope.QUERY,), NOW, revoked_at=NOW)

ACCOUNTS = [f"account-{number}" for number in range(6000)]


def taken(value: object, type_: Any) -> bool:
    try:
        msgspec.json.decode(msgspec.json.encode(value), type=type_)
    except msgspec.ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ({"name": "laptop"}, NewKey),
        ({"name": "laptop", "scopes": ["query", "upload", "delete"], "expires_in_days": 3650}, NewKey),
        ({"name": "\u540d\u524d <b> '--"}, NewKey),
        ({"name": "my laptop"}, DeviceRequest),
        ({"device_code": "x" * 100}, DeviceCode),
    ],
)
def test_a_request_is_taken(value: dict[str, Any], type_: Any) -> None:
    assert taken(value, type_)


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ({}, NewKey),
        ({"name": ""}, NewKey),
        ({"name": " "}, NewKey),
        ({"name": " laptop"}, NewKey),
        ({"name": "laptop\u00a0"}, NewKey),
        ({"name": "x" * 65}, NewKey),
        ({"name": "a\r\nb"}, NewKey),
        ({"name": "a\x00"}, NewKey),
        ({"name": "a\x85b"}, NewKey),
        ({"name": "lap\u202etop"}, NewKey),
        ({"name": "lap\u2066top"}, NewKey),
        ({"name": "lap\u200btop"}, NewKey),
        ({"name": "lap\u2028top"}, NewKey),
        ({"name": "lap\ufefftop"}, NewKey),
        ({"name": 5}, NewKey),
        ({"name": "laptop", "scopes": []}, NewKey),
        ({"name": "laptop", "scopes": ["admin"]}, NewKey),
        ({"name": "laptop", "scopes": ["QUERY"]}, NewKey),
        ({"name": "laptop", "scopes": ["query"] * 4}, NewKey),
        ({"name": "laptop", "expires_in_days": 0}, NewKey),
        ({"name": "laptop", "expires_in_days": 3651}, NewKey),
        ({"name": "laptop", "expires_in_days": "1"}, NewKey),
        ({"name": "laptop", "expires_in_days": 1.5}, NewKey),
        ({"name": "laptop", "namespace": "admin"}, NewKey),
        ({"name": "laptop", "created_by": "user-aaaaaaaaaaaaaaaa"}, NewKey),
        ({"name": "x\u202ey"}, DeviceRequest),
        ({"name": "x", "user": "y"}, DeviceRequest),
        ({"device_code": ""}, DeviceCode),
        ({"device_code": "x" * 101}, DeviceCode),
        ({"device_code": "x", "user_code": "y"}, DeviceCode),
    ],
    ids=ascii,
)
def test_what_was_not_agreed_is_refused(value: dict[str, Any], type_: Any) -> None:
    assert not taken(value, type_)


def test_a_key_queries_and_no_more_unless_somebody_says_so() -> None:
    assert NewKey(name="laptop").scopes == (Scope.QUERY,)


def test_answers_of_a_later_release_can_be_read() -> None:
    told = msgspec.to_builtins(KeyList((ENTRY,))) | {"next": "page 2"}
    assert msgspec.convert(told, KeyList) == KeyList((ENTRY,))


def test_times_are_in_utc_and_have_a_zone() -> None:
    assert b'"created_at":"2026-11-21T12:00:00Z"' in msgspec.json.encode(ENTRY)
    told = msgspec.to_builtins(ENTRY) | {"created_at": "2026-11-21T12:00:00"}
    assert not taken(told, KeyEntry)


def test_secrets_stand_in_no_representation() -> None:
    key = ApiKey.new()
    assert key.text not in repr(CreatedKey(key.text, ENTRY))
    assert "bai_at_secret" not in repr([AccessToken("bai_at_secret")])


# Where the models of an account live.


def cloud(endpoints: int) -> Directory:
    return Directory(
        "cloud", tuple(Endpoint(f"https://e{one}.example:443", simulated=True) for one in range(endpoints))
    )


def homes(directory: Directory) -> dict[str, str]:
    found = {account: directory.home(account) for account in ACCOUNTS}
    return {account: home.address for account, home in found.items() if home}


@given(account=st.sampled_from(ACCOUNTS), endpoints=st.integers(1, 9), seed=st.integers())
def test_the_order_of_the_directory_does_not_matter(account: str, endpoints: int, seed: int) -> None:
    shuffled = list(cloud(endpoints).endpoints)
    random.Random(seed).shuffle(shuffled)
    assert Directory("other name", tuple(shuffled)).home(account) == cloud(endpoints).home(account)


def test_without_endpoints_there_is_no_home() -> None:
    assert cloud(0).home("acme") is None


@pytest.mark.parametrize("endpoints", [2, 3, 6])
def test_accounts_are_spread_evenly(endpoints: int) -> None:
    counts = Counter(homes(cloud(endpoints)).values())
    share = len(ACCOUNTS) / endpoints
    assert len(counts) == endpoints
    # Five standard deviations of a binomial distribution.
    assert all(abs(count - share) < 5 * share**0.5 for count in counts.values())


@pytest.mark.parametrize("endpoints", [1, 2, 5])
def test_one_more_endpoint_moves_no_account_but_to_itself(endpoints: int, figures: Callable[[str], None]) -> None:
    before, after = homes(cloud(endpoints)), homes(cloud(endpoints + 1))
    moved = {after[account] for account in ACCOUNTS if before[account] != after[account]}
    assert moved == {cloud(endpoints + 1).endpoints[-1].address}
    count = sum(before[account] != after[account] for account in ACCOUNTS)
    share = len(ACCOUNTS) / (endpoints + 1)
    assert abs(count - share) < 5 * share**0.5
    figures(f"{endpoints} endpoints and one more: {count} of {len(ACCOUNTS)} accounts move; 1/n is {share:.0f}")


def test_one_less_moves_only_those_that_were_there() -> None:
    directory = cloud(4)
    less = Directory("cloud", directory.endpoints[1:])
    before, after = homes(directory), homes(less)
    gone = directory.endpoints[0].address
    assert all(after[account] == home for account, home in before.items() if home != gone)
    assert gone not in after.values()
