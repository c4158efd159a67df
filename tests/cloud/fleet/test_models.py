"""The models of accounts: what an enclave says of those that it has, and whose word counts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from blindai.wire import cloud as wire
from blindai.wire.metadata import TensorMetadata
from cloud_scene import CloudScene, PlayedEnclave, Tenant

INPUTS = (TensorMetadata("x", "FP32", (-1, 3)), TensorMetadata("ünïcode", "BYTES", ()))


def listing(tenant: Tenant, name: str = "model", version: int = 1, **details: Any) -> wire.ModelListing:
    return wire.ModelListing(namespace=tenant.name, name=name, version=version, **details)


def names(scene: CloudScene, tenant: Tenant) -> list[tuple[str, int]]:
    return [(one.listing.name, one.listing.version) for one in scene.plane.fleet.models(tenant.name)]


def test_a_model_is_listed_as_it_was_reported(scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant) -> None:
    told = listing(
        tenant,
        bytes=1000,
        state="READY",
        inputs=INPUTS,
        outputs=INPUTS[:1],
        visibility=wire.Visibility.SHARED,
        shared_with=("somebody", "else"),
        queries=4,
    )
    enclave.report(models=(told,))
    (shown,) = scene.plane.fleet.models(tenant.name)
    assert (shown.endpoint, shown.listing, shown.used_at) == (enclave.endpoint, told, None)
    usage = scene.plane.fleet.usage(tenant.name)
    assert (usage.models, usage.bytes) == (1, 1000)


def test_the_last_use_is_by_the_clock_of_this_end(scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant) -> None:
    enclave.report(models=(listing(tenant, unused_ms=90_000),))
    (shown,) = scene.plane.fleet.models(tenant.name)
    assert shown.used_at is not None
    assert scene.clock() - 95 < shown.used_at.timestamp() < scene.clock() - 85


def test_changes_are_taken_one_by_one(scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant) -> None:
    enclave.report(models=(listing(tenant), listing(tenant, version=2), listing(tenant, "other")))
    enclave.report(models=(listing(tenant, version=2, deleted=True), listing(tenant, "other", bytes=7)))
    assert names(scene, tenant) == [("model", 1), ("other", 1)]
    assert scene.plane.fleet.usage(tenant.name).bytes == 7
    enclave.report(models=(listing(tenant), listing(tenant, deleted=True)))
    assert names(scene, tenant) == [("other", 1)]


def test_the_first_report_of_an_instance_replaces_what_its_endpoint_had(
    scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant
) -> None:
    enclave.report(first=True, models=(listing(tenant),))
    elsewhere = scene.played(f"https://elsewhere-{tenant.name}.test:9443")
    elsewhere.report(first=True, models=(listing(tenant, "elsewhere"),))
    again = scene.played(enclave.endpoint)
    again.report(first=True, models=(listing(tenant, "again"),))
    assert names(scene, tenant) == [("again", 1), ("elsewhere", 1)]
    # The one before has lost its endpoint, and speaks for nothing there; its counts are its own.
    enclave.report(
        models=(listing(tenant, "late"), listing(tenant, "again", deleted=True)),
        totals=(wire.UsageTotal(namespace=tenant.name, key_id=tenant.key.id, queries=2),),
    )
    assert names(scene, tenant) == [("again", 1), ("elsewhere", 1)]
    assert scene.plane.fleet.usage(tenant.name).month_queries == 2


def test_an_instance_that_is_not_the_first_waits_for_its_first_report(
    scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant
) -> None:
    second = scene.played(enclave.endpoint)
    second.report(models=(listing(tenant),))
    assert names(scene, tenant) == []


def test_models_of_accounts_that_never_were_are_dropped(
    scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant
) -> None:
    name = f"org-{tenant.name}"
    reported = enclave.report(models=(wire.ModelListing(namespace=name, name="model", version=1), listing(tenant)))
    assert scene.plane.fleet.models(name) == ()
    assert names(scene, tenant) == [("model", 1)]
    # The enclave keeps them: the database may be one of an earlier day.
    assert reported.closed == ()


def test_an_enclave_hears_of_accounts_that_were_closed_until_it_has_deleted_their_models(
    scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant
) -> None:
    name = f"org-{tenant.name}"
    model = wire.ModelListing(namespace=name, name="model", version=1)
    scene.plane.accounts.create_organisation(tenant.user, name)
    assert enclave.report(models=(model, listing(tenant))).closed == ()
    scene.plane.accounts.close(tenant.user, name)
    # Whatever it reports, also nothing; and also if the answer before never came.
    for _ in range(2):
        assert enclave.report().closed == (name,)
    assert scene.played(f"https://elsewhere-{tenant.name}.test:9443").report(first=True).closed == ()
    assert enclave.report(models=(msgspec.structs.replace(model, deleted=True),)).closed == ()
    # An upload that had begun before.
    assert enclave.report(models=(model,)).closed == (name,)
    assert scene.plane.fleet.models(name) == ()
    assert enclave.report().closed == ()
    assert names(scene, tenant) == [("model", 1)]


def test_of_many_accounts_that_were_closed_an_enclave_hears_bit_by_bit(
    scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blindai.cloud.fleet.models.MAX_CLOSED", 2)
    left = [f"{letter}-{tenant.name}" for letter in "abc"]
    for name in left:
        scene.plane.accounts.create_organisation(tenant.user, name)
        enclave.report(models=(wire.ModelListing(namespace=name, name="model", version=1),))
        scene.plane.accounts.close(tenant.user, name)
    while left:
        closed = enclave.report().closed
        assert closed == tuple(left[:2])
        del left[:2]
        gone = (wire.ModelListing(namespace=name, name="model", version=1, deleted=True) for name in closed)
        enclave.report(models=tuple(gone))
    assert enclave.report().closed == ()
