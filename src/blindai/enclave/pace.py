"""How long one model's runs take, learnt as it runs, to decide where the next run happens."""

from __future__ import annotations

from typing import Final

# Runs of a kind that are timed off the event loop before the first is trusted on it. The very first of a session
# is always slow, as the engine allocates what it then keeps.
_TRIALS: Final = 3

# Each run that disappoints the trust doubles the trials for the next time, up to here: who alternates quick and slow
# requests to block the loop gets exponentially fewer chances, while a hiccup of the machine costs a few hand-overs.
_MOST_TRIALS: Final = 4096

# Share of the newest run in the estimate: one odd run does not move it far, a change of pace does within a few.
_WEIGHT: Final = 0.25


class _Record:
    __slots__ = ("estimate", "trials", "trials_left")

    def __init__(self) -> None:
        self.estimate = 0.0
        self.trials = self.trials_left = _TRIALS


class Pace:
    """Running estimates of the time of a run, one for each size of JSON and of binary data, to a power of two.

    Sizes are told apart so that what small requests prove cannot put a large one on the event loop.
    """

    __slots__ = ("_records",)

    def __init__(self) -> None:
        self._records: dict[tuple[int, int], _Record] = {}

    @staticmethod
    def kind(json_bytes: int, binary_bytes: int) -> tuple[int, int]:
        """What requests of these sizes have in common."""
        return json_bytes.bit_length(), binary_bytes.bit_length()

    def below(self, kind: tuple[int, int], limit_ns: int) -> bool:
        """Whether runs of this kind are known to take less than `limit_ns`."""
        record = self._records.get(kind)
        return record is not None and not record.trials_left and record.estimate < limit_ns

    def note(self, kind: tuple[int, int], ns: int) -> None:
        """Learn from a run that took `ns`."""
        record = self._records.get(kind)
        if record is None:
            record = self._records[kind] = _Record()
        if record.trials_left:
            record.trials_left -= 1
            record.estimate = ns
        else:
            record.estimate += (ns - record.estimate) * _WEIGHT

    def disappointed(self, kind: tuple[int, int]) -> None:
        """Learn that a run trusted to be quick was not."""
        record = self._records[kind]
        record.trials = record.trials_left = min(record.trials * 2, _MOST_TRIALS)
