"""Endorsements at hand: from the cache while they are valid, from the service when they are missing or grow old.

What is newly fetched replaces what was kept only if all of it together verifies; otherwise the old is used to its end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from blindai.attestation.anchors import AMD_TEES, INTEL_TEES
from blindai.attestation.collateral import amd, intel
from blindai.attestation.collateral.cache import Cache, Log, default_directory, log_plainly
from blindai.attestation.collateral.document import Document, Entry, Kind, read
from blindai.attestation.collateral.fetch import PATIENCE_SECONDS, Fetcher, HttpFetcher
from blindai.attestation.collateral.plan import Endorsements, Plan
from blindai.attestation.collateral.service import Services
from blindai.attestation.evidence import TEE, Evidence
from blindai.errors import AttestationError, Unavailable

# Revocations and new TCB levels should reach relying parties within a day, long before the old lists end.
REFRESH_AFTER = timedelta(days=1)

# A certificate does not change; it is fetched again only where it nears its end. So is a list that is shorter-lived
# than expected: in the last quarter of its validity.
LAST_PART = 4
LONGEST_LEAD = timedelta(days=7)

_CHANGING = frozenset({Kind.SIGNED, Kind.CRL})


class Library:
    """Endorsements for the platforms of this machine, or of the enclaves that a relying party talks to.

    Safe to use from several threads: of those who miss the same documents, one asks, and the others wait for it.

    Args:
        cache: what is at hand.
        fetcher: asks for what is not; None means that nothing is asked for (offline).
        services: where it asks.
        clock: the time, UTC.
        log: where it says what it could not renew.
    """

    def __init__(
        self,
        cache: Cache,
        fetcher: Fetcher | None,
        services: Services,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        log: Log = log_plainly,
    ) -> None:
        self._cache = cache
        self._fetcher = fetcher
        self._services = services
        self._clock = clock
        self._log = log
        self._lock = threading.Lock()

    @classmethod
    def open(cls, tee: TEE, *, url: str | None = None, directory: Path | None = None, log: Log = log_plainly) -> Self:
        """As the command line means it.

        Args:
            tee: whose endorsements.
            url: the service, in place of Intel's or AMD's own (`--collateral-url`).
            directory: where endorsements are kept (`--collateral-dir`). Given without `url`, it holds all that there
                is: nothing is asked for.
            log: as for `Library`.

        Raises:
            ConfigurationError: `collateral.url`.
        """
        services = Services() if url is None else Services.at(url, tee)
        offline = directory is not None and url is None
        cache = Cache(directory or default_directory(), log=log)
        return cls(cache, None if offline else HttpFetcher(), services, log=log)

    def endorse(
        self, evidence: Evidence, *, refresh: bool = False, patience: float = PATIENCE_SECONDS
    ) -> Endorsements | None:
        """The endorsements of the platform that made `evidence`; None where its TEE knows none.

        Args:
            evidence: bare, or with endorsements in part; those of an SEV-SNP host are completed.
            refresh: ask for newer ones where those at hand grow old. Failing at that is logged, and no error.
            patience: seconds to wait where a service asks for patience.

        Raises:
            Unavailable: `collateral.missing`; the message says what, where it was asked for and what came of it.
            AttestationError: the quote cannot be parsed.
        """
        plans = self._plans(evidence)
        failed: Unavailable | None = None
        with self._lock:
            for plan in plans:
                try:
                    return self._carry_out(plan, refresh=refresh, patience=patience)
                except Unavailable as error:
                    failed = failed or error
        if failed is not None:
            raise failed
        return None

    def _plans(self, evidence: Evidence) -> tuple[Plan, ...]:
        if evidence.tee in INTEL_TEES:
            return (intel.plan(evidence, self._services),)
        if evidence.tee in AMD_TEES:
            return amd.plans(evidence, self._services)
        return ()

    def _carry_out(self, plan: Plan, *, refresh: bool, patience: float) -> Endorsements:
        now = self._clock()
        loaded = {document: self._cache.load(document, now) for document in plan.documents}
        kept = {document: entry for document, entry in loaded.items() if entry is not None}
        usable, damage = self._assembled(plan, kept) if len(kept) == len(loaded) else (None, None)
        if damage is not None:
            if self._fetcher is None:
                raise _missing(plan, [(document, damage) for document in kept], offline=True)
            kept = {}
        old = [document for document, entry in kept.items() if is_old(entry, document, now)]
        if usable is not None and not (refresh and old and self._fetcher is not None):
            return usable
        missing = [document for document in plan.documents if document not in kept]
        fetched, failures = self._fetch([*missing, *old], patience=patience)
        needed = [(document, error) for document, error in failures.items() if document in missing]
        if needed:
            raise _missing(plan, needed, offline=self._fetcher is None)
        for document, error in failures.items():
            until = kept[document].window.not_after
            self._log("collateral_not_refreshed", document=document.name, error=error.message, valid_until=_text(until))
        entries = {document.name: entry for document, entry in (kept | fetched).items()}
        try:
            renewed = plan.assemble(entries)
        except AttestationError as error:
            why = _refused("what came", error)
            if usable is None:
                raise _missing(plan, [(document, why) for document in fetched], offline=False) from error
            self._log("collateral_not_refreshed", error=why.message, valid_until=_text(usable.not_after))
            return usable
        for document, entry in fetched.items():
            self._cache.store(document, entry)
        return renewed

    def _assembled(
        self, plan: Plan, kept: dict[Document, Entry]
    ) -> tuple[Endorsements, None] | tuple[None, Unavailable]:
        """What is at hand, put together, or why it does not verify. Which file is to blame cannot be told."""
        try:
            return plan.assemble({document.name: entry for document, entry in kept.items()}), None
        except AttestationError as error:
            damage = _refused("what is kept", error)
            self._log("collateral_refused", error=damage.message, documents=[document.name for document in kept])
            return None, damage

    def _fetch(
        self, documents: Iterable[Document], *, patience: float
    ) -> tuple[dict[Document, Entry], dict[Document, Unavailable]]:
        fetched: dict[Document, Entry] = {}
        failures: dict[Document, Unavailable] = {}
        for document in documents:
            try:
                fetched[document] = self._fetch_one(document, patience)
            except Unavailable as error:
                failures[document] = error
        return fetched, failures

    def _fetch_one(self, document: Document, patience: float) -> Entry:
        if self._fetcher is None:
            where = "memory" if self._cache.directory is None else str(self._cache.directory / document.name)
            raise Unavailable(f"it is not in {where}, or not valid now", code="collateral.offline")
        if not document.url:
            raise Unavailable("no service hands it out; the host should", code="collateral.no_service")
        answer = self._fetcher.get(document.url, patience=patience)
        chain = next((answer.headers[name] for name in document.chain_headers if name in answer.headers), "")
        now = self._clock()
        entry = read(document, answer.body, chain=chain, fetched_at=now)
        if not entry.window.not_before <= now <= entry.window.not_after:
            raise Unavailable(
                f"what came is valid from {_text(entry.window.not_before)} to {_text(entry.window.not_after)};"
                f" the time here is {_text(now)}",
                code="collateral.expired",
            )
        return entry


def complete(evidence: Evidence, library: Library) -> Evidence:
    """`evidence` with the endorsements that its TEE needs, where it came without.

    Raises:
        Unavailable: `collateral.missing`.
        AttestationError: the quote cannot be parsed.
    """
    if is_complete(evidence):
        return evidence
    endorsements = library.endorse(evidence)
    return evidence if endorsements is None else endorsements.beside(evidence)


def is_complete(evidence: Evidence) -> bool:
    """Whether all endorsements that its TEE knows stand beside it, whatever they are worth."""
    if evidence.tee in INTEL_TEES:
        return evidence.intel_collateral is not None
    if evidence.tee in AMD_TEES:
        given = evidence.amd
        return given is not None and bool(given.authority and given.root and given.crl)
    return True


def is_old(entry: Entry, document: Document, now: datetime) -> bool:
    """Whether a newer one should be asked for, although this one is still valid."""
    window = entry.window
    lead = min((window.not_after - window.not_before) / LAST_PART, LONGEST_LEAD)
    return now >= window.not_after - lead or (document.kind in _CHANGING and now >= entry.fetched_at + REFRESH_AFTER)


def _missing(plan: Plan, failures: list[tuple[Document, Unavailable]], *, offline: bool) -> Unavailable:
    lines = "".join(
        f"\n  {document.what}"
        + (f"\n    asked  {document.url}" if document.url and not offline else "")
        + f"\n    got    {error.message} [{error.code}]"
        for document, error in failures
    )
    names = ", ".join(document.name for document, _ in failures)
    return Unavailable(
        f"endorsements of {plan.platform} are missing, without which nobody can verify its evidence:{lines}",
        code="collateral.missing",
        hint=(
            f"put {names} into the folder, or let the service be asked: --collateral-url"
            if offline
            else "let this machine reach the service, name another with --collateral-url,"
            f" or give a folder that holds {names}: --collateral-dir"
        ),
    )


def _refused(what: str, error: AttestationError) -> Unavailable:
    return Unavailable(f"{what} does not verify: {error.message} ({error.code})", code="collateral.refused")


def _text(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
