"""An attester that puts endorsements beside bare evidence, and renews them while the server goes on serving."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Self

from cryptography import x509

from blindai.attestation.anchors import AMD_TEES
from blindai.attestation.attesters.attester import Attester
from blindai.attestation.collateral import amd
from blindai.attestation.collateral.cache import Log, log_plainly
from blindai.attestation.collateral.intel import quote_of
from blindai.attestation.collateral.library import Library, is_complete
from blindai.attestation.collateral.plan import Endorsements
from blindai.attestation.evidence import REPORT_DATA_BYTES, TEE, Evidence
from blindai.attestation.verifiers.intel_quote import parse
from blindai.errors import BlindAIError

# How often the age of what is at hand is looked at; what is fetched is decided in `library.is_old`.
CHECK_SECONDS = 3600.0
RETRY_SECONDS = 300.0  # after a failure
SHORTEST_SECONDS = 60.0

# Spreads load, and hides nothing. Of its own: what others draw from the generator of all can be repeated by a seed.
_jitter = random.Random()  # noqa: S311  # as said above


class StaplingAttester:
    """Wraps an attester whose evidence comes bare, or with endorsements in part.

    Endorsements are held in memory for the platform that made the last evidence. A platform whose firmware is updated
    while it runs is another one: its endorsements are fetched when it first attests.

    Args:
        attester: makes the evidence.
        library: gives the endorsements.
        clock: the time, UTC.
        log: where it says what it could not renew.
        pause: waits a number of seconds, or until an event is set; returns whether it is.
    """

    quick = False  # for a platform that is new, a service is asked

    def __init__(
        self,
        attester: Attester,
        library: Library,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        log: Log = log_plainly,
        pause: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._attester = attester
        self._library = library
        self._clock = clock
        self._log = log
        self._pause = pause
        self._endorsements: Endorsements | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def tee(self) -> TEE:
        return self._attester.tee

    @property
    def simulated(self) -> bool:
        return self._attester.simulated

    def attest(self, report_data: bytes) -> Evidence:
        """Have `report_data`, 64 bytes, signed, with endorsements beside it. See `Attester.attest`.

        Raises:
            Unavailable: `collateral.missing`, and what the attester raises.
        """
        evidence = self._attester.attest(report_data)
        if self._is_whole(evidence):
            return evidence
        held = self._endorsements
        if held is None or held.subject != _subject(evidence) or self._clock() > held.not_after:
            # The relying party waits: one attempt. The background has more patience.
            held = self._endorsements = self._library.endorse(evidence, patience=0)
        return evidence if held is None else held.beside(evidence)

    def prepare(self) -> datetime | None:
        """Get the endorsements of this platform before anybody asks for evidence.

        Returns:
            Until when they are valid, UTC; None where none are needed.

        Raises:
            Unavailable: `collateral.missing`; the server should not start.
        """
        return self._renew(refresh=False)

    def refresh(self) -> bool:
        """Renew what grows old. Whether it worked; if not, what is held is used to its end, and the log says so."""
        try:
            self._renew(refresh=True)
        except BlindAIError as error:
            held = self._endorsements
            self._log(
                "collateral_not_refreshed",
                error=error.message,
                code=error.code,
                valid_until="" if held is None else f"{held.not_after.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            )
            return False
        return True

    def start(self) -> Self:
        """Prepare, then keep renewing in the background until `close`.

        Raises:
            Unavailable: see `prepare`.
        """
        if self.prepare() is not None:
            self._thread = threading.Thread(target=self._run, name="blindai-collateral", daemon=True)
            self._thread.start()
        return self

    def close(self) -> None:
        """End the renewing. What is held is still put beside evidence."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_whole(self, evidence: Evidence) -> bool:
        """Whether nothing has to be added; a list that the host gave once may be over."""
        given = evidence.amd.crl if evidence.amd is not None else None
        return is_complete(evidence) and (given is None or self._clock() < _next_update(given))

    def _renew(self, *, refresh: bool) -> datetime | None:
        # This quote goes nowhere. No statement hashes to zeros.
        evidence = self._attester.attest(bytes(REPORT_DATA_BYTES))
        endorsements = None if self._is_whole(evidence) else self._library.endorse(evidence, refresh=refresh)
        if endorsements is None:
            return None
        self._endorsements = endorsements
        return endorsements.not_after

    def _run(self) -> None:
        worked = True
        while not self._pause(self._stopped, self._delay(worked=worked)):
            worked = self.refresh()

    def _delay(self, *, worked: bool) -> float:
        """Seconds until the next look: a part of the time that is left, less than an hour, not the same everywhere."""
        delay = CHECK_SECONDS if worked else RETRY_SECONDS
        held = self._endorsements
        if held is not None:
            delay = min(delay, (held.not_after - self._clock()).total_seconds() / 4)
        return max(SHORTEST_SECONDS, delay) * _jitter.uniform(0.75, 1.0)


@lru_cache(1)
def _next_update(crl: bytes) -> datetime:
    """The end of a revocation list; of what is none, the beginning of time."""
    beginning = datetime.min.replace(tzinfo=UTC)
    try:
        return x509.load_der_x509_crl(crl).next_update_utc or beginning
    except ValueError:
        return beginning


def _subject(evidence: Evidence) -> tuple[object, ...]:
    """What tells platforms apart, as the plans do."""
    if evidence.tee in AMD_TEES:
        return amd.subject(evidence)
    quote = parse(quote_of(evidence))
    return (quote.tee, quote.pck_chain)
