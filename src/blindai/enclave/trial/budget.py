"""The time that one trial may take, and the runs within it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

from blindai.errors import QuotaExceeded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from blindai.enclave.engine import Cancellation, Session
    from blindai.wire.tensor import Tensor


class Budget:
    """Two limits on one trial: what goes on beyond the first is left out, and a run beyond the second is stopped.

    A context manager: a thread of its own watches the second limit until the block ends.

    Args:
        seconds: for all that a trial would measure.
        limit_seconds: for the trial as a whole. A model that does not end a run within it is refused.
    """

    def __init__(self, seconds: float, limit_seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._expired = False
        self._current: Cancellation | None = None
        self._timer = threading.Timer(limit_seconds, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._timer.join()

    @property
    def left(self) -> float:
        """Seconds until the first limit; negative after it."""
        return self._end - time.monotonic()

    def run(self, session: Session, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Run a model once, all outputs.

        Raises:
            QuotaExceeded: `quota.load_time`, the second limit is reached.
            InvalidInput, InvalidModel, QuotaExceeded: as `Session.run`.
        """
        cancellation = session.cancellation()
        with self._lock:
            self._current = cancellation
            self._require_time()
        try:
            return session.run(inputs, cancellation=cancellation)
        except QuotaExceeded:
            self._require_time()
            raise
        finally:
            with self._lock:
                self._current = None

    def _require_time(self) -> None:
        if self._expired:
            message = "the model does not end its runs in the time that it may be tried out for"
            raise QuotaExceeded(message, code="quota.load_time")

    def _expire(self) -> None:
        with self._lock:
            self._expired = True
            if self._current is not None:
                self._current.cancel()
