"""The records of one instance: what was used in each window, chained by digest and signed.

Until the custodian has acknowledged a record no other is made, whatever is counted in the meantime waits for the next:
so what is sent again is the same bytes, and never more than two records are under way, the second of them final.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blindai.enclave.clock import NS_PER_MS
from blindai.errors import Unavailable
from blindai.wire.custody import FIRST, Record, SignedRecord, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from blindai.wire.custody import Grant


class RecordChain:
    """Makes and keeps records.

    Args:
        sign: with the instance's receipt key.
        began_ns: when the instance began, by `clock.elapsed_ns`.
    """

    def __init__(self, sign: Callable[[bytes], bytes], began_ns: int) -> None:
        self._sign = sign
        self._began_ns = began_ns
        self._opened_ms = 0
        self._seq = 0
        self._head = FIRST
        self._acknowledged = (0, FIRST)
        self._pending: tuple[SignedRecord, ...] = ()

    @property
    def pending(self) -> tuple[SignedRecord, ...]:
        """Records that were not acknowledged, oldest first."""
        return self._pending

    def append(
        self, counts: Mapping[str, Usage], now_ns: int, *, grant: Grant, stop_epoch: int, final: bool = False
    ) -> None:
        """Close the window and sign what was counted in it.

        Args:
            counts: by consumer.
            now_ns: the window's end; the next one begins there.
            grant: the newest one in force.
            stop_epoch: the latest that was applied.
            final: nothing runs after it.
        """
        closed_ms = (now_ns - self._began_ns) // NS_PER_MS
        record = Record(
            lease=grant.lease,
            instance=grant.instance,
            seq=self._seq + 1,
            prev=self._head,
            grant=grant.seq,
            opened_ms=self._opened_ms,
            closed_ms=closed_ms,
            counts=dict(counts),
            model_digest=grant.model_digest,
            policy_digest=grant.policy_digest,
            stop_epoch=stop_epoch,
            final=final,
        )
        self._pending += (SignedRecord(record, self._sign(record.message).hex()),)
        self._seq, self._head, self._opened_ms = record.seq, record.digest, closed_ms

    def acknowledge(self, seq: int, head: str) -> bool:
        """Drop what the custodian says it has; True where it has everything.

        Raises:
            Unavailable: `lease.grant`, it names a record that this instance did not make, or one it had already.
        """
        if (seq, head) == self._acknowledged:
            return not self._pending
        for index, signed in enumerate(self._pending):
            if (signed.record.seq, signed.record.digest) == (seq, head):
                self._acknowledged = (seq, head)
                self._pending = self._pending[index + 1 :]
                return not self._pending
        raise Unavailable("the custodian's grant acknowledges a record that was not made here", code="lease.grant")
