"""The models of accounts, as the enclaves that have them report them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from blindai.cloud.tables import models, namespaces
from blindai.wire.cloud import ModelListing, Visibility
from blindai.wire.cloud_api import ListedModel
from blindai.wire.metadata import TensorMetadata

if TYPE_CHECKING:
    from collections.abc import Sequence


def forget(connection: sa.Connection, endpoint: str) -> None:
    """What was said of the models of an endpoint holds no more."""
    connection.execute(sa.delete(models).where(models.c.endpoint == endpoint))


def list_(
    connection: sa.Connection, instance: str, endpoint: str, listings: Sequence[ModelListing], *, now: int
) -> None:
    """Keep what `instance`, which serves `endpoint`, says of its models; of accounts that do not exist, nothing."""
    named = sorted({one.namespace for one in listings})
    opened = sa.select(namespaces.c.name).where(namespaces.c.name.in_(named), namespaces.c.closed_at.is_(None))
    known = set(connection.execute(opened).scalars())
    # Of two listings of one version the later holds.
    for one in {(one.namespace, one.name, one.version): one for one in listings}.values():
        key = {"endpoint": endpoint, "namespace": one.namespace, "name": one.name, "version": one.version}
        connection.execute(sa.delete(models).where(*(models.c[name] == value for name, value in key.items())))
        if one.namespace in known and not one.deleted:
            connection.execute(sa.insert(models).values(**key, **_columns(one, instance, now)))


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
