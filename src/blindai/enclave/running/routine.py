"""Requests that are known in all but the values of their tensors, and what need not be found out of them again.

Most clients of a small model send the same JSON each time, and only the bytes behind it differ. What follows from the
JSON, the model and where it is loaded is then the same: which inputs the request has and that the model takes them, how
long it has run, and the JSON of the answer. Nothing is kept of values, identifiers, receipts and deadlines; a request
with any of these is none of the kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from blindai.enclave.engine import Repeatable
from blindai.enclave.http.reply import Reply
from blindai.wire import v2
from blindai.wire.layout import data_of, has_layout
from blindai.wire.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from blindai.enclave.engine import Repetition, Session
    from blindai.enclave.running.pace import Record
    from blindai.wire.layout import Layout

# Kept for one version. A model has few shapes that are asked for by the thousand.
_MOST_ROUTINES: Final = 16


class _Output(NamedTuple):
    name: str
    datatype: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Routine:
    """Requests with one JSON, for one session.

    Args:
        layout: of their tensors.
        session: runs them.
        repetition: of the session, for such inputs.
        record: how long they take.
        outputs: of one that has run.
        reply: the answer to it.

    Attributes:
        layout, session, repetition, record: as above.
        size: bytes of their tensors.
    """

    __slots__ = ("_head", "_headers", "_outputs", "layout", "record", "repetition", "session", "size")

    def __init__(
        self,
        layout: Layout,
        session: Session,
        repetition: Repetition,
        record: Record,
        *,
        outputs: Sequence[Tensor],
        reply: Reply,
    ) -> None:
        self.layout = layout
        self.session = session
        self.repetition = repetition
        self.record = record
        self.size = layout.size
        self._outputs = [
            _Output(tensor.name, tensor.datatype, tensor.data.shape, tensor.data.dtype) for tensor in outputs
        ]
        self._headers = reply.headers
        self._head = bytes(reply.buffers[0])

    def answer(self, outputs: list[NDArray[Any]]) -> Reply | None:
        """The answer with these outputs; None where their shapes differ from those seen before."""
        message: list[bytes | memoryview] = [self._head]
        for (name, datatype, shape, dtype), data in zip(self._outputs, outputs, strict=True):
            if data.shape != shape or data.dtype != dtype:
                return None
            message.append(data_of(Tensor(name, datatype, data)))
        return Reply(200, self._headers, message)

    def tensors(self, outputs: list[NDArray[Any]]) -> list[Tensor]:
        """The outputs of a run."""
        return [Tensor(tensor.name, tensor.datatype, data) for tensor, data in zip(self._outputs, outputs, strict=True)]


class Routines(dict[bytes, Routine]):
    """The routines of one version, by their JSON."""

    __slots__ = ()

    def learn(
        self, header: bytes, session: Session, record: Record | None, *, outputs: Sequence[Tensor], reply: Reply
    ) -> None:
        """Remember a request that has run on the event loop, where the next one with its JSON can be repeated.

        Args:
            header: its JSON.
            session: what has run it.
            record: how long such requests take.
            outputs: of the run.
            reply: the answer.
        """
        known = v2.known_request(header)
        if known is None or record is None or not isinstance(session, Repeatable):
            return
        layout, request = known
        if request.binary is not True or not has_layout(outputs):
            return
        repetition = session.repetition(layout.names, request.outputs)
        if repetition is None or len(reply.buffers[0]) > v2.MAX_HEADER_BYTES:
            return
        if len(self) >= _MOST_ROUTINES:
            self.clear()
        self[header] = Routine(layout, session, repetition, record, outputs=outputs, reply=reply)
