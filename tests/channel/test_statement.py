from __future__ import annotations

import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.channel.statement import NO_DEVICES, Role, Statement, config_digest

STATEMENT = Statement(
    role=Role.SERVER,
    nonce="01" * 32,
    ekm="02" * 32,
    spki_sha256="03" * 32,
    keyset_digest="04" * 32,
    devices_digest="05" * 32,
    config_digest="06" * 32,
)
FIELDS = ["nonce", "ekm", "spki_sha256", "keyset_digest", "devices_digest", "config_digest"]


def by_hand(statement: Statement) -> bytes:
    """The canonical text of a statement, from the names in the protocol's description alone."""
    members = {"v": statement.v, "role": str(statement.role)} | {name: getattr(statement, name) for name in FIELDS}
    return json.dumps(members, sort_keys=True, separators=(",", ":")).encode()


def test_report_data_by_hand() -> None:
    expected = hashlib.sha512(b"blindai/statement/v1\x00" + by_hand(STATEMENT)).digest()
    assert STATEMENT.report_data == expected
    assert len(expected) == 64


def test_golden_vector() -> None:
    """Written out, so that no change of code or library can change the protocol unseen."""
    text = (
        b'{"config_digest":"' + b"06" * 32 + b'","devices_digest":"' + b"05" * 32 + b'","ekm":"' + b"02" * 32 + b'",'
        b'"keyset_digest":"' + b"04" * 32 + b'","nonce":"' + b"01" * 32 + b'","role":"server",'
        b'"spki_sha256":"' + b"03" * 32 + b'","v":1}'
    )
    assert by_hand(STATEMENT) == text
    assert STATEMENT.resume_message == b"blindai/resume/v1\0" + text
    assert STATEMENT.report_data.hex() == (
        "44a224ed88d89dd0ddb5bbdbb504207e523025cd9ba0977776b46d79f71dfe22"
        "de9e845d9b93edf1ccccfbe6448d018217894cf56b2ba37857cd3b84595bddcb"
    )


digests = st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(st.builds(Statement, role=st.sampled_from(Role), **dict.fromkeys(FIELDS, digests), v=st.integers(0, 9)))
def test_any_statement_by_hand(statement: Statement) -> None:
    assert statement.report_data == hashlib.sha512(b"blindai/statement/v1\x00" + by_hand(statement)).digest()


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_changes_report_data_and_proof(field: str) -> None:
    changed = msgspec.structs.replace(STATEMENT, **{field: "ff" * 32})
    assert changed.report_data != STATEMENT.report_data
    assert changed.resume_message != STATEMENT.resume_message


@pytest.mark.parametrize("change", [{"role": Role.CLIENT}, {"v": 2}])
def test_role_and_version_change_report_data_and_proof(change: dict[str, object]) -> None:
    changed = msgspec.structs.replace(STATEMENT, **change)
    assert changed.report_data != STATEMENT.report_data
    assert changed.resume_message != STATEMENT.resume_message


def test_a_quote_cannot_pass_for_a_proof() -> None:
    assert hashlib.sha512(STATEMENT.resume_message).digest() != STATEMENT.report_data


def test_no_devices_by_hand() -> None:
    assert hashlib.sha256(b'blindai/devices/v1\0{"devices":[]}').hexdigest() == NO_DEVICES


def test_config_digest_by_hand() -> None:
    text = b'blindai/config/v1\0{"a":1,"b":{"c":[true,null,"x"]}}'
    assert config_digest({"b": {"c": [True, None, "x"]}, "a": 1}) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("value", [1.5, "é", "\n", 2**53, b"bytes", {1: 2}])
def test_config_outside_the_canonical_encoding(value: object) -> None:
    with pytest.raises(ValueError, match="canonical encoding"):
        config_digest({"key": value})  # type: ignore[dict-item] # what a caller must not do


def test_unknown_members_are_refused() -> None:
    members = msgspec.to_builtins(STATEMENT) | {"extra": 1}
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert(members, Statement)
