"""Everything that an enclave needs to be one of a cloud, put together from the configuration."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blindai.channel.calling import call
from blindai.enclave.clock import elapsed_ns
from blindai.enclave.cloud.access import Access, Need, Rule
from blindai.enclave.cloud.assertions import AssertionReader
from blindai.enclave.cloud.authoriser import Authoriser, down
from blindai.enclave.cloud.principal import Principal, anonymous
from blindai.enclave.cloud.queries import Queries, introduced
from blindai.enclave.cloud.quotas import Limited
from blindai.enclave.cloud.reporter import Reporter
from blindai.enclave.cloud.usage import Usage
from blindai.wire.cloud import AUDIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from blindai.channel.calling import CallingEnd
    from blindai.enclave.config import Cloud
    from blindai.enclave.http.exchange import Headers
    from blindai.enclave.models.model_id import ModelId
    from blindai.enclave.models.repository import Repository
    from blindai.enclave.running.inference import Inference
    from blindai.errors import BlindAIError
    from blindai.wire.cloud import Quotas

# For a connection with evidence, and each read and write on it: longer, and the assertions of keys in use run out.
_OPENING_SECONDS: Final = 5.0
_LINE_SECONDS: Final = 10.0


class Membership:
    """One enclave's part in a cloud.

    Args:
        cloud: of the measured configuration.
        end: attests the calls to the control plane.
        repository, inference: what is asked for.
        refused: told of every query that is refused after its head was read.

    Attributes:
        access: decides.
        queries: the way of queries.
    """

    def __init__(
        self,
        cloud: Cloud,
        end: CallingEnd,
        repository: Repository,
        inference: Inference,
        *,
        refused: Callable[[BlindAIError], None],
    ) -> None:
        public_key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(cloud.public_key))
        connect = partial(
            call,
            end,
            cloud.host,
            cloud.port,
            custodian=public_key,
            audience=AUDIENCE,
            opening_seconds=_OPENING_SECONDS,
            seconds=_LINE_SECONDS,
        )
        self._usage = Usage(cloud.anonymous_per_minute)
        self._authoriser = Authoriser(connect, AssertionReader(public_key, end.instance), self._usage)
        self._reporter = Reporter(connect, self._usage, repository)
        self.access = Access(repository.visibility)
        self.queries = Queries(
            self._authoriser,
            anonymous(self._usage.anonymous) if cloud.anonymous_per_minute else None,
            self.access,
            self._usage,
            repository=repository,
            inference=inference,
            refused=refused,
        )

    def start(self) -> None:
        """Begin. On the event loop."""
        self._authoriser.start()
        self._reporter.start()

    async def close(self) -> None:
        """End, with a last report."""
        await self._authoriser.close()
        await self._reporter.close()

    async def admit(self, rule: Rule, headers: Headers, model_id: ModelId | None) -> Principal | None:
        """Who makes a request that is no query, if they may and have not made too many; None where nobody cares.

        Raises:
            AuthenticationError, PermissionDenied, ModelNotFound: as `Queries.handler` and `Access.check`.
            QuotaExceeded: `authentication.rate`, `quota.requests_per_minute`.
            Unavailable: `unavailable.cloud`, `busy`.
        """
        if rule.need is Need.NOTHING:
            return None
        caller = self.queries.caller(headers)
        if isinstance(caller, asyncio.Future):
            caller = await introduced(caller)
        now = elapsed_ns()
        if now >= caller.until_ns:
            raise down()
        self.access.check(rule, caller, model_id)
        self._usage.touched.add(caller.count)
        try:
            caller.account.take_request(now)
        except Limited:
            caller.count.limited += 1
            raise
        return caller

    def uploaded(self, caller: Principal) -> None:
        """Count a model that was stored."""
        caller.count.uploads += 1
        self._usage.touched.add(caller.count)

    def deleted(self, caller: Principal) -> None:
        """Count a deletion."""
        caller.count.deletions += 1
        self._usage.touched.add(caller.count)


def quotas_of(caller: Principal | None) -> Quotas | None:
    """What holds for uploads of `caller`; None outside of a cloud."""
    return None if caller is None else caller.account.quotas
