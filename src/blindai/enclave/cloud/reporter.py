"""Tells the control plane what was counted, and which models there are. Nothing else leaves the enclave this way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import structlog

from blindai.enclave.clock import NS_PER_MS, NS_PER_SECOND, elapsed_ns
from blindai.enclave.line import Backoff, Line
from blindai.errors import BlindAIError, PermissionDenied
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
    from collections.abc import Awaitable, Callable, Iterator

    from blindai.enclave.cloud.usage import Usage
    from blindai.enclave.line import Connection
    from blindai.enclave.models.model_version import ModelVersion
    from blindai.enclave.models.repository import Repository

# Counts are on their page a moment later; a report is one transaction of the control plane's.
_PAUSE_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 10.0

# The last report, when the enclave stops: whoever does not take it has what came before.
_LAST_SECONDS: Final = 2.0

# Of a listing: its inputs and outputs are left out where they are more. `MAX_LISTINGS` of them may not fit into one
# report, which is then cut short.
_MAX_LISTING_BYTES: Final = 32 << 10
_MAX_TENSORS: Final = 256

# For the totals, and what a report is besides: `MAX_TOTALS` of some 200 bytes.
_TOTALS_BYTES: Final = 384 << 10

_log = structlog.get_logger("blindai.enclave")
_encoder = msgspec.json.Encoder()


class _Told(NamedTuple):
    """What the control plane knows of a version, but for when it was used."""

    version: ModelVersion
    listing: ModelListing


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
        self._told: dict[tuple[str, str, int], _Told] = {}
        self._used_ns: dict[ModelVersion, tuple[int, int]] = {}
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
        listings, news = self._listings()
        silent_ns = elapsed_ns() - self._reported_ns
        if not (totals or listings or self._first or silent_ns >= SIGN_OF_LIFE_SECONDS * NS_PER_SECOND):
            return False
        report = Report(first=self._first, totals=totals, models=listings)
        try:
            await self._line.ask(REPORTS, report, Reported, seconds=_ANSWER_SECONDS)
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
        return len(totals) == MAX_TOTALS or len(listings) < self._changed

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

    def _listings(self) -> tuple[tuple[ModelListing, ...], dict[tuple[str, str, int], _Told | None]]:
        """What is to be said of models, as much of it as one report takes; and what will have been told then."""
        now = elapsed_ns()
        present = {
            (found.id.namespace, found.id.name, found.version): found for found in self._repository if not found.leased
        }
        listings: list[ModelListing] = []
        news: dict[tuple[str, str, int], _Told | None] = {}
        room = MAX_MESSAGE_BYTES - _TOTALS_BYTES
        self._changed = 0
        for key, listing, told in self._changes(present, now):
            self._changed += 1
            room -= len(_encoder.encode(listing))
            if room >= 0 and len(listings) < MAX_LISTINGS:
                listings.append(listing)
                news[key] = told
        return tuple(listings), news

    def _changes(
        self, present: dict[tuple[str, str, int], ModelVersion], now: int
    ) -> Iterator[tuple[tuple[str, str, int], ModelListing, _Told | None]]:
        for key in list(self._told):
            if key not in present:
                self._used_ns.pop(self._told[key].version, None)
                namespace, name, number = key
                yield key, ModelListing(namespace=namespace, name=name, version=number, deleted=True), None
        for key, version in present.items():
            unused_ms = self._unused_ms(version, now)
            listing = self._listing(version)
            told = self._told.get(key)
            if told is None or told.version is not version or told.listing != listing:
                yield key, msgspec.structs.replace(listing, unused_ms=unused_ms), _Told(version, listing)

    def _unused_ms(self, version: ModelVersion, now: int) -> int:
        """Since its last query, or since it was first seen here; exact to the pause between two looks."""
        queries = _queries(version)
        seen = self._used_ns.get(version)
        if seen is None or seen[0] != queries:
            seen = self._used_ns[version] = (queries, now)
        return (now - seen[1]) // NS_PER_MS

    def _listing(self, version: ModelVersion) -> ModelListing:
        who = self._repository.visibility(version.id)
        described = version.description
        listing = ModelListing(
            namespace=version.id.namespace,
            name=version.id.name,
            version=version.version,
            bytes=version.uploaded,
            state=version.state,
            inputs=tuple(spec.metadata for spec in described.inputs[:_MAX_TENSORS]),
            outputs=tuple(spec.metadata for spec in described.outputs[:_MAX_TENSORS]),
            visibility=who.visibility,
            shared_with=who.shared_with,
            queries=_queries(version),
        )
        if len(_encoder.encode(listing)) > _MAX_LISTING_BYTES:
            return msgspec.structs.replace(listing, inputs=(), outputs=())
        return listing


def _queries(version: ModelVersion) -> int:
    return version.statistics.successes + version.statistics.failures
