"""What enclaves ask and report, and what people see of it. Each method is one transaction, and may be repeated."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from blindai.cloud.fleet import assertions, instances, models, usage
from blindai.cloud.fleet.instances import InstanceView
from blindai.errors import Unavailable
from blindai.web.database import retrying
from blindai.wire.cloud import (
    AuthorisationAnswer,
    AuthorisationRequest,
    Refused,
    Report,
    Reported,
    SignedAssertion,
)
from blindai.wire.cloud_api import Directory, Endpoint, ListedModel, UsageReport

if TYPE_CHECKING:
    from blindai.channel.receiving import Caller
    from blindai.web.database import Database

Clock = Callable[[], float]

# Endpoints that a directory names. A cloud with more of them has more than one control plane.
MAX_ENDPOINTS: Final = 1_000


class Fleet:
    """The enclaves of a cloud. Thread-safe.

    Args:
        sign: with the control plane's key (Ed25519).
        public_key: of the same key; the measured configuration of an enclave must name it.
        clock: wall clock, in seconds since 1970.
    """

    def __init__(
        self, database: Database, sign: Callable[[bytes], bytes], *, public_key: str, clock: Clock = time.time
    ) -> None:
        self._database = database
        self._sign = sign
        self._public_key = public_key
        self._clock = clock

    @retrying
    def admit(self, caller: Caller) -> None:
        """Note that an enclave has attested itself on a connection.

        Raises:
            PermissionDenied: `fleet.config`, `fleet.attestation`.
            Unavailable: as `Database.write`.
        """
        now = self._now()
        with self._database.write() as connection:
            instances.admit(connection, caller, public_key=self._public_key, now=now)
            usage.forget(connection, now)

    @retrying
    def authorise(self, instance: str, asked: AuthorisationRequest) -> AuthorisationAnswer:
        """Say of each key that an enclave asks about who holds it; what was decided before the question is in it.

        Keys that do not exist, were revoked, have expired, or belong to an account that was closed are refused alike.

        Raises:
            PermissionDenied: `fleet.instance`.
            Unavailable: as `Database.read`.
        """
        now = self._clock()
        with self._database.read() as connection:
            last_seen = instances.require_admitted(connection, instance)
            found = assertions.find(connection, instance, asked, now=now)
        # Seldom, and no answer rests on it: most questions only read, and wait for nobody.
        if found.unmarked or last_seen <= now - instances.TOUCH_SECONDS:
            with suppress(Unavailable), self._database.write() as connection:
                assertions.mark_used(connection, found.unmarked, now=int(now))
                instances.touch(connection, instance, int(now))
        return AuthorisationAnswer(
            assertions=tuple(SignedAssertion(one, self._sign(one.message).hex()) for one in found.assertions),
            refused=tuple(Refused(key=digest) for digest in found.refused),
        )

    @retrying
    def report(self, instance: str, told: Report) -> Reported:
        """Take what an enclave counted and which models it has; a report that comes again changes nothing.

        Models of an instance in whose place another serves the endpoint are not taken any more; its counts are.

        Raises:
            PermissionDenied: `fleet.instance`.
            InvalidInput: `fleet.totals`; nothing of the report is kept.
            Unavailable: as `Database.write`.
        """
        now = self._now()
        with self._database.write() as connection:
            row = instances.lock(connection, instance, endpoint=told.first)
            usage.add(connection, instance, told.totals, now=now)
            serves = row.current
            if told.first:
                instances.take_endpoint(connection, instance, row.endpoint)
                models.forget(connection, row.endpoint)
                serves = True
            closed: tuple[str, ...] = ()
            if serves:
                closed = models.list_(connection, instance, row.endpoint, told.models, now=now)
            instances.touch(connection, instance, now)
        return Reported(closed)

    @retrying
    def directory(self, name: str) -> Directory:
        """The endpoints of the cloud, which is called `name`."""
        with self._database.read() as connection:
            found = instances.present(connection, self._now())
        return Directory(
            name=name, endpoints=tuple(Endpoint(address, simulated) for address, simulated in found[:MAX_ENDPOINTS])
        )

    @retrying
    def models(self, namespace: str) -> tuple[ListedModel, ...]:
        """The models of an account, by name, the latest version first."""
        with self._database.read() as connection:
            return models.of_account(connection, namespace)

    @retrying
    def usage(self, namespace: str) -> UsageReport:
        """What an account uses and may use.

        Raises:
            InvalidInput: `account.unknown`.
        """
        with self._database.read() as connection:
            return usage.report(connection, namespace, now=self._now())

    @retrying
    def instances(self) -> tuple[InstanceView, ...]:
        """The enclaves that have attested themselves: those that serve first, of the others the latest first."""
        with self._database.read() as connection:
            return instances.views(connection, self._now())

    def _now(self) -> int:
        return int(self._clock())
