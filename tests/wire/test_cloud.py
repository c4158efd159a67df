"""What an enclave and its control plane say to each other is decoded strictly, and nothing in it can hold content."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.crypto.digests import tagged
from blindai.enclave.models.model_id import parse_model_id
from blindai.wire import cloud
from blindai.wire.cloud import (
    ASSERTION_DOMAIN,
    MAX_COUNT,
    MAX_KEYS,
    MAX_LISTINGS,
    MAX_MESSAGE_BYTES,
    MAX_SHARED_WITH,
    MAX_TOTALS,
    MAX_TTL_MS,
    Assertion,
    AuthorisationAnswer,
    AuthorisationRequest,
    KeyId,
    ModelListing,
    ModelVisibility,
    Namespace,
    Quotas,
    Refused,
    Report,
    Reported,
    Scope,
    SignedAssertion,
    UsageTotal,
    Visibility,
)
from blindai.wire.metadata import TensorMetadata

DIGEST = "5a" * 32
KEY_ID = "bai_sk_0aZ9bY8c"

ASSERTION = Assertion(
    nonce="01" * 32,
    instance="02" * 32,
    key=DIGEST,
    key_id=KEY_ID,
    namespace="acme",
    scopes=(Scope.QUERY, Scope.UPLOAD),
    quotas=Quotas(models=3, model_bytes=4, requests_per_minute=5, requests_left=6),
)

LISTING = ModelListing(
    namespace="acme",
    name="resnet-18",
    version=1,
    bytes=46_000_000,
    state="ready",
    inputs=(TensorMetadata("x", "FP32", (-1, 3, 224, 224)),),
    visibility=Visibility.SHARED,
    shared_with=("alice",),
)

MESSAGES: tuple[msgspec.Struct, ...] = (
    ASSERTION,
    SignedAssertion(ASSERTION, "07" * 64),
    Refused(DIGEST),
    AuthorisationRequest(nonce="01" * 32, keys=(DIGEST,)),
    AuthorisationAnswer((SignedAssertion(ASSERTION, "07" * 64),), (Refused(DIGEST),)),
    UsageTotal(namespace="acme", key_id=KEY_ID, queries=7),
    LISTING,
    Report(first=True, totals=(UsageTotal(queries=1),), models=(LISTING,)),
    Reported(),
    ModelVisibility(Visibility.SHARED, ("alice",)),
)


def plain(message: msgspec.Struct) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(message))
    return decoded


def refused(value: object, type_: type[msgspec.Struct]) -> bool:
    try:
        msgspec.json.decode(msgspec.json.encode(value), type=type_)
    except msgspec.ValidationError:
        return True
    return False


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_it_survives_the_way(message: msgspec.Struct) -> None:
    assert msgspec.json.decode(msgspec.json.encode(message), type=type(message)) == message


def test_every_message_is_tried() -> None:
    structs = {one for one in vars(cloud).values() if isinstance(one, type) and issubclass(one, msgspec.Struct)}
    ours = {one for one in structs if one.__module__ == cloud.__name__}
    assert ours == {type(message) for message in MESSAGES} | {Quotas}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_not_agreed_is_refused(message: msgspec.Struct) -> None:
    told = plain(message)
    assert refused(told | {"tensor": "AAAA"}, type(message))
    assert refused([told], type(message))
    required = [field.name for field in msgspec.structs.fields(message) if field.required]
    for name in required:
        assert refused({key: value for key, value in told.items() if key != name}, type(message)), name
    if "v" in told:
        for version in (0, cloud.VERSION + 1, "1", None):
            assert refused(told | {"v": version}, type(message))


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": "01" * 31},
        {"nonce": "0G" * 32},
        {"nonce": "AB" * 32},
        {"instance": ""},
        {"key": "bai_sk_" + "0" * 36},
        {"key_id": "bai_sk_" + "0" * 36},
        {"key_id": "bai_sk_0000000\n"},
        {"key_id": "BAI_SK_00000000"},
        {"namespace": "Acme"},
        {"namespace": "acme/model"},
        {"scopes": ["admin"]},
        {"scopes": ["query"] * 4},
        {"ttl_ms": 0},
        {"ttl_ms": MAX_TTL_MS + 1},
        {"ttl_ms": True},
        {"quotas": {"models": 1, "model_bytes": 1}},
        {"quotas": {"models": -1, "model_bytes": 1, "requests_per_minute": 1}},
        {"quotas": {"models": MAX_COUNT + 1, "model_bytes": 1, "requests_per_minute": 1}},
        {"quotas": {"models": 1.5, "model_bytes": 1, "requests_per_minute": 1}},
    ],
    ids=repr,
)
def test_an_assertion_that_no_control_plane_would_make_is_refused(changes: dict[str, Any]) -> None:
    assert refused(plain(ASSERTION) | changes, Assertion)


def test_lists_have_an_end() -> None:
    assert refused({"nonce": "01" * 32, "keys": []}, AuthorisationRequest)
    assert refused({"nonce": "01" * 32, "keys": [DIGEST] * (MAX_KEYS + 1)}, AuthorisationRequest)
    assert refused({"refused": [plain(Refused(DIGEST))] * (MAX_KEYS + 1)}, AuthorisationAnswer)
    assert refused({"totals": [{}] * (MAX_TOTALS + 1)}, Report)
    assert refused({"models": [plain(LISTING)] * (MAX_LISTINGS + 1)}, Report)
    assert refused(plain(LISTING) | {"shared_with": ["acme"] * (MAX_SHARED_WITH + 1)}, ModelListing)
    assert refused({"visibility": "shared", "shared_with": ["acme"] * (MAX_SHARED_WITH + 1)}, ModelVisibility)


def test_the_largest_question_and_answer_fit_into_a_message() -> None:
    question = AuthorisationRequest(nonce="01" * 32, keys=(DIGEST,) * MAX_KEYS)
    largest = msgspec.structs.replace(
        ASSERTION,
        namespace="a" * 39,
        scopes=tuple(Scope),
        quotas=Quotas(models=MAX_COUNT, model_bytes=MAX_COUNT, requests_per_minute=MAX_COUNT, requests_left=MAX_COUNT),
    )
    answer = AuthorisationAnswer((SignedAssertion(largest, "07" * 64),) * MAX_KEYS)
    totals = Report(
        totals=(
            UsageTotal(
                namespace="a" * 39,
                key_id=KEY_ID,
                queries=MAX_COUNT,
                failed=MAX_COUNT,
                limited=MAX_COUNT,
                uploads=MAX_COUNT,
                deletions=MAX_COUNT,
            ),
        )
        * MAX_TOTALS
    )
    for message in (question, answer, totals):
        assert len(msgspec.json.encode(message)) < MAX_MESSAGE_BYTES


def test_what_is_signed_is_every_field() -> None:
    changes = {
        "nonce": "11" * 32,
        "instance": "12" * 32,
        "key": "13" * 32,
        "key_id": "bai_sk_11111111",
        "namespace": "alice",
        "scopes": (Scope.QUERY,),
        "quotas": Quotas(models=3, model_bytes=4, requests_per_minute=5),
        "ttl_ms": 1,
    }
    assert changes.keys() | {"v"} == set(Assertion.__struct_fields__)
    messages = {msgspec.structs.replace(ASSERTION, **{name: value}).message for name, value in changes.items()}
    assert len(messages | {ASSERTION.message}) == len(changes) + 1
    assert ASSERTION.message == tagged(ASSERTION_DOMAIN, plain(ASSERTION))


@given(name=st.from_regex(r"[a-z0-9]{1,20}(-[a-z0-9]{1,8}){0,2}", fullmatch=True).filter(lambda name: len(name) > 1))
def test_a_namespace_is_a_namespace_of_models(name: str) -> None:
    assert msgspec.convert(name, Namespace) == name
    assert str(parse_model_id(name, "model")) == f"{name}/model"


@given(st.text(max_size=45))
def test_what_a_namespace_is_not_is_refused(text: str) -> None:
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-")
    good = (
        2 <= len(text) <= 39
        and set(text) <= allowed
        and "--" not in text
        and not text.startswith("-")
        and not text.endswith("-")
    )
    assert converts(text, Namespace) is good


@pytest.mark.parametrize(
    "text", ["acme\n", "\nacme", "ac\u0301me", "\u0430cme", "acme\u200d", "acme\x00", "acme.", "a_b", "\u2460\u2461"]
)
def test_look_alikes_are_no_namespace(text: str) -> None:
    assert not converts(text, Namespace)
    assert not converts(f"bai_sk_{text}", KeyId)


def converts(text: str, type_: Any) -> bool:
    try:
        msgspec.convert(text, type_)
    except msgspec.ValidationError:
        return False
    return True


def test_a_report_has_no_place_for_content() -> None:
    """Counts, names, shapes: no bytes, no number that is not a count, no digest, nothing that is not listed here."""
    texts = {
        "UsageTotal.namespace",
        "UsageTotal.key_id",
        "ModelListing.namespace",
        "ModelListing.name",
        "ModelListing.state",
        "ModelListing.inputs",
        "ModelListing.outputs",
        "ModelListing.visibility",
        "ModelListing.shared_with",
    }
    for struct in (UsageTotal, ModelListing):
        hints = typing.get_type_hints(struct, include_extras=False)
        for field in msgspec.structs.fields(struct):
            if f"{struct.__name__}.{field.name}" not in texts:
                assert hints[field.name] in {int, bool, int | None}, field.name
    assert set(Report.__struct_fields__) == {"v", "first", "totals", "models"}
    assert set(AuthorisationRequest.__struct_fields__) == {"v", "nonce", "keys"}
    assert set(TensorMetadata.__struct_fields__) == {"name", "datatype", "shape"}
