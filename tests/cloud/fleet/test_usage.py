"""Totals in, counts out: nothing is counted twice, and nothing is taken back."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from blindai.cloud import tables
from blindai.cloud.fleet.usage import HOUR_SECONDS, KEPT_HOURS, month_of
from blindai.errors import InvalidInput, PermissionDenied
from blindai.wire import cloud as wire
from cloud_scene import CloudScene, PlayedEnclave, Tenant


def total(tenant: Tenant, **counts: int) -> wire.UsageTotal:
    return wire.UsageTotal(namespace=tenant.name, key_id=tenant.key.id, **counts)


def test_what_is_reported_is_counted_once(scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant) -> None:
    for _ in range(3):
        enclave.report(totals=(total(tenant, queries=5, failed=1, limited=2, uploads=3, deletions=4),))
    enclave.report(totals=(total(tenant, queries=7, failed=1, limited=2, uploads=3, deletions=4),))
    usage = scene.plane.fleet.usage(tenant.name)
    assert usage.month_queries == 7
    (hour,) = usage.hours
    assert (hour.queries, hour.failed, hour.limited, hour.uploads, hour.deletions) == (7, 1, 2, 3, 4)
    assert hour.hour.timestamp() % HOUR_SECONDS == 0


def test_instances_count_beside_each_other(scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant) -> None:
    enclave.report(totals=(total(tenant, queries=5),))
    scene.played("https://beside.test:9443").report(totals=(total(tenant, queries=6),))
    assert scene.plane.fleet.usage(tenant.name).month_queries == 11


def test_hours_and_months_are_kept_apart(scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant) -> None:
    enclave.report(totals=(total(tenant, queries=1),))
    scene.clock.shift = HOUR_SECONDS
    enclave.report(totals=(total(tenant, queries=3),))
    usage = scene.plane.fleet.usage(tenant.name)
    assert [hour.queries for hour in usage.hours] == [1, 2]
    scene.clock.shift = 40 * 24 * HOUR_SECONDS
    enclave.admit()
    enclave.report(totals=(total(tenant, queries=10),))
    usage = scene.plane.fleet.usage(tenant.name)
    assert [hour.queries for hour in usage.hours] == [7]
    assert usage.month_queries == 7


def test_hours_that_no_page_shows_are_dropped(scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant) -> None:
    enclave.report(totals=(total(tenant, queries=1),))
    scene.clock.shift = (KEPT_HOURS + 2) * HOUR_SECONDS
    enclave.admit()
    with scene.plane.database.read() as connection:
        kept = sa.select(sa.func.count()).select_from(tables.usage).where(tables.usage.c.namespace == tenant.name)
        assert connection.execute(kept).scalar_one() == 0


@pytest.mark.parametrize("field", ["queries", "failed", "limited", "uploads", "deletions"])
def test_a_count_that_goes_backwards_is_refused_whole(
    scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant, other: Tenant, field: str
) -> None:
    enclave.report(totals=(total(tenant, **{field: 5}),))
    with pytest.raises(InvalidInput) as caught:
        enclave.report(totals=(total(other, queries=9), total(tenant, **{field: 4})))
    assert caught.value.code == "fleet.totals"
    assert scene.plane.fleet.usage(other.name).hours == ()


@pytest.mark.parametrize("twice", [True, False])
def test_a_total_that_is_ambiguous_is_refused(enclave: PlayedEnclave, tenant: Tenant, twice: bool) -> None:
    nameless = wire.UsageTotal(namespace=tenant.name, queries=1)
    totals = (total(tenant, queries=1), total(tenant, queries=1)) if twice else (nameless,)
    with pytest.raises(InvalidInput) as caught:
        enclave.report(totals=totals)
    assert caught.value.code == "fleet.totals"


def test_strangers_are_counted_and_use_up_nobodys_month(scene: CloudScene, enclave: PlayedEnclave) -> None:
    def counted() -> int:
        with scene.plane.database.read() as connection:
            queries = sa.select(sa.func.coalesce(sa.func.sum(tables.usage.c.queries), 0))
            return int(connection.execute(queries.where(tables.usage.c.namespace == "")).scalar_one())

    before = counted()
    enclave.report(totals=(wire.UsageTotal(queries=3),))
    assert counted() == before + 3


def test_an_account_that_does_not_exist_is_dropped(scene: CloudScene, enclave: PlayedEnclave, tenant: Tenant) -> None:
    foreign = wire.UsageTotal(namespace="nobody-here", key_id=tenant.key.id, queries=3)
    enclave.report(totals=(foreign, total(tenant, queries=1)))
    assert scene.plane.fleet.usage(tenant.name).month_queries == 1
    with pytest.raises(InvalidInput) as caught:
        scene.plane.fleet.usage("nobody-here")
    assert caught.value.code == "account.unknown"


def test_who_was_not_attested_reports_nothing(scene: CloudScene, tenant: Tenant) -> None:
    with pytest.raises(PermissionDenied) as caught:
        scene.plane.fleet.report("ab" * 32, wire.Report(totals=(total(tenant, queries=1),)))
    assert caught.value.code == "fleet.instance"


def test_many_at_once_lose_nothing(scene: CloudScene, tenant: Tenant, other: Tenant) -> None:
    """Six enclaves report about the same accounts, in different orders, each report twice."""
    enclaves = [scene.played(f"https://{tenant.name}-{number}.test:9443") for number in range(6)]
    failures: list[BaseException] = []

    def work(number: int, enclave: PlayedEnclave) -> None:
        pair = (tenant, other) if number % 2 else (other, tenant)
        try:
            for count in range(1, 6):
                for _ in range(2):
                    enclave.report(first=count == 1, totals=tuple(total(one, queries=count) for one in pair))
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(enclaves)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for one in (tenant, other):
        usage = scene.plane.fleet.usage(one.name)
        assert (usage.month_queries, sum(hour.queries for hour in usage.hours)) == (30, 30)


def test_months_are_those_of_utc() -> None:
    assert month_of(0.0) == 1970 * 12
    assert month_of(-0.5) == 1969 * 12 + 11
    assert month_of(1_764_547_199.0) + 1 == month_of(1_764_547_200.0) == 2025 * 12 + 11
