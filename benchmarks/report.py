"""Tables as values, and how they are written: Markdown for people, JSON for whoever wants the raw figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timing import Spread


@dataclass(frozen=True)
class Goal:
    """A goal of the project, and what came out.

    Attributes:
        value: None where there was nothing to compare with.
        least: whether the limit is to be reached; else it is not to be exceeded.
    """

    number: int
    what: str
    placement: str
    limit: float
    value: Spread | None
    unit: str = "x"
    least: bool = False

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value.median >= self.limit if self.least else self.value.median <= self.limit


@dataclass(frozen=True)
class Table:
    """One table: how it was measured, its rows, and the goals it decides.

    Attributes:
        raw: the p50 of each round in microseconds, or whatever else the rows were made of.
    """

    title: str
    method: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()
    raw: Any = field(default=None, repr=False)

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", self.method, "", _row(self.columns), _row("---" for _ in self.columns)]
        lines += [_row(row) for row in self.rows]
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines) + "\n"


def markdown(
    machine: dict[str, str],
    scaling: Sequence[float],
    tables: Sequence[Table],
    *,
    conclusive: bool,
    command: str = "make bench",
) -> str:
    """The whole page."""
    goals = [goal for table in tables for goal in table.goals]
    parts = [
        "# Benchmarks" if command == "make bench" else "# Beside other model servers",
        "",
        f"Written by `{command}`; do not edit. Medians of interleaved runs on one machine, in parentheses the",
        "quartiles over the rounds. Only ratios from one run mean anything elsewhere; the microseconds show what they",
        "are made of. On *one core*, client and server share a core, and a request costs what both of them compute. On",
        "*two cores* they also wait for each other's core to wake up, and overlap where a request is large.",
        "",
        *(f"- {name}: {value}" for name, value in machine.items()),
        f"- two busy processes against one, before and after: {', '.join(f'{value:.2f}' for value in scaling)}",
    ]
    if not conclusive:
        parts += ["", "**Inconclusive**: the machine did not give two processes two cores, so no goal is judged."]
    if goals:
        parts += ["", "## Goals", "", _row(("Goal", "On", "Limit", "Measured", "Met")), _row(["---"] * 5)]
        parts += [_goal(goal, conclusive=conclusive) for goal in sorted(goals, key=lambda goal: goal.number)]
    return "\n".join(parts) + "\n\n" + "\n".join(table.markdown() for table in tables)


def raw(machine: dict[str, str], scaling: Sequence[float], tables: Sequence[Table], *, conclusive: bool) -> str:
    """The figures behind the page."""
    content = {
        "machine": machine,
        "scaling": [round(value, 3) for value in scaling],
        "conclusive": conclusive,
        "goals": [asdict(goal) | {"met": goal.met} for table in tables for goal in table.goals],
        "tables": {table.title: _rounded(table.raw) for table in tables},
    }
    return json.dumps(content, indent=1) + "\n"


def _goal(goal: Goal, *, conclusive: bool) -> str:
    digits = 2 if goal.unit == "x" else 0
    unit = "" if goal.unit == "x" else f" {goal.unit}"
    measured = "nothing to compare with" if goal.value is None else goal.value.text(digits) + unit
    met = {True: "yes", False: "**no**", None: "-"}[goal.met] if conclusive else "inconclusive"
    return _row(
        (
            f"{goal.number}. {goal.what}",
            goal.placement,
            f"{'at least ' if goal.least else ''}{goal.limit:g}{unit}",
            measured,
            met,
        )
    )


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
