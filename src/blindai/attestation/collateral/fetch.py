"""Ask a service over HTTP: small answers, in bounded time, and no more often than it bears.

What a service answers is signed by Intel or AMD and not believed for having come over TLS. AMD's KDS answers 429 to
whoever asks often (KDS interface specification 57230, section 4), and holds a client off for a while; so every
address is left alone for some seconds after each request, and for longer each time it fails.

Sources: RFC 9110, sections 10.2.3 (Retry-After) and 15; RFC 6585, section 4 (429).
"""

from __future__ import annotations

import email.utils
import http.client
import random
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from blindai.attestation.collateral.document import MAX_DOCUMENT_BYTES
from blindai.errors import Unavailable, harmless

# A relying party waits ten seconds for evidence (`channel.gated.GATE_SECONDS`), in which endorsements must fit.
TIMEOUT_SECONDS = 5.0

MIN_INTERVAL_SECONDS = 10.0  # between two requests for one address
FIRST_BACKOFF_SECONDS = 2.0
MAX_BACKOFF_SECONDS = 15 * 60.0
MAX_HOLD_SECONDS = 24 * 3600.0  # no service may silence us for longer
ATTEMPTS = 3

# How long a start waits for a service that asks for patience, all in all per document.
PATIENCE_SECONDS = 30.0

_CHUNK_BYTES = 1 << 14
_TOO_MANY_REQUESTS = 429
_GATEWAY_ERRORS = frozenset({408, 500, 502, 503, 504})


class Answer(msgspec.Struct, frozen=True):
    """The body, and the headers by lower-case name, URL-decoded."""

    body: bytes
    headers: dict[str, str]


class Fetcher(Protocol):
    """Asks for one address."""

    def get(self, url: str, *, patience: float = PATIENCE_SECONDS) -> Answer:
        """Ask, and ask again where that may help.

        Args:
            url: `https` or `http`.
            patience: how many seconds it may wait between attempts, all in all; 0 for one attempt, now.

        Raises:
            Unavailable: `collateral.unreachable`, `collateral.status`, `collateral.rate_limited`,
                `collateral.too_large`, `collateral.truncated`.
        """


class _Retry(Exception):
    """It may help to ask again; `after` is what the service said, in seconds."""

    def __init__(self, error: Unavailable, after: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.after = after


class HttpFetcher:
    """Asks over HTTP. Proxies are taken from the environment; redirections are not followed.

    Args:
        timeout: seconds for one request.
        clock: the time, UTC.
        sleep: waits for a number of seconds.
        jitter: a number from 0 to 1, so that many servers that failed together do not come back together.
    """

    def __init__(
        self,
        *,
        timeout: float = TIMEOUT_SECONDS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] | None = None,
    ) -> None:
        self._timeout = timeout
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter or random.Random().random  # noqa: S311  # spreads load; see `stapling`
        self._opener = _opener()
        self._lock = threading.Lock()
        self._held_until: dict[str, datetime] = {}  # by address, and by host for those who said to wait
        self._failures: dict[str, int] = {}

    def get(self, url: str, *, patience: float = PATIENCE_SECONDS) -> Answer:
        """Ask for one address. See `Fetcher.get`."""
        left = patience
        for last in (False,) * (ATTEMPTS - 1) + (True,):
            wait = self._seconds_held(url)
            if wait > left:
                raise Unavailable(
                    f"{_host(url)} is left alone for another {wait:.0f} seconds, as it asked or because it failed",
                    code="collateral.rate_limited",
                )
            if wait > 0:
                self._sleep(wait)
                left -= wait
            try:
                answer = self._ask(url)
            except _Retry as retry:
                self._hold(url, retry.after)
                if last or patience <= 0:
                    raise retry.error from retry
            except Unavailable:
                self._hold(url, None)
                raise
            else:
                self._release(url)
                return answer
        raise AssertionError("the last attempt returns or raises")

    def _ask(self, url: str) -> Answer:
        # HttpFetcher is only given addresses of `Services`, which are http or https.
        request = urllib.request.Request(url, headers={"User-Agent": "blindai"})  # noqa: S310  # as said above
        deadline = time.monotonic() + self._timeout
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                headers = {name.lower(): unquote(value) for name, value in response.headers.items()}
                return Answer(self._body(url, response, deadline), headers)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(url, error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise _Retry(
                Unavailable(f"{_host(url)} cannot be reached: {harmless(str(reason))}", code="collateral.unreachable")
            ) from error

    def _body(self, url: str, response: http.client.HTTPResponse, deadline: float) -> bytes:
        body = bytearray()
        while chunk := response.read1(_CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_DOCUMENT_BYTES:
                raise Unavailable(
                    f"{_host(url)} answers with more than {MAX_DOCUMENT_BYTES} bytes", code="collateral.too_large"
                )
            if time.monotonic() > deadline:
                raise TimeoutError("the answer takes too long")
        announced = response.headers.get("Content-Length", "")
        if announced.isdigit() and int(announced) != len(body):  # http.client does not tell
            raise _Retry(Unavailable(f"the answer of {_host(url)} breaks off", code="collateral.truncated"))
        return bytes(body)

    def _refusal(self, url: str, error: urllib.error.HTTPError) -> Exception:
        told = f"{_host(url)} answers {error.code} {harmless(error.reason)}"
        after = _retry_after(error.headers.get("Retry-After"), self._clock())
        if error.code == _TOO_MANY_REQUESTS:
            return _Retry(Unavailable(told, code="collateral.rate_limited"), after)
        refused = Unavailable(told, code="collateral.status")
        return _Retry(refused, after) if error.code in _GATEWAY_ERRORS else refused

    def _seconds_held(self, url: str) -> float:
        now = self._clock()
        with self._lock:
            ends = [self._held_until.get(key, now) for key in (url, _host(url))]
        return max((end - now).total_seconds() for end in ends)

    def _hold(self, url: str, after: float | None) -> None:
        """Leave it alone: the whole host where it asked for that, else this address, twice as long each time."""
        with self._lock:
            failures = self._failures[url] = self._failures.get(url, 0) + 1
            if after is None:
                longest = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(failures - 1, 16))
                seconds, key = longest * (1 + self._jitter()) / 2, url
            else:
                seconds, key = after, _host(url)
            self._held_until[key] = self._clock() + timedelta(seconds=min(seconds, MAX_HOLD_SECONDS))

    def _release(self, url: str) -> None:
        with self._lock:
            self._failures.pop(url, None)
            self._held_until[url] = self._clock() + timedelta(seconds=MIN_INTERVAL_SECONDS)


def _opener() -> urllib.request.OpenerDirector:
    """Only HTTP: the default opener also reads files, and follows a redirection from https to http."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds, from seconds or from a date (RFC 9110, section 10.2.3); None where it is neither."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - now).total_seconds())


def _host(url: str) -> str:
    return urlsplit(url).netloc
