"""How often one place may call, in this process. What costs more than a look into the database is limited there.

Each place has a bucket of calls (`People` limits by itself, for all processes, what strangers may make it do).
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from blindai.web.throttle import Throttled, place_of

# A command line makes a handful of calls; many people may sit behind one address.
PER_MINUTE: Final = 600

# Places that are remembered. One that is forgotten has a full bucket again, as it nearly had: those that called last
# are kept.
MAX_PLACES: Final = 10_000


class Rates:
    """Token buckets, by place.

    Args:
        per_minute: how many calls a place may make in a minute, and as many at once; by default `PER_MINUTE`.
        clock: monotonic, in seconds.
    """

    def __init__(self, per_minute: int | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = float(PER_MINUTE if per_minute is None else per_minute)
        self._per_second = self._size / 60
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> None:
        """Count a call.

        Raises:
            Throttled: `quota.requests`. There is none left; it is not counted.
        """
        place, now = place_of(address), self._clock()
        tokens, filled_at = self._buckets.pop(place, (self._size, now))
        tokens = min(self._size, tokens + (now - filled_at) * self._per_second)
        allowed = tokens >= 1
        self._buckets[place] = (tokens - 1 if allowed else tokens, now)
        while len(self._buckets) > MAX_PLACES:
            self._buckets.popitem(last=False)
        if not allowed:
            raise Throttled(math.ceil((1 - tokens) / self._per_second), "requests", code="quota.requests")
