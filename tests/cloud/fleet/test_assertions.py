"""Who holds a key: what an enclave is told, and what it is told of keys that are not in force."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blindai.cloud import tables
from blindai.cloud.fleet import assertions
from blindai.errors import PermissionDenied, Unavailable
from blindai.wire import cloud as wire
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import Scope
from cloud_scene import CloudScene, PlayedEnclave, Tenant, question

DAY = 24 * 3600


def test_a_key_in_force_is_asserted(scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant) -> None:
    key = scene.key(tenant.user, tenant.name, Scope.QUERY, Scope.DELETE)
    asked = question(key)
    (signed,) = scene.plane.fleet.authorise(enclave.id, asked).assertions
    said = signed.assertion
    assert (said.nonce, said.instance, said.key) == (asked.nonce, enclave.id, key.digest)
    assert (said.key_id, said.namespace, said.ttl_ms) == (key.id, tenant.name, wire.MAX_TTL_MS)
    assert set(said.scopes) == {Scope.QUERY, Scope.DELETE}
    public_key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(scene.plane.public_key))
    public_key.verify(bytes.fromhex(signed.signature), said.message)


def test_quotas_are_those_of_the_account(scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant) -> None:
    scene.allow(tenant.name, max_models=3, max_bytes=1000, per_minute=7, per_month=10)
    wanted = wire.Quotas(models=3, model_bytes=1000, requests_per_minute=7, requests_left=10)
    assert quotas(enclave, tenant.key) == wanted
    used = wire.UsageTotal(namespace=tenant.name, key_id=tenant.key.id, queries=4)
    enclave.report(totals=(used,))
    assert quotas(enclave, tenant.key).requests_left == 6
    enclave.report(totals=(wire.UsageTotal(namespace=tenant.name, key_id=tenant.key.id, queries=11),))
    assert quotas(enclave, tenant.key).requests_left == 0
    scene.clock.shift = 32 * DAY
    assert quotas(enclave, tenant.key).requests_left == 10


def test_an_account_without_a_limit_of_the_month_has_none_left_to_count(
    scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant
) -> None:
    scene.allow(tenant.name, per_month=None)
    assert quotas(enclave, tenant.key).requests_left is None


def test_keys_that_are_not_in_force_are_refused_alike(
    scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant
) -> None:
    organisation = f"org-{tenant.name}"
    scene.plane.accounts.create_organisation(tenant.user, organisation)
    revoked, closed = scene.key(tenant.user, tenant.name), scene.key(tenant.user, organisation)
    expired = scene.key(tenant.user, tenant.name, expires_in_days=1)
    never = ApiKey.new()
    assert len(enclave.ask(revoked, closed, expired).assertions) == 3
    scene.plane.accounts.revoke_key(tenant.user, tenant.name, revoked.id)
    scene.plane.accounts.close(tenant.user, organisation)
    scene.clock.shift = DAY + 1
    keys = (revoked, closed, expired, never, tenant.key)
    answer = enclave.ask(*keys)
    assert [one.assertion.key for one in answer.assertions] == [tenant.key.digest]
    assert answer.refused == tuple(wire.Refused(key.digest, "authentication.key") for key in keys[:4])


def test_an_assertion_ends_with_its_key(scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant) -> None:
    key = scene.key(tenant.user, tenant.name, expires_in_days=1)
    (entry,) = (one for one in scene.plane.accounts.keys(tenant.user, tenant.name) if one.id == key.id)
    assert entry.expires_at is not None
    scene.clock.shift = entry.expires_at.timestamp() - datetime.now(UTC).timestamp() - 2
    (signed,) = enclave.ask(key).assertions
    assert 1 <= signed.assertion.ttl_ms <= 2000


def test_each_key_is_answered_once(enclave: PlayedEnclave, tenant: Tenant) -> None:
    unknown = secrets.token_hex(32)
    answer = enclave.ask(tenant.key, unknown, tenant.key, unknown)
    assert (len(answer.assertions), len(answer.refused)) == (1, 1)


def test_as_many_as_a_question_may_have(enclave: PlayedEnclave, tenant: Tenant) -> None:
    answer = enclave.ask(tenant.key, *(secrets.token_hex(32) for _ in range(wire.MAX_KEYS - 1)))
    assert (len(answer.assertions), len(answer.refused)) == (1, wire.MAX_KEYS - 1)


def test_the_last_use_of_a_key_is_noted_once_in_a_minute(
    scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant
) -> None:
    assert used_at(scene, tenant.key) is None
    enclave.ask(tenant.key)
    first = used_at(scene, tenant.key)
    assert first is not None
    scene.clock.shift = assertions.USED_SECONDS / 2
    enclave.ask(tenant.key)
    assert used_at(scene, tenant.key) == first
    scene.clock.shift = assertions.USED_SECONDS + 2
    enclave.ask(tenant.key)
    assert used_at(scene, tenant.key) > first


def test_an_answer_does_not_rest_on_noting_the_use(
    scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(*_: object, **__: object) -> None:
        raise Unavailable("others hold the locks", code="unavailable.database_contended")

    monkeypatch.setattr(assertions, "mark_used", held)
    assert len(enclave.ask(tenant.key).assertions) == 1
    assert used_at(scene, tenant.key) is None


def test_who_was_not_attested_is_told_nothing(scene: CloudScene, tenant: Tenant) -> None:
    with pytest.raises(PermissionDenied) as caught:
        scene.plane.fleet.authorise(secrets.token_hex(32), question(tenant.key))
    assert caught.value.code == "fleet.instance"


def quotas(enclave: PlayedEnclave, key: ApiKey) -> wire.Quotas:
    (signed,) = enclave.ask(key).assertions
    return signed.assertion.quotas


def used_at(scene: CloudScene, key: ApiKey) -> Any:
    with scene.plane.database.read() as connection:
        return connection.execute(
            sa.select(tables.api_keys.c.used_at).where(tables.api_keys.c.id == key.id)
        ).scalar_one()
