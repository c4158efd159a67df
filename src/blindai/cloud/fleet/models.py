"""The models of accounts, as the enclaves that have them report them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from blindai.cloud.tables import models, namespaces
from blindai.wire.cloud import MAX_CLOSED, ModelListing, Visibility
from blindai.wire.cloud_api import ListedModel
from blindai.wire.metadata import TensorMetadata

if TYPE_CHECKING:
    from collections.abc import Sequence


def forget(connection: sa.Connection, endpoint: str) -> None:
    """What was said of the models of an endpoint holds no more."""
    connection.execute(sa.delete(models).where(models.c.endpoint == endpoint))


def list_(
    connection: sa.Connection, instance: str, endpoint: str, listings: Sequence[ModelListing], *, now: int
) -> tuple[str, ...]:
    """Keep what `instance`, which serves `endpoint`, says of its models; of accounts that do not exist, nothing.

    Returns:
        The accounts of which there are models at this endpoint though they were closed. Not those that never were: a
        database of an earlier day must not cost anybody a model.
    """
    named = sorted({one.namespace for one in listings})
    rows = connection.execute(sa.select(namespaces).where(namespaces.c.name.in_(named)))
    closed = {row.name: row.closed_at is not None for row in rows}
    # Of two listings of one version the later holds.
    told = {(one.namespace, one.name, one.version): one for one in listings if one.namespace in closed}
    for one in told.values():
        key = {"endpoint": endpoint, "namespace": one.namespace, "name": one.name, "version": one.version}
        connection.execute(sa.delete(models).where(*(models.c[name] == value for name, value in key.items())))
        if not one.deleted and not closed[one.namespace]:
            connection.execute(sa.insert(models).values(**key, **_columns(one, instance, now)))
    shut = {one.namespace for one in told.values() if closed[one.namespace] and not one.deleted}
    kept = (
        sa.select(models.c.namespace)
        .distinct()
        .join_from(models, namespaces, namespaces.c.name == models.c.namespace)
        .where(models.c.endpoint == endpoint, namespaces.c.closed_at.is_not(None))
    )
    return tuple(sorted(shut.union(connection.execute(kept).scalars())))[:MAX_CLOSED]


def of_account(connection: sa.Connection, namespace: str) -> tuple[ListedModel, ...]:
    """The models of an account, by name, the latest version first."""
    order = (models.c.name, models.c.version.desc(), models.c.endpoint)
    rows = connection.execute(sa.select(models).where(models.c.namespace == namespace).order_by(*order))
    return tuple(_listed(row) for row in rows)


def _columns(one: ModelListing, instance: str, now: int) -> dict[str, Any]:
    return {
        "instance": instance,
        "bytes": one.bytes,
        "state": one.state,
        "inputs": msgspec.json.encode(one.inputs).decode(),
        "outputs": msgspec.json.encode(one.outputs).decode(),
        "visibility": one.visibility,
        "shared_with": " ".join(one.shared_with),
        "queries": one.queries,
        # By the clock of this end: that of an enclave is its host's.
        "used_at": None if one.unused_ms is None else max(0, now - one.unused_ms // 1000),
        "reported_at": now,
    }


def _listed(row: sa.Row[Any]) -> ListedModel:
    tensors = tuple[TensorMetadata, ...]
    return ListedModel(
        endpoint=row.endpoint,
        listing=ModelListing(
            namespace=row.namespace,
            name=row.name,
            version=row.version,
            bytes=row.bytes,
            state=row.state,
            inputs=msgspec.json.decode(row.inputs, type=tensors),
            outputs=msgspec.json.decode(row.outputs, type=tensors),
            visibility=Visibility(row.visibility),
            shared_with=tuple(row.shared_with.split()),
            queries=row.queries,
        ),
        used_at=None if row.used_at is None else datetime.fromtimestamp(row.used_at, UTC),
    )
