"""How long one model's runs take, learnt as it runs, to decide where the next run happens."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from blindai.wire.v2 import InferRequest

# Quick runs in a row off the event loop before the first is trusted on it. The very first of a session is always slow,
# as the engine allocates what it then keeps.
_TRIALS: Final = 3

# Each run that disappoints the trust doubles the trials for the next time, up to here: who alternates quick and slow
# requests to block the loop gets exponentially fewer chances, while a hiccup of the machine costs a few hand-overs.
_MOST_TRIALS: Final = 4096

# Share of the newest run in the estimate: one odd run does not move it far, a change of pace does within a few.
_WEIGHT: Final = 0.25

# Shapes that are remembered; of those not seen for longest nothing is known any more, and they have to be tried again.
_MOST_KINDS: Final = 64

Kind: TypeAlias = tuple[object, ...]
"""What requests have in common whose runs are taken to last alike: names, datatypes and exact shapes of all inputs, and
the outputs that are wanted."""


def kind_of(request: InferRequest) -> Kind:
    """The kind of a request."""
    inputs = request.inputs
    if len(inputs) == 1:
        tensor = inputs[0]
        return tensor.name, tensor.datatype, tensor.data.shape, request.outputs
    return tuple((tensor.name, tensor.datatype, tensor.data.shape) for tensor in inputs), request.outputs


class _Trust:
    """What all kinds of one model have in common.

    Attributes:
        trials: of a kind that is seen for the first time.
    """

    __slots__ = ("trials",)

    def __init__(self) -> None:
        self.trials = _TRIALS


class Record:
    """What is known of the runs of one kind.

    Args:
        trust: of the model.

    Attributes:
        estimate: nanoseconds of one.
        trials_left: runs in a row that must be quick before one is trusted.
        trials: of them, the next time that they are needed.
        recent: one has run of which the order of `Pace` says nothing.
        forgotten: it is not known any more; another record may be.
    """

    __slots__ = ("_trust", "estimate", "forgotten", "recent", "trials", "trials_left")

    def __init__(self, trust: _Trust) -> None:
        self._trust = trust
        self.estimate = 0.0
        self.trials = self.trials_left = trust.trials
        self.recent = False
        self.forgotten = False

    def below(self, limit_ns: int) -> bool:
        """Whether runs are known to take less than `limit_ns`."""
        return not self.trials_left and self.estimate < limit_ns and not self.forgotten

    def note(self, ns: int, limit_ns: int) -> None:
        """Learn from a run that took `ns`; to be trusted below `limit_ns`, each of several in a row must."""
        self.recent = True
        if self.trials_left:
            self.trials_left = self.trials_left - 1 if ns < limit_ns else self.trials
            self.estimate = ns
        else:
            self.estimate += (ns - self.estimate) * _WEIGHT

    def disappointed(self) -> None:
        """Learn that a run trusted to be quick was not."""
        self.trials = self.trials_left = min(self.trials * 2, _MOST_TRIALS)
        self._trust.trials = min(self._trust.trials * 2, _MOST_TRIALS)


class Pace:
    """Running estimates of the time of a run, one for each kind of request.

    What requests of some shapes prove says nothing of others: a larger one may take any time and memory. What
    disappoints counts against all that are not known yet: who comes with ever new shapes would be trusted ever anew.
    """

    __slots__ = ("_records", "_trust")

    def __init__(self) -> None:
        self._records: OrderedDict[Kind, Record] = OrderedDict()
        self._trust = _Trust()

    def record(self, kind: Kind) -> Record | None:
        """What is known of this kind."""
        return self._records.get(kind)

    def below(self, kind: Kind, limit_ns: int) -> bool:
        """Whether runs of this kind are known to take less than `limit_ns`."""
        record = self._records.get(kind)
        return record is not None and record.below(limit_ns)

    def note(self, kind: Kind, ns: int, limit_ns: int) -> None:
        """As `Record.note`, for a run of this kind."""
        record = self._records.get(kind)
        if record is None:
            if len(self._records) >= _MOST_KINDS:
                self._forget_one()
            record = self._records[kind] = Record(self._trust)
        else:
            self._records.move_to_end(kind)
        record.note(ns, limit_ns)
        record.recent = False  # its place in the order says that

    def disappointed(self, kind: Kind) -> None:
        """As `Record.disappointed`, for this kind."""
        record = self._records.get(kind)
        if record is not None:
            record.disappointed()

    def _forget_one(self) -> None:
        # Who holds a record notes runs in it alone, so what was used has its place at the end restored first.
        for _ in range(_MOST_KINDS):
            kind, record = self._records.popitem(last=False)
            if not record.recent:
                break
            record.recent = False
            self._records[kind] = record
        else:
            kind, record = self._records.popitem(last=False)
        record.forgotten = True
