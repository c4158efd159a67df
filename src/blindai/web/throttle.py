"""Guessing passwords is slow: after a few failures each try has to wait, for longer and longer.

Failures are counted in the database, where every process sees them, under three keys:

- the account from this address: what somebody who guesses from one place runs into first;
- the address: one place that goes through many accounts; of IPv6 the first 64 bits, of which one place has all others;
- the account from anywhere: many places that go through one account. This one must not serve to lock its owner out: it
  delays by half a minute at most, and never an address from which the owner has signed in within the last 30 days.

A try is counted before the password is looked at, so that many at once are no way around it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Table, delete, select, text, update

from blindai.errors import QuotaExceeded

# Failures are forgotten after a day without another.
MEMORY_SECONDS: Final = 24 * 3600

# An address from which the account's owner signed in this recently is known.
KNOWN_SECONDS: Final = 30 * 24 * 3600

# 2**20 seconds are above every ceiling; larger powers need not be computed.
_MAX_EXPONENT: Final = 20

Clock = Callable[[], float]


@dataclass(frozen=True)
class Allowance:
    """How many failures are free, and the longest delay after more of them. Delays double, from one second."""

    failures: int
    ceiling: int

    def delay(self, failures: int) -> int:
        """Seconds to wait after so many failures."""
        excess = failures - self.failures
        return 0 if excess < 0 else min(2 ** min(excess, _MAX_EXPONENT), self.ceiling)


PAIR: Final = Allowance(failures=5, ceiling=15 * 60)
ADDRESS: Final = Allowance(failures=20, ceiling=15 * 60)
ACCOUNT: Final = Allowance(failures=20, ceiling=30)


class Throttled(QuotaExceeded):
    """Too many failed sign-ins, or whatever else is taken only so often.

    Args:
        what: was too many, in the plural.

    Attributes:
        retry_after: seconds until the next try is taken.
    """

    default_code = "authentication.throttled"

    def __init__(self, retry_after: int, what: str = "failed sign-ins", *, code: str | None = None) -> None:
        unit = "second" if retry_after == 1 else "seconds"
        super().__init__(f"too many {what}; the next one is taken in {retry_after} {unit}", code=code)
        self.retry_after = retry_after


class Throttle:
    """The failures in one table. Each method works on a connection whose transaction is the caller's, and writes.

    Args:
        table: made by `tables.attempt_table`.
        clock: wall clock, in seconds since 1970.
    """

    def __init__(self, table: Table, *, clock: Clock = time.time) -> None:
        self._table = table
        self._clock = clock

    def begin(self, connection: Connection, account: str, address: str) -> None:
        """Take a try, and count it as failed until `succeed` says otherwise.

        Raises:
            Throttled: it comes too early; it is not counted, so that waiting helps whoever knows the password.
        """
        now = int(self._clock())
        rows = self._table.c
        connection.execute(
            delete(self._table).where(rows.failed_at <= now - MEMORY_SECONDS, rows.succeeded_at <= now - KNOWN_SECONDS)
        )
        address = place_of(address)
        pair, place, person = _key(account, address), _key("", address), _key(account, "")
        allowances = {pair: PAIR, place: ADDRESS, person: ACCOUNT}
        found = self._locked(connection, sorted(allowances))
        if found[pair].succeeded_at > now - KNOWN_SECONDS:
            del allowances[person]
        failures = {
            key: 0 if found[key].failed_at <= now - MEMORY_SECONDS else found[key].failures for key in allowances
        }
        # A clock that was set back must not make anybody wait for longer than the delay itself.
        waits = [min(found[key].failed_at, now) + allowances[key].delay(failures[key]) - now for key in allowances]
        if max(waits) > 0:
            raise Throttled(max(waits))
        for key, count in failures.items():
            connection.execute(update(self._table).where(rows.key == key).values(failures=count + 1, failed_at=now))

    def succeed(self, connection: Connection, account: str, address: str) -> None:
        """The try that `begin` took was right: those before it were the owner's own, and the address is known now."""
        now = int(self._clock())
        address = place_of(address)
        pair, place, person = _key(account, address), _key("", address), _key(account, "")
        found = self._locked(connection, sorted({pair, place, person}))
        known = found[pair].succeeded_at > now - KNOWN_SECONDS
        for key in (place,) if known else (place, person):
            left = max(found[key].failures - found[pair].failures, 0)
            connection.execute(update(self._table).where(self._table.c.key == key).values(failures=left))
        changed = update(self._table).where(self._table.c.key == pair)
        connection.execute(changed.values(failures=0, failed_at=now, succeeded_at=now))

    def _locked(self, connection: Connection, keys: list[str]) -> dict[str, Row[Any]]:
        """The rows of `keys`, made where there are none, and held until the end of the transaction.

        In the order of their keys, so that two tries at once wait for each other instead of blocking each other.
        """
        made = text(
            f"INSERT INTO {self._table.name} (key, failures, failed_at, succeeded_at) "  # noqa: S608 - our own name
            "VALUES (:key, 0, 0, 0) ON CONFLICT (key) DO NOTHING"
        )
        for key in keys:
            connection.execute(made, {"key": key})
        query = select(self._table).where(self._table.c.key.in_(keys)).order_by(self._table.c.key).with_for_update()
        return {row.key: row for row in connection.execute(query)}


def place_of(address: str) -> str:
    """What one customer of a network is given (RFC 6177, section 2): a single address, or of IPv6 a network."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4 or parsed.ipv4_mapped is not None:
        return str(parsed)
    return str(ipaddress.IPv6Network((int(parsed), 64), strict=False))


def _key(account: str, address: str) -> str:
    parts = (account.encode("utf-8", "surrogatepass").hex(), address.encode("utf-8", "surrogatepass").hex())
    return hashlib.sha256(b"blindai/sign-in/v1\0" + "/".join(parts).encode()).hexdigest()
