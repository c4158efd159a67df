"""What whoever runs the cloud sees of accounts, and lets them use."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from blindai.cloud.accounts.namespaces import AccountQuotas
from blindai.cloud.allowances import CHANGED, Allowances
from blindai.errors import InvalidInput
from blindai.wire import cloud as wire
from cloud_scene import CloudScene, Tenant

_NUMBERS = itertools.count()


@pytest.fixture
def tenant(module_scene: CloudScene) -> Tenant:
    return module_scene.tenant(f"tenant-{next(_NUMBERS)}")


@pytest.fixture
def allowances(module_scene: CloudScene) -> Allowances:
    return Allowances(module_scene.plane.database, clock=module_scene.clock)


def test_an_account_stands_there_with_what_it_has_and_may(
    module_scene: CloudScene, allowances: Allowances, tenant: Tenant
) -> None:
    begun = allowances.of(tenant.name)
    assert (begun.kind, begun.members, begun.closed_at, begun.quotas) == ("personal", 1, None, AccountQuotas())
    assert (begun.models, begun.model_bytes, begun.month_requests) == (0, 0, 0)
    enclave = module_scene.played(f"https://{tenant.name}.test:9443")
    enclave.report(
        models=tuple(
            wire.ModelListing(namespace=tenant.name, name="model", version=version, bytes=100) for version in (1, 2)
        ),
        totals=(wire.UsageTotal(namespace=tenant.name, key_id=tenant.key.id, queries=7),),
    )
    used = allowances.of(tenant.name)
    assert (used.models, used.model_bytes, used.month_requests) == (2, 200, 7)
    assert used in allowances.all()


def test_accounts_come_by_name_and_closed_ones_too(
    module_scene: CloudScene, allowances: Allowances, tenant: Tenant
) -> None:
    name = f"org-{tenant.name}"
    module_scene.plane.accounts.create_organisation(tenant.user, name)
    module_scene.plane.accounts.close(tenant.user, name)
    names = [one.name for one in allowances.all()]
    assert names == sorted(names)
    closed = allowances.of(name)
    assert (closed.kind, closed.members) == ("organisation", 0)
    assert closed.closed_at is not None
    with pytest.raises(InvalidInput) as caught:
        allowances.change(name, {"models": 1})
    assert caught.value.code == "account.unknown"


def test_a_change_is_in_the_next_assertion_and_in_the_log(
    module_scene: CloudScene, allowances: Allowances, tenant: Tenant
) -> None:
    enclave = module_scene.played(f"https://{tenant.name}.test:9443")
    changed = allowances.change(tenant.name, {"models": 3, "model_bytes": 0, "requests_per_month": None})
    assert changed.quotas == AccountQuotas(models=3, model_bytes=0, requests_per_month=None)
    (signed,) = enclave.ask(tenant.key).assertions
    assert signed.assertion.quotas == wire.Quotas(models=3, model_bytes=0, requests_per_minute=600)
    allowances.change(tenant.name, {"requests_per_minute": 9, "requests_per_month": 2})
    (signed,) = enclave.ask(tenant.key).assertions
    expected = wire.Quotas(models=3, model_bytes=0, requests_per_minute=9, requests_left=2)
    assert signed.assertion.quotas == expected
    log = [entry for entry in module_scene.plane.accounts.audit(tenant.user, tenant.name) if entry.action == CHANGED]
    assert [(entry.user, entry.subject) for entry in log] == [
        (None, "requests_per_minute=9 requests_per_month=2"),
        (None, "model_bytes=0 models=3 requests_per_month=unlimited"),
    ]


@pytest.mark.parametrize(
    "quotas",
    [
        {"models": -1},
        {"models": None},
        {"model_bytes": wire.MAX_COUNT + 1},
        {"requests_per_minute": None},
        {"requests_per_month": -1, "models": 1},
    ],
)
def test_what_is_no_quota_changes_nothing(allowances: Allowances, tenant: Tenant, quotas: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        allowances.change(tenant.name, quotas)
    assert caught.value.code == "account.quotas"
    assert allowances.of(tenant.name).quotas == AccountQuotas()


def test_an_account_that_never_was(allowances: Allowances) -> None:
    with pytest.raises(InvalidInput) as caught:
        allowances.of("nobody")
    assert caught.value.code == "account.unknown"
    with pytest.raises(InvalidInput) as caught:
        allowances.change("nobody", {})
    assert caught.value.code == "account.unknown"
