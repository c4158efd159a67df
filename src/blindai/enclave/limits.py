"""Limits that no configuration changes, each with its reason, and the one way to count against a budget.

Limits an operator may set are fields of `config.Limits`; they are measured and shown to relying parties.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from blindai.errors import BlindAIError

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# Requests to load, unload and list carry a few parameters at most.
MAX_CONTROL_BODY_BYTES: Final = 64 * KIB

# What a refused request may still send on a connection that stays open: cheaper than a new attested handshake.
MAX_DRAINED_BYTES: Final = 1 * MIB

# Requests a client may send ahead of their answers. More cannot speed up one connection, but each holds its headers.
MAX_PIPELINED_REQUESTS: Final = 16

# After a refusal the rest of what the client sends is discarded this long, because closing at once would
# reset the connection and could destroy the refusal before the client reads it (RFC 9112, section 9.6).
LINGER_SECONDS: Final = 2.0

# The slowest body worth waiting for. A client below this average holds its memory reservation for nothing.
MIN_BODY_BYTES_PER_SECOND: Final = 1 * KIB

# ONNX Runtime copies weights out of the model's bytes, which are in memory beside them until the model is loaded.
COPIES_WHILE_LOADED: Final = 2

# What a model is taken to need besides its weights before it was measured: a process, and a small run.
LOAD_BYTES: Final = 16 * MIB

# The largest file of which a second copy is loaded into the server's own process, to be run without a hand-over. What
# runs in less than a millisecond is smaller; and a thousand copies fit into the default budget beside their processes.
INLINE_MODEL_BYTES: Final = 1 * MIB

# The most memory that its process may have needed to load it and try it out, some 20 MiB of the engine's own included:
# a few bytes can describe a constant of gigabytes, which the copy would hold too.
INLINE_PEAK_BYTES: Final = 64 * MIB

# A pax header carries times and owners of the file that follows it.
MAX_PAX_HEADER_BYTES: Final = 8 * KIB

# Model versions whose resolved path is remembered. Beyond it the cache starts afresh.
MAX_CACHED_ROUTES: Final = 4096


class Budget:
    """An amount that is reserved before it is used, and given back afterwards.

    Args:
        total: the whole amount, in bytes.
        refusal: makes the error for an amount that does not fit, given (wanted, free).
    """

    __slots__ = ("__weakref__", "_refusal", "total", "used")

    def __init__(self, total: int, refusal: Callable[[int, int], BlindAIError]) -> None:
        self.total = total
        self.used = 0
        self._refusal = refusal

    def take(self, amount: int) -> None:
        """Take `amount`, or raise the budget's refusal and take nothing."""
        if amount > self.total - self.used:
            raise self._refusal(amount, self.total - self.used)
        self.used += amount

    def give(self, amount: int) -> None:
        """Give `amount` back."""
        self.used -= amount
        if self.used < 0:
            raise AssertionError("more was given back to the budget than was taken")


class Reservation:
    """A part of a budget that one holder grows and, once, releases. Releasing twice is harmless."""

    __slots__ = ("_budget", "amount")

    def __init__(self, budget: Budget, amount: int = 0) -> None:
        budget.take(amount)
        self._budget = budget
        self.amount = amount

    def grow(self, amount: int) -> None:
        """Take `amount` more, or raise the budget's refusal and keep what is held."""
        self._budget.take(amount)
        self.amount += amount

    def shrink_to(self, amount: int) -> None:
        """Give back all but `amount`."""
        self._budget.give(self.amount - amount)
        self.amount = amount

    def release(self) -> None:
        """Give everything back."""
        self._budget.give(self.amount)
        self.amount = 0
