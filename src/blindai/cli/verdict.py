"""A verdict in front of people: in a few lines, or with every byte range and digest behind it."""

from __future__ import annotations

from datetime import UTC
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from blindai.cli.console import out
from blindai.errors import harmless

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from blindai.attestation.result import AttestationResult, Check
    from blindai.channel.transcript import Transcript

_STYLES = {"PASS": "green", "FAIL": "bold red", "SKIP": "dim"}

# With the verdict in two lines, the whole answer is ten.
MAX_ROWS = 8

# Left out of the short table, in this order, until the rest fits: what passed here is relied on by the checks that
# stay, and the platform stands in the verdict. --explain and --json show all.
_IMPLIED = ("evidence", "endorsements", "channel", "platform")

# Columns of the short table.
_OUTCOME_WIDTH = 6
_NAME_WIDTH = 37

# Wide enough for 64 bytes of hex in two lines; a narrower terminal folds.
EXPLAIN_WIDTH = 100


def print_checks(result: AttestationResult) -> None:
    """One line for each check, at most `MAX_ROWS`."""
    made = _one_each([check for check in result.checks if check.outcome != "SKIP"])
    skipped = [check for check in result.checks if check.outcome == "SKIP"]
    for step in _IMPLIED:
        if len(made) + bool(skipped) > MAX_ROWS:
            made = [check for check in made if check.step != step or check.outcome == "FAIL"]
    for check in made:
        _print_row(check.outcome, check.name, _short(check.got))
    if skipped:
        _print_row("SKIP", " and ".join(check.name for check in skipped) if len(skipped) < 3 else _rest(skipped), "")


def print_each(checks: Iterable[Check], *, explain: bool) -> None:
    """Checks of something else than a gate: a line for each, or every one whole."""
    for check in checks:
        if explain:
            _explain(check)
        else:
            _print_row(check.outcome, check.name, _short(check.got))


def print_explained(result: AttestationResult | None, transcript: Transcript | None) -> None:
    """Every check whole: what was required, what was seen, and the bytes on which it rests; then the statement."""
    for check in result.checks if result is not None else ():
        _explain(check)
    if transcript is None:
        return
    out.print("[bold]statement[/]  what the evidence must commit to, recomputed here")
    table = _table()
    statement = statement_fields(transcript)
    table.add_row("text", escape(statement["text"].replace("\0", "\\0")))
    table.add_row("SHA-512", f"{statement['report_data']} [dim](report_data)[/]")
    table.add_row(
        "SHA-256", f"{statement['committed_by_tpm']} [dim](of report_data: what the quote of a TPM carries)[/]"
    )
    _print_table(table)


def statement_fields(transcript: Transcript) -> dict[str, Any]:
    """The statement and its digests, for machines: `text` is exactly what is hashed, zero byte included."""
    from blindai.attestation.evidence import TEE, committed

    statement = transcript.statement
    return {
        "text": statement.message.decode("ascii"),
        "report_data": statement.report_data.hex(),
        "committed_by_tpm": committed(TEE.TPM, statement.report_data).hex(),
    }


def utc(moment: datetime) -> str:
    """A time in RFC 3339, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def platform(result: AttestationResult | None) -> str:
    """What the enclave runs on, as far as it is known, marked up."""
    if result is None or result.claims is None:
        return ""
    return f"[bold yellow]SIMULATED[/] {result.claims.tee}" if result.simulated else str(result.claims.tee)


def _one_each(made: list[Check]) -> list[Check]:
    """One check for each step: where a step was made several times, its first failure, or the whole."""
    from blindai.attestation.result import STEPS

    rows: list[Check] = []
    for step, group in groupby(made, lambda check: check.step):
        checks = list(group)
        failed = [check for check in checks if check.outcome == "FAIL"]
        row = failed[0] if failed else checks[0]
        if len(failed) > 1:
            row = msgspec.structs.replace(row, name=f"{row.name} and {len(failed) - 1} more")
        elif len(checks) > 1 and not failed:
            row = msgspec.structs.replace(row, name=STEPS[step])
        rows.append(row)
    return rows


def _rest(skipped: list[Check]) -> str:
    return f"{len(skipped)} further checks: {skipped[-1].got}"


def _print_row(outcome: str, name: str, got: str) -> None:
    row = Text.assemble((f"{outcome:<{_OUTCOME_WIDTH}}", _STYLES[outcome]), f"{name:<{_NAME_WIDTH}}", got)
    row.rstrip()
    row.truncate(out.width, overflow="ellipsis")
    out.print(row)


def _short(got: str) -> str:
    from blindai.attestation.appraisal.appraisal import abbreviated

    return harmless(abbreviated(got))


def _explain(check: Check) -> None:
    outcome = f"[{_STYLES[check.outcome]}]{check.outcome:<{_OUTCOME_WIDTH}}[/]"
    out.print(f"{outcome}{escape(harmless(check.name))}  [dim]{check.code or check.step}[/]")
    table = _table()
    for label, value in (("expected", check.expected), ("got", check.got)):
        if value:
            table.add_row(label, escape(harmless(value)))
    _print_table(table)
    used = _table(columns=3)
    for part in check.ranges:
        # The value below its use: side by side, neither would fit.
        text = escape(harmless(part.use)) + (f"\n[dim]{escape(harmless(part.value))}[/]" if part.value else "")
        used.add_row(escape(harmless(part.of)), f"0x{part.start:04x}-0x{part.end:04x}", text)
    _print_table(used)


def _table(columns: int = 2) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=columns == 2, overflow="fold", max_width=24)
    for _ in range(columns - 2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _print_table(table: Table) -> None:
    if table.row_count:
        indented = Padding(table, (0, 0, 0, _OUTCOME_WIDTH), expand=False)
        out.print(indented, width=min(out.width, EXPLAIN_WIDTH), soft_wrap=False)
