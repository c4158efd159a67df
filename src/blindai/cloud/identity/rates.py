"""How often strangers may make this server work, write, or send mail: token buckets in the database.

Every process sees the same ones. Whom a bucket is for is kept as a digest.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete, select, text, update

from blindai.cloud import tables
from blindai.web.throttle import Throttled, place_of

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

# Every bucket below is full again by then.
_MEMORY_SECONDS: Final = 24 * 3600


@dataclass(frozen=True)
class Rate:
    """One kind of bucket.

    Attributes:
        name: of the bucket.
        what: is limited, in the plural, for people.
        size: how many may come at once.
        seconds: until one more may come.
    """

    name: str
    what: str
    size: int
    seconds: float


# A class room or an office may sit behind one address.
SIGN_UPS: Final = Rate("sign-up", "sign-ups from this address", 20, 60)

# To one person. So many may get lost; more would be a nuisance to whoever did not ask for them.
MAILS: Final = Rate("mail", "mails to this address", 5, 15 * 60)

# From one place, to whomever: each is a link in the database, and perhaps a mail.
RESETS: Final = Rate("reset", "password resets from this address", 20, 60)

# A page that offers passkeys asks for a challenge whenever it is opened.
CHALLENGES: Final = Rate("challenge", "sign-ins with passkeys from this address", 60, 1)

# `blindai login` asks for one pair of codes each time.
DEVICE_CODES: Final = Rate("device-code", "sign-ins of command lines from this address", 20, 30)

# One person typing. With 20**8 codes, a guess a minute hits one of a thousand open ones after decades.
DEVICE_GUESSES: Final = Rate("device-guess", "wrong codes", 10, 60)

# Tries of a password by somebody who is signed in, or of a user's own browser by a thief.
PASSWORD_CHANGES: Final = Rate("password", "tries to change the password", 5, 60)


class Rates:
    """The buckets. Each method works on a connection whose transaction is the caller's, and writes.

    Args:
        clock: wall clock, in seconds since 1970.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock

    def take(self, connection: Connection, rate: Rate, whose: str) -> None:
        """Take one from the bucket of `whose`.

        Raises:
            Throttled: `quota.rate`: it is empty.
        """
        wait = self._wait(connection, rate, whose)
        if wait:
            raise Throttled(wait, rate.what, code="quota.rate")

    def take_place(self, connection: Connection, rate: Rate, address: str) -> None:
        """As `take`, for where a request comes from: of IPv6 the network."""
        self.take(connection, rate, place_of(address))

    def require(self, connection: Connection, rate: Rate, whose: str) -> None:
        """As `take`, and takes nothing."""
        wait = self._wait(connection, rate, whose, taken=0)
        if wait:
            raise Throttled(wait, rate.what, code="quota.rate")

    def may(self, connection: Connection, rate: Rate, whose: str) -> bool:
        """As `take`, and says whether it did."""
        return not self._wait(connection, rate, whose)

    def hold(self, connection: Connection, rate: Rate, whose: str) -> None:
        """Make others who want to take from the same bucket wait until this transaction is over."""
        self._locked(connection, rate, whose)

    def _wait(self, connection: Connection, rate: Rate, whose: str, *, taken: int = 1) -> int:
        """Take so many if there is one; else how many seconds until there is."""
        now = self._clock()
        row = self._locked(connection, rate, whose)
        # A clock that was set back fills nothing, and empties nothing.
        tokens: float = min(row.tokens + max(now - row.filled_at, 0.0) / rate.seconds, float(rate.size))
        if tokens < 1:
            return math.ceil((1 - tokens) * rate.seconds)
        mine = tables.rates.c.key == row.key
        connection.execute(update(tables.rates).where(mine).values(tokens=tokens - taken, filled_at=now))
        return 0

    def _locked(self, connection: Connection, rate: Rate, whose: str) -> Row[Any]:
        """The bucket, made if there is none."""
        now, rows = self._clock(), tables.rates.c
        connection.execute(delete(tables.rates).where(rows.filled_at <= now - _MEMORY_SECONDS))
        key = hashlib.sha256(f"blindai/rate/v1\0{rate.name}\0{whose}".encode("utf-8", "surrogatepass")).hexdigest()
        connection.execute(
            text(
                "INSERT INTO rates (key, tokens, filled_at) VALUES (:key, :tokens, :now) ON CONFLICT (key) DO NOTHING"
            ),
            {"key": key, "tokens": float(rate.size), "now": now},
        )
        return connection.execute(select(tables.rates).where(rows.key == key).with_for_update()).one()
