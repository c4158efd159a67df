"""What is wrong with a log: the line, a stable code, and words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Fault = Callable[[str, str], None]
"""Notes what is wrong with the line that is being read: a code, and words."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        line: of the file, from 1.
        seq: of the entry on it; 0 where there is none.
        code: `audit.*`, stable.
    """

    line: int
    seq: int
    code: str
    message: str
