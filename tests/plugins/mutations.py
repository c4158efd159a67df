"""Changed copies of binary evidence, always the same ones, and what must come of them.

How many there were over all tests is said at the end of the run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple, cast

import pytest

from blindai.errors import AttestationError, BlindAIError


class Mutation(NamedTuple):
    """A changed copy; `signed` says that the change is inside a region that a signature covers."""

    name: str
    data: bytes
    signed: bool


_PROPERTY = "mutations"
_of_this_test: list[Tally] = []


class Tally(NamedTuple):
    """What became of a run of mutations."""

    tried: int
    refused: int
    accepted: int
    codes: dict[str, int]


def mutations(data: bytes, *, signed: Sequence[tuple[int, int]], flips: int | None = None) -> Iterator[Mutation]:
    """Every truncation (at most 512 of them, spread), single-bit flips, and random rewrites of `data`.

    Args:
        data: genuine evidence.
        signed: the byte ranges (start, end) that a signature covers.
        flips: how many single bits to flip, spread evenly; None flips every one.
    """
    dice = random.Random(len(data))
    for length in sorted({round(at * len(data) / 512) for at in range(512)} - {len(data)}):
        yield Mutation(f"cut to {length}", data[:length], signed=any(length < end for _, end in signed))
    bits = 8 * len(data)
    for bit in range(bits) if flips is None else sorted({at * bits // flips for at in range(flips)}):
        at = bit // 8
        flipped = bytes([data[at] ^ 1 << bit % 8])
        yield Mutation(f"bit {bit}", data[:at] + flipped + data[at + 1 :], signed=_within(at, at + 1, signed))
    for number in range(64):
        start = dice.randrange(len(data))
        end = min(len(data), start + dice.choice([1, 2, 4, 8, 64]))
        filling = dice.choice([bytes(end - start), b"\xff" * (end - start), dice.randbytes(end - start)])
        if data[start:end] != filling:
            changed = data[:start] + filling + data[end:]
            covered = any(data[at] != changed[at] and _within(at, at + 1, signed) for at in range(start, end))
            yield Mutation(f"rewrite {number} at {start}", changed, signed=covered)


def _within(start: int, end: int, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(first <= start and end <= last for first, last in ranges)


def run(judge: Callable[[bytes], object], changed: Iterator[Mutation]) -> Tally:
    """Judge every mutation. Nothing but an `AttestationError` with code and step may come out, or an acceptance
    of a change that no signature covers.
    """
    codes: dict[str, int] = {}
    tried = accepted = 0
    for mutation in changed:
        tried += 1
        try:
            judge(mutation.data)
        except AttestationError as error:
            if not error.code or not error.step:
                pytest.fail(f"{mutation.name}: refused without code or step: {error!r}")
            codes[error.code] = codes.get(error.code, 0) + 1
        except BlindAIError as error:
            pytest.fail(f"{mutation.name}: {type(error).__name__} in place of an AttestationError")
        else:
            accepted += 1
            assert not mutation.signed, f"{mutation.name}: accepted, though a signature covers the change"
    tally = Tally(tried, tried - accepted, accepted, codes)
    _of_this_test.append(tally)
    return tally


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    _of_this_test.clear()
    result = yield
    if _of_this_test:
        columns = [(tally.tried, tally.refused, tally.accepted) for tally in _of_this_test]
        sums = [sum(column) for column in zip(*columns, strict=True)]
        # Properties travel with the reports, so they reach the controller of pytest-xdist too.
        item.user_properties.append((_PROPERTY, sums))
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = [
        cast("list[int]", value)
        for report in terminalreporter.stats.get("passed", [])
        if report.when == "call"
        for name, value in report.user_properties
        if name == _PROPERTY
    ]
    if found:
        tried, refused, accepted = (sum(column) for column in zip(*found, strict=True))
        terminalreporter.section("mutated evidence")
        terminalreporter.line(
            f"  {tried:,} changed inputs: {refused:,} refused with code and step, {accepted:,} accepted for changes"
            " that no signature covers, 0 accepted for any other"
        )
