"""Instances of enclaves: who has attested itself, and at which endpoint it is found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from blindai.attestation.result import Status
from blindai.cloud.tables import instances, totals
from blindai.errors import PermissionDenied
from blindai.wire.cloud import SIGN_OF_LIFE_SECONDS

if TYPE_CHECKING:
    from blindai.channel.receiving import Caller

# An endpoint whose enclave is silent stays in the directory for so long. What its accounts had there is gone when it is
# restarted, so that they lose nothing more by being sent to another one then.
PRESENCE_SECONDS: Final = 24 * SIGN_OF_LIFE_SECONDS

# `last_seen` is written at most this often.
TOUCH_SECONDS: Final = 60

# Instances that were silent for so long have ended: a verdict, and with it each connection, is good for minutes. Until
# then their totals are kept, so that nothing is counted twice.
MEMORY_SECONDS: Final = 90 * 24 * 3600


@dataclass(frozen=True, kw_only=True)
class InstanceView:
    """An enclave that has attested itself.

    Attributes:
        id: digest of its keyset, in hex.
        endpoint: where clients reach it: `https://host:port`, as its measured configuration says.
        simulated: on a simulated platform.
        verdict: of its latest connection, as JSON (`AttestationResult`).
        current: whether it is the one that serves the endpoint; others did so before it.
        present: whether the directory names it.
    """

    id: str
    endpoint: str
    simulated: bool
    verdict: Mapping[str, Any]
    first_seen: datetime
    last_seen: datetime
    current: bool
    present: bool


def admit(connection: sa.Connection, caller: Caller, *, public_key: str, now: int) -> None:
    """Note that an enclave has attested itself.

    Raises:
        PermissionDenied: `fleet.config`, its measured configuration names another control plane or none;
            `fleet.attestation`, the verdict is no acceptance of this instance.
    """
    result = caller.result
    if result.status is not Status.AFFIRMING or result.keyset_digest != caller.instance:
        raise PermissionDenied("the attestation is not an acceptance of this instance", code="fleet.attestation")
    endpoint = _endpoint(caller.config, public_key)
    _forget(connection, now)
    seen = {"verdict": result.to_json().decode(), "simulated": result.simulated, "last_seen": now}
    known = sa.update(instances).where(instances.c.id == caller.instance, instances.c.endpoint == endpoint)
    if connection.execute(known.values(seen)).rowcount == 0:
        served = sa.exists().where(instances.c.endpoint == endpoint, instances.c.current)
        alone = not connection.execute(sa.select(served)).scalar_one()
        connection.execute(
            sa.insert(instances).values(id=caller.instance, endpoint=endpoint, first_seen=now, current=alone, **seen)
        )


def lock(connection: sa.Connection, instance: str, *, endpoint: bool) -> sa.Row[Any]:
    """The row of an instance, held until the end of the transaction; with `endpoint`, all that are or were there.

    Raises:
        PermissionDenied: `fleet.instance`, it has not attested itself here.
    """
    own = instances.c.id == instance
    if endpoint:
        own = instances.c.endpoint == sa.select(instances.c.endpoint).where(own).scalar_subquery()
    # In one order, whoever else does the same at this moment.
    query = sa.select(instances).where(own).order_by(instances.c.id).with_for_update()
    row = next((row for row in connection.execute(query) if row.id == instance), None)
    if row is None:
        raise _unknown()
    return row


def require_admitted(connection: sa.Connection, instance: str) -> int:
    """When the instance was seen last.

    Raises:
        PermissionDenied: `fleet.instance`.
    """
    seen = connection.execute(sa.select(instances.c.last_seen).where(instances.c.id == instance)).scalar_one_or_none()
    if seen is None:
        raise _unknown()
    return int(seen)


def touch(connection: sa.Connection, instance: str, now: int) -> None:
    """Note that an instance was heard of."""
    stale = instances.c.last_seen <= now - TOUCH_SECONDS
    connection.execute(sa.update(instances).where(instances.c.id == instance, stale).values(last_seen=now))


def take_endpoint(connection: sa.Connection, instance: str, endpoint: str) -> None:
    """From now on `instance` serves `endpoint`, and those before it do not. Their rows are locked."""
    connection.execute(
        sa.update(instances).where(instances.c.endpoint == endpoint).values(current=instances.c.id == instance)
    )


def present(connection: sa.Connection, now: int) -> list[tuple[str, bool]]:
    """The endpoints that an instance serves, each with whether it is simulated."""
    query = (
        sa.select(instances.c.endpoint, instances.c.simulated)
        .where(instances.c.current, instances.c.last_seen > now - PRESENCE_SECONDS)
        .order_by(instances.c.endpoint)
    )
    return [(row.endpoint, row.simulated) for row in connection.execute(query)]


def views(connection: sa.Connection, now: int) -> tuple[InstanceView, ...]:
    """All that are remembered: those that serve first, of the others the latest first."""
    order = (instances.c.current.desc(), instances.c.last_seen.desc(), instances.c.id)
    return tuple(
        InstanceView(
            id=row.id,
            endpoint=row.endpoint,
            simulated=row.simulated,
            verdict=json.loads(row.verdict),
            first_seen=datetime.fromtimestamp(row.first_seen, UTC),
            last_seen=datetime.fromtimestamp(row.last_seen, UTC),
            current=row.current,
            present=row.current and row.last_seen > now - PRESENCE_SECONDS,
        )
        for row in connection.execute(sa.select(instances).order_by(*order))
    )


def _endpoint(config: Mapping[str, Any], public_key: str) -> str:
    """Where the enclave is reached, by its measured configuration."""
    cloud = config.get("cloud")
    if not isinstance(cloud, dict) or cloud.get("public_key") != public_key:
        raise PermissionDenied(
            "the enclave's measured configuration names another control plane, or none",
            code="fleet.config",
            hint="put the table [cloud] that `blindai cloud serve` prints into its configuration",
        )
    return str(cloud["endpoint"])


def _unknown() -> PermissionDenied:
    return PermissionDenied("this instance has not attested itself to this cloud", code="fleet.instance")


def _forget(connection: sa.Connection, now: int) -> None:
    gone = sa.select(instances.c.id).where(instances.c.last_seen <= now - MEMORY_SECONDS)
    connection.execute(sa.delete(totals).where(totals.c.instance.in_(gone)))
    connection.execute(sa.delete(instances).where(instances.c.last_seen <= now - MEMORY_SECONDS))
