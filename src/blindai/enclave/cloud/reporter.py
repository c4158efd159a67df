"""Tells the control plane what was counted, and which models there are. Nothing else leaves the enclave this way."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import msgspec
import structlog

from blindai.enclave.clock import NS_PER_MS, NS_PER_SECOND, elapsed_ns
from blindai.enclave.line import Backoff, Line
from blindai.errors import BlindAIError, ModelNotFound, PermissionDenied
from blindai.wire.cloud import (
    MAX_LISTINGS,
    MAX_MESSAGE_BYTES,
    MAX_TOTALS,
    REPORTS,
    SIGN_OF_LIFE_SECONDS,
    ModelListing,
    Report,
    Reported,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from blindai.enclave.cloud.usage import Usage
    from blindai.enclave.line import Connection
    from blindai.enclave.models.model_version import ModelVersion, State
    from blindai.enclave.models.repository import Repository
    from blindai.wire.cloud import ModelVisibility

# Counts are on their page a moment later; a report is one transaction of the control plane's.
_PAUSE_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 10.0

# The last report, when the enclave stops: whoever does not take it has what came before.
_LAST_SECONDS: Final = 2.0

# Of a listing: its inputs and outputs are left out where they are more. `MAX_LISTINGS` of them may not fit into one
# report, which is then cut short.
_MAX_LISTING_BYTES: Final = 32 << 10
_MAX_TENSORS: Final = 256

# Versions that are looked at between two looks at requests: the event loop is theirs too.
_SLICE: Final = 256

# For the totals, and what a report is besides: `MAX_TOTALS` of some 200 bytes.
_TOTALS_BYTES: Final = 384 << 10

_log = structlog.get_logger("blindai.enclave")
_encoder = msgspec.json.Encoder()


_Key: TypeAlias = tuple[str, str, int]


class _Told(NamedTuple):
    """What the control plane knows of a version, of all that can change, but for when it was used."""

    version: ModelVersion
    state: State
    queries: int
    visibility: ModelVisibility


class Reporter:
    """Reports until it is closed.

    Args:
        connect: connects to the control plane and attests.
        usage: the counts.
        repository: the models.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], usage: Usage, repository: Repository) -> None:
        self._line = Line(connect, "the control plane")
        self._usage = usage
        self._repository = repository
        self._told: dict[_Key, _Told] = {}
        self._used_ns: WeakKeyDictionary[ModelVersion, tuple[int, int]] = WeakKeyDictionary()
        self._first = True
        self._reported_ns = 0
        self._fault = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. On the event loop."""
        self._task = asyncio.create_task(self._report_forever())

    async def close(self) -> None:
        """Report once more, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                while await self.report():
                    pass
        except (BlindAIError, TimeoutError) as error:
            _log.warning("last_report_lost", error=type(error).__name__)
        finally:
            self._line.cut()

    async def report(self) -> bool:
        """Report what has changed; returns whether there may be more.

        Raises:
            BlindAIError: the report was not taken; the next one has all of it.
        """
        totals = tuple(count.total for count in list(self._usage.touched)[:MAX_TOTALS])
        listings, news, more = await self._listings()
        silent_ns = elapsed_ns() - self._reported_ns
        if not (totals or listings or self._first or silent_ns >= SIGN_OF_LIFE_SECONDS * NS_PER_SECOND):
            return False
        report = Report(first=self._first, totals=totals, models=listings)
        try:
            reported = await self._line.ask(REPORTS, report, Reported, seconds=_ANSWER_SECONDS)
        except PermissionDenied:
            # It does not know this enclave any more: it hears everything anew, on a connection that is attested anew.
            self._line.cut()
            self._first = True
            self._told.clear()
            raise
        self._first = False
        self._reported_ns = elapsed_ns()
        self._usage.acknowledged(totals, elapsed_ns())
        for key, told in news.items():
            if told is None:
                self._told.pop(key, None)
            else:
                self._told[key] = told
        await self._clear(reported.closed)
        return more or bool(reported.closed) or len(totals) == MAX_TOTALS

    async def _clear(self, closed: Sequence[str]) -> None:
        """Delete the models of accounts that are no more: nobody can use them, or ask for their deletion."""
        doomed = {found.id for found in self._repository if found.id.namespace in closed and not found.leased}
        for model_id in doomed:
            with contextlib.suppress(ModelNotFound):  # deleted meanwhile
                await self._repository.delete(model_id)
        if doomed:
            _log.info("closed_accounts", accounts=len(closed), models=len(doomed))

    async def _report_forever(self) -> None:
        backoff = Backoff()
        while True:
            try:
                while await self.report():
                    pass
            except BlindAIError as error:
                if error.code != self._fault:
                    self._fault = error.code
                    _log.warning("report_not_taken", code=error.code, reason=error.message)
                await asyncio.sleep(backoff.next())
            else:
                self._fault = ""
                backoff.reset()
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _listings(self) -> tuple[tuple[ModelListing, ...], dict[_Key, _Told | None], bool]:
        """What is to be said of models, as much as one report takes; what will have been told then; whether more is."""
        listings: list[ModelListing] = []
        news: dict[_Key, _Told | None] = {}
        room = MAX_MESSAGE_BYTES - _TOTALS_BYTES
        async with contextlib.aclosing(self._changes()) as changes:
            async for key, listing, told in changes:
                room -= len(_encoder.encode(listing))
                if room < 0 or len(listings) == MAX_LISTINGS:
                    return tuple(listings), news, True
                listings.append(listing)
                news[key] = told
        return tuple(listings), news, False

    async def _changes(self) -> AsyncGenerator[tuple[_Key, ModelListing, _Told | None]]:
        now = elapsed_ns()
        present = {
            (found.id.namespace, found.id.name, found.version): found for found in self._repository if not found.leased
        }
        for key in list(self._told):
            if key not in present:
                namespace, name, number = key
                yield key, ModelListing(namespace=namespace, name=name, version=number, deleted=True), None
        for index, (key, version) in enumerate(present.items()):
            if index % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            unused_ms = self._unused_ms(version, now)
            told = _Told(version, version.state, _queries(version), self._repository.visibility(version.id))
            if told != self._told.get(key):
                yield key, _listing(told, unused_ms), told

    def _unused_ms(self, version: ModelVersion, now: int) -> int:
        """Since its last query, or since it was first seen here; exact to the pause between two looks."""
        queries = _queries(version)
        seen = self._used_ns.get(version)
        if seen is None or seen[0] != queries:
            seen = self._used_ns[version] = (queries, now)
        return (now - seen[1]) // NS_PER_MS


def _listing(told: _Told, unused_ms: int) -> ModelListing:
    version, who = told.version, told.visibility
    described = version.description
    listing = ModelListing(
        namespace=version.id.namespace,
        name=version.id.name,
        version=version.version,
        bytes=version.uploaded,
        state=told.state,
        inputs=tuple(spec.metadata for spec in described.inputs[:_MAX_TENSORS]),
        outputs=tuple(spec.metadata for spec in described.outputs[:_MAX_TENSORS]),
        visibility=who.visibility,
        shared_with=who.shared_with,
        queries=told.queries,
        unused_ms=unused_ms,
    )
    if len(_encoder.encode(listing)) > _MAX_LISTING_BYTES:
        return msgspec.structs.replace(listing, inputs=(), outputs=())
    return listing


def _queries(version: ModelVersion) -> int:
    return version.statistics.successes + version.statistics.failures
