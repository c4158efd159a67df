"""The way of a query in a cloud: who asks, whether they may, what it counts.

Each request is decided on its own, whatever came before it on the same connection: by the value of its own header
Authorization, when its head has come, and once more when its body has.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from blindai.enclave.clock import elapsed_ns
from blindai.enclave.cloud.access import QUERY
from blindai.enclave.cloud.authoriser import PATIENCE_SECONDS, down, no_key
from blindai.enclave.cloud.principal import Principal
from blindai.enclave.cloud.quotas import Limited
from blindai.enclave.http.exchange import KnownHeaders
from blindai.enclave.http.reply import Reply
from blindai.errors import AuthenticationError, BlindAIError

if TYPE_CHECKING:
    from collections.abc import Callable

    from blindai.enclave.cloud.access import Access
    from blindai.enclave.cloud.authoriser import Authoriser
    from blindai.enclave.cloud.usage import Usage
    from blindai.enclave.http.exchange import Handler, Headers
    from blindai.enclave.models.model_id import ModelId
    from blindai.enclave.models.model_version import ModelVersion
    from blindai.enclave.models.repository import Repository
    from blindai.enclave.running.inference import Inference
    from blindai.wire.tensor import Buffer

AUTHORIZATION: Final = b"authorization"


class Query:
    """Answers queries of one caller for one version of a model. As `exchange.Handler`.

    Args:
        queries: decides again where something has changed.
        caller: who asks.
        version: what runs.
        asked: the name and number that were asked for.
    """

    __slots__ = ("_asked", "_generation", "_queries", "caller", "version")

    def __init__(
        self, queries: Queries, caller: Principal, version: ModelVersion, asked: tuple[ModelId, int | None]
    ) -> None:
        self._queries = queries
        self.caller = caller
        self.version = version
        self._asked = asked
        self._generation = queries.repository.generation

    @property
    def current(self) -> bool:
        """Whether no model, and nobody's right to one, has changed since this was decided."""
        return self._generation == self._queries.repository.generation

    def __call__(self, headers: Headers, body: Buffer) -> Reply | asyncio.Future[Reply]:
        """Run the model.

        Raises:
            BlindAIError: as `Queries.handler` and `Inference.infer`. The future raises these, too.
        """
        caller, queries = self.caller, self._queries
        now = elapsed_ns()
        if now >= caller.until_ns:
            return queries.later(queries.renewed(caller), *self._asked, headers, body)
        if self._generation != queries.repository.generation:
            try:
                self = queries.permitted(caller, *self._asked)  # noqa: PLW0642 - the same query, decided now
            except BlindAIError as error:
                queries.refused(error)
                raise
        caller.used = True
        count = caller.count
        queries.usage.touched.add(count)
        try:
            caller.account.take_query(now)
        except Limited as error:
            count.limited += 1
            queries.refused(error)
            raise
        count.queries += 1
        try:
            answer = queries.inference.infer(self.version, headers, body)
        except BaseException:
            count.failed += 1
            raise
        if isinstance(answer, asyncio.Future):
            answer.add_done_callback(partial(_ended, queries.usage, caller))
        return answer


class Queries:
    """Makes the handlers of queries.

    Args:
        authoriser: knows callers with a key.
        anonymous: those without one; None where none may come.
        access: decides.
        usage: where queries are counted.
        repository: the models.
        inference: runs them.
        refused: told of every query that is refused here after its head was read.
    """

    def __init__(
        self,
        authoriser: Authoriser,
        anonymous: Principal | None,
        access: Access,
        usage: Usage,
        *,
        repository: Repository,
        inference: Inference,
        refused: Callable[[BlindAIError], None],
    ) -> None:
        self.usage = usage
        self.repository = repository
        self.inference = inference
        self.refused = refused
        self._authoriser = authoriser
        self._callers = authoriser.callers
        self._anonymous = anonymous
        self._access = access

    def known(self, path: bytes, headers: Headers) -> Query | None:
        """What answers a query that was permitted before, where nothing has changed since; see `handler` otherwise.

        Raises:
            AuthenticationError: `authentication.key_format`, there is more than one header Authorization.
        """
        header = headers.authorization if isinstance(headers, KnownHeaders) else authorization(headers)
        caller = self._anonymous if header is None else self._callers.get(header)
        query = None if caller is None else caller.queries.get(path)
        return query if query is not None and query.current else None

    def handler(self, model_id: ModelId, number: int | None, headers: Headers, path: bytes | None = None) -> Handler:
        """What answers a query.

        Args:
            model_id, number: of the model; the newest version, where no number is given.
            headers: the request's.
            path: under which `known` is to find it.

        Raises:
            AuthenticationError: `authentication.*`.
            PermissionDenied: `permission.scope`.
            ModelNotFound: `model.not_found`.
            QuotaExceeded: `authentication.rate`.
            Unavailable: `unavailable.cloud`, `busy`.
        """
        caller = self.caller(headers)
        if isinstance(caller, asyncio.Future):
            return partial(self.later, caller, model_id, number)
        query = self.permitted(caller, model_id, number)
        if path is not None:
            caller.remember(path, query)
        return query

    def caller(self, headers: Headers) -> Principal | asyncio.Future[Principal]:
        """Who asks; in a while, where the control plane must be asked.

        Raises:
            AuthenticationError, QuotaExceeded, Unavailable: as `Authoriser.caller`; `authentication.required`.
        """
        header = authorization(headers)
        if header is not None:
            return self._authoriser.caller(header)
        if self._anonymous is None:
            raise AuthenticationError(
                "this enclave takes no request without an API key", code="authentication.required"
            )
        return self._anonymous

    def renewed(self, caller: Principal) -> Principal | asyncio.Future[Principal]:
        """As `caller`, for one whose assertion has run out.

        Raises:
            AuthenticationError, QuotaExceeded, Unavailable: as `Authoriser.caller`.
        """
        try:
            return self._authoriser.renewed(caller)
        except BlindAIError as error:
            self.refused(error)
            raise

    def permitted(self, caller: Principal, model_id: ModelId, number: int | None) -> Query:
        """The query, if `caller` may make it.

        Raises:
            PermissionDenied, ModelNotFound: as `Access.check`; `model.not_found`.
        """
        self._access.check(QUERY, caller, model_id)
        return Query(self, caller, self.repository.resolve(model_id, number), (model_id, number))

    def later(
        self,
        caller: Principal | asyncio.Future[Principal],
        model_id: ModelId,
        number: int | None,
        headers: Headers,
        body: Buffer,
    ) -> asyncio.Future[Reply]:
        """Answer a query when it is known who asks."""
        return asyncio.get_running_loop().create_task(self._answered(caller, model_id, number, headers, body))

    async def _answered(
        self,
        caller: Principal | asyncio.Future[Principal],
        model_id: ModelId,
        number: int | None,
        headers: Headers,
        body: Buffer,
    ) -> Reply:
        try:
            known = caller if isinstance(caller, Principal) else await introduced(caller)
            if elapsed_ns() >= known.until_ns:
                raise down()
            query = self.permitted(known, model_id, number)
        except BlindAIError as error:
            self.refused(error)
            raise
        answer = query(headers, body)
        return await answer if isinstance(answer, asyncio.Future) else answer


def authorization(headers: Headers) -> bytes | None:
    """The value of the header Authorization; None where there is none.

    Raises:
        AuthenticationError: `authentication.key_format`, there are more.
    """
    found: bytes | None = None
    for name, value in headers:
        if name == AUTHORIZATION:
            if found is not None:
                raise no_key()
            found = value
    return found


async def introduced(caller: asyncio.Future[Principal]) -> Principal:
    """Who asks, when the control plane has said so.

    Raises:
        AuthenticationError: `authentication.key`.
        Unavailable: `unavailable.cloud`, `busy`, `stopping`.
    """
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await asyncio.shield(caller)
    except TimeoutError:
        raise down() from None


def _ended(usage: Usage, caller: Principal, answer: asyncio.Future[Reply]) -> None:
    if not answer.cancelled() and answer.exception() is not None:
        caller.count.failed += 1
        usage.touched.add(caller.count)
