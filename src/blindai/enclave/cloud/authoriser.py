"""The keys in force: a look-up for those in use, one question to the control plane for every other.

Three things go on side by side:

    meeting    asks about keys that were not seen before, or not lately: all that came in meanwhile in one question
    renewing   asks again about keys in use, before what is known of them is old; on a connection of its own
    expiring   forgets keys whose assertion has run out, and with them the key itself

A request with a key in force waits for none of them. What is known of a key ends `ttl_ms` after the question was asked,
by the enclave's own clock: so a key that was revoked is refused by then, whoever holds the answers back.

Somebody who tries keys costs the control plane at most one question in `_PAUSE_SECONDS`, and takes no place of a key in
use: only the control plane's word makes an entry.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from blindai.enclave.clock import NS_PER_MS, NS_PER_SECOND, elapsed_ns
from blindai.enclave.cloud.principal import Principal
from blindai.enclave.line import Backoff, Line
from blindai.errors import AuthenticationError, BlindAIError, QuotaExceeded, Unavailable
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import (
    AUTHORISATIONS,
    MAX_KEYS,
    Assertion,
    AuthorisationAnswer,
    AuthorisationRequest,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from blindai.enclave.cloud.assertions import AssertionReader
    from blindai.enclave.cloud.usage import Usage
    from blindai.enclave.line import Connection

# Keys in use at one time: sixteen questions in each round of renewing.
MAX_KEYS_IN_USE: Final = 4096

# Keys that wait for the control plane to be told apart from no keys: two questions of them.
MAX_WAITING: Final = 2 * MAX_KEYS

# Keys that were refused are remembered for so long, and so many: a client that tries again asks nobody meanwhile.
_REFUSED_NS: Final = NS_PER_SECOND
MAX_REFUSED: Final = 4096

# What is known of a key in use is asked anew when it is as old as this.
_RENEWED_NS: Final = NS_PER_SECOND

# How often the clock is looked at, for renewing and for expiring.
_TICK_SECONDS: Final = 0.2

# Between two questions about strangers.
_PAUSE_SECONDS: Final = 0.05

# Between two tries to reach a control plane that is not there. New keys are refused at once meanwhile.
_LONGEST_PAUSE_SECONDS: Final = 1.0

# For an answer, which is a look-up in a database. Assertions last twice as long.
_ANSWER_SECONDS: Final = 2.0

# How long a request waits to hear whose key it has: for a connection, and an answer.
PATIENCE_SECONDS: Final = 8.0

# Signatures that are checked on the event loop; of more it is some milliseconds, and they are checked on a thread.
_INLINE_SIGNATURES: Final = 8

_SCHEME: Final = b"bearer "
_CANONICAL_SCHEME: Final = b"Bearer "

# Of a header that is worth reading: a scheme, a key, and some space around it.
_MAX_HEADER_BYTES: Final = 128

_log = structlog.get_logger("blindai.enclave")


class _Stranger(NamedTuple):
    """A key that the control plane is to be asked about, and who waits for it."""

    known: asyncio.Future[Principal]
    header: bytes | None


class Authoriser:
    """Knows whose a key is.

    Args:
        connect: connects to the control plane and attests.
        reader: of its answers.
        usage: counts for keys.

    Attributes:
        callers: by the value of the header Authorization, those in force when they were last looked at; see
            `Principal.until_ns`. For who is in a hurry: `caller` knows all.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], reader: AssertionReader, usage: Usage) -> None:
        self.callers: dict[bytes, Principal] = {}
        self._reader = reader
        self._usage = usage
        self._meetings = Line(connect, "the control plane")
        self._renewals = Line(connect, "the control plane")
        self._in_force: dict[str, Principal] = {}
        self._refused: dict[str, int] = {}
        self._strangers: dict[str, _Stranger] = {}
        self._met = asyncio.Event()
        self._down = False
        self._down_ns = 0
        self._backoff = Backoff()
        self._fault = ""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin. On the event loop."""
        for work in (self._meet_forever, self._renew_forever, self._expire_forever):
            self._tasks.append(asyncio.create_task(work()))

    async def close(self) -> None:
        """End; whoever waits is refused."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail(list(self._strangers), Unavailable("the server is stopping", code="stopping"))
        self._meetings.cut()
        self._renewals.cut()
        for principal in list(self._in_force.values()):
            self._forget(principal)

    def caller(self, header: bytes) -> Principal | asyncio.Future[Principal]:
        """Whose key the value of a header Authorization is; in a while, where the control plane must be asked.

        Whoever waits for the future shields it: others may wait for it, too.

        Raises:
            AuthenticationError: `authentication.key_format`, `authentication.key`. The future raises the latter, too.
            QuotaExceeded: `authentication.rate`.
            Unavailable: `unavailable.cloud`, `busy`. The future raises both, too.
        """
        now = elapsed_ns()
        principal = self.callers.get(header)
        if principal is not None and now < principal.until_ns:
            principal.used = True
            return principal
        key = key_in(header)
        return self._asked(key.digest, header if header == _CANONICAL_SCHEME + key.text.encode() else None, now)

    def renewed(self, principal: Principal) -> Principal | asyncio.Future[Principal]:
        """As `caller`, for one whose assertion has run out, or was replaced."""
        return self._asked(principal.digest, principal.header, elapsed_ns())

    # Asking.

    def _asked(self, digest: str, header: bytes | None, now: int) -> Principal | asyncio.Future[Principal]:
        principal = self._in_force.get(digest)
        if principal is not None and now < principal.until_ns:
            principal.used = True
            if header is not None:
                self._look_up(principal, header)
            return principal
        if now < self._refused.get(digest, 0):
            raise refused()
        stranger = self._strangers.get(digest)
        if stranger is None:
            # While it is gone, one key is tried at a time, and nobody waits for what will not come.
            if self._down and (now < self._down_ns or self._strangers):
                raise down()
            if len(self._strangers) >= MAX_WAITING:
                raise QuotaExceeded(
                    "the enclave has as many keys to ask about as it may",
                    code="authentication.rate",
                    hint="try again soon",
                )
            if len(self._in_force) >= MAX_KEYS_IN_USE:
                raise Unavailable("the enclave has as many keys in use as it may", code="busy", hint="try again soon")
            stranger = self._strangers[digest] = _Stranger(asyncio.get_running_loop().create_future(), header)
            self._met.set()
        return stranger.known

    async def _meet_forever(self) -> None:
        while True:
            await self._met.wait()
            self._met.clear()
            while self._strangers:
                batch = list(self._strangers)[:MAX_KEYS]
                try:
                    await self._question(self._meetings, batch)
                except BlindAIError as error:
                    self._trouble(error, self._backoff)
                    self._fail(list(self._strangers), down())
                else:
                    self._fail(batch, down())  # those that were not answered for
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _renew_forever(self) -> None:
        backoff = Backoff()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = elapsed_ns()
            due = [
                digest
                for digest, principal in self._in_force.items()
                if principal.used and now - principal.asked_ns >= _RENEWED_NS
            ]
            try:
                for start in range(0, len(due), MAX_KEYS):
                    await self._question(self._renewals, due[start : start + MAX_KEYS])
            except BlindAIError as error:
                await asyncio.sleep(self._trouble(error, backoff))
            else:
                backoff.reset()

    async def _expire_forever(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = elapsed_ns()
            for principal in [one for one in self._in_force.values() if one.until_ns <= now]:
                self._forget(principal)
            for digest in [one for one, until_ns in self._refused.items() if until_ns <= now]:
                del self._refused[digest]

    async def _question(self, line: Line, keys: Sequence[str]) -> None:
        """Ask about keys and act upon the answer.

        Raises:
            BlindAIError: there is none, or it is not taken.
        """
        await line.open()
        question = AuthorisationRequest(nonce=secrets.token_hex(32), keys=tuple(keys))
        asked_ns = elapsed_ns()
        for key in keys:
            principal = self._in_force.get(key)
            if principal is not None:
                principal.used = False
        try:
            answer = await line.ask(AUTHORISATIONS, question, AuthorisationAnswer, seconds=_ANSWER_SECONDS)
            if len(answer.assertions) > _INLINE_SIGNATURES:
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(None, self._reader.read, question, answer)
            else:
                found = self._reader.read(question, answer)
        except BaseException:
            # It may not know this enclave any more: the next connection is attested anew.
            line.cut()
            # What is not known to be renewed is still in use.
            for key in keys:
                principal = self._in_force.get(key)
                if principal is not None:
                    principal.used = True
            raise
        self._down = False
        self._backoff.reset()
        if self._fault:
            self._fault = ""
            _log.info("control_plane_answers")
        for key, assertion in found.items():
            self._learn(key, assertion, asked_ns)

    # What was answered.

    def _learn(self, key: str, assertion: Assertion | None, asked_ns: int) -> None:
        principal = self._in_force.get(key)
        if principal is not None and principal.asked_ns > asked_ns:
            return  # a later question was answered first
        stranger = self._strangers.pop(key, None)
        if assertion is None:
            if principal is not None:
                self._forget(principal)
            self._refuse(key, elapsed_ns())
            _refuse(stranger, refused())
            return
        until_ns = asked_ns + assertion.ttl_ms * NS_PER_MS
        if until_ns <= elapsed_ns():
            _refuse(stranger, down())
            return
        try:
            principal = self._entered(key, assertion, asked_ns, until_ns)
        except Unavailable as error:
            _refuse(stranger, error)
            return
        if stranger is not None:
            principal.used = True
            if stranger.header is not None:
                self._look_up(principal, stranger.header)
            if not stranger.known.done():
                stranger.known.set_result(principal)

    def _entered(self, key: str, assertion: Assertion, asked_ns: int, until_ns: int) -> Principal:
        principal = self._in_force.get(key)
        if principal is not None and principal.says(assertion):
            principal.asked_ns, principal.until_ns = asked_ns, until_ns
        else:
            header = None if principal is None else principal.header
            if principal is not None:
                self._forget(principal)
            count = self._usage.count(assertion.namespace, assertion.key_id)
            principal = Principal(count, key, frozenset(assertion.scopes), asked_ns=asked_ns, until_ns=until_ns)
            self._in_force[key] = principal
            if header is not None:
                self._look_up(principal, header)
        principal.account.grant(assertion.quotas, asked_ns)
        return principal

    def _look_up(self, principal: Principal, header: bytes) -> None:
        principal.header = header
        self.callers[header] = principal

    def _forget(self, principal: Principal) -> None:
        principal.until_ns = 0
        principal.queries.clear()
        self._in_force.pop(principal.digest, None)
        if principal.header is not None:
            self.callers.pop(principal.header, None)
            principal.header = None

    def _refuse(self, key: str, now: int) -> None:
        if len(self._refused) >= MAX_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused[key] = now + _REFUSED_NS

    def _fail(self, keys: Sequence[str], error: BlindAIError) -> None:
        for key in keys:
            _refuse(self._strangers.pop(key, None), error)

    def _trouble(self, error: BlindAIError, backoff: Backoff) -> float:
        """The control plane refuses or cannot be reached: say it once. Returns the seconds until the next try."""
        pause = min(backoff.next(), _LONGEST_PAUSE_SECONDS)
        self._down, self._down_ns = True, elapsed_ns() + round(pause * NS_PER_SECOND)
        if error.code != self._fault:
            self._fault = error.code
            _log.warning("control_plane", code=error.code, reason=error.message)
        return pause


def key_in(header: bytes) -> ApiKey:
    """The key in the value of a header Authorization (RFC 6750, section 2.1). Nobody is asked whether it is in force.

    Raises:
        AuthenticationError: `authentication.key_format`.
    """
    if len(header) > _MAX_HEADER_BYTES or header[: len(_SCHEME)].lower() != _SCHEME or not header.isascii():
        raise no_key()
    return ApiKey.parse(header[len(_SCHEME) :].decode("ascii"))


def no_key() -> AuthenticationError:
    """The refusal of a header Authorization that holds no key."""
    return AuthenticationError(
        "the header Authorization holds no API key",
        code="authentication.key_format",
        hint="send one header: Authorization: Bearer bai_sk_...",
    )


def refused() -> AuthenticationError:
    """The refusal of a key: nobody is told whether it never was, was revoked, or has expired."""
    return AuthenticationError(
        "this API key is not in force",
        code="authentication.key",
        hint="make another with `blindai keys create`, or on the cloud's console",
    )


def down() -> Unavailable:
    """The refusal of a key that nobody can be asked about."""
    return Unavailable(
        "the control plane of this cloud cannot be asked whose key this is",
        code="unavailable.cloud",
        hint="try again soon",
    )


def _refuse(stranger: _Stranger | None, error: BlindAIError) -> None:
    if stranger is not None and not stranger.known.done():
        stranger.known.set_exception(error)
        stranger.known.exception()  # seen, so that asyncio does not report it where nobody waits any more
