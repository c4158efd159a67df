"""`blindai verify`: attest a server, and say check by check what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from blindai.cli.console import error_fields, exit_code, out, print_error, print_json, reported
from blindai.cli.target import Json, PolicyFile, Simulation, connect
from blindai.errors import AttestationError, harmless

if TYPE_CHECKING:
    from blindai.attestation.result import AttestationResult, Check

_STYLES = {"PASS": "green", "FAIL": "bold red", "SKIP": "dim"}

# With the verdict in two lines, the whole answer is ten.
MAX_ROWS = 8

# Left out of the short table, in this order, until the rest fits: what passed here is relied on by the checks that
# stay. --explain and --json show all.
_IMPLIED = ("evidence", "endorsements", "channel")

# Columns of the short table.
_OUTCOME_WIDTH = 6
_NAME_WIDTH = 37


def verify(
    addr: Annotated[str | None, typer.Argument(metavar="[URL]", help="https://host:port of the server.")] = None,
    policy: PolicyFile = None,
    simulation: Simulation = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show what each check required and saw, whole.")] = False,
    as_json: Json = False,
) -> None:
    """Attest a server and print one line for each check. Exits 0 only if every required check passes."""
    with reported(as_json=as_json):
        from blindai.client.profile import resolve_address

        address = resolve_address(addr).url
        try:
            with connect(addr, policy, None, simulation=simulation, announce=False) as client:
                result = client.attestation
        except AttestationError as error:
            _refused(error, address, explain=explain, as_json=as_json)
        if as_json:
            print_json({"address": address, "result": result.to_builtins()})
            return
        _print_checks(result, explain=explain)
        passed, required = result.tally()
        until = f", until {result.expires_at:%Y-%m-%d %H:%MZ}" if result.expires_at else ""
        out.print(f"[bold green]ACCEPTED[/]  {passed} of {required} required checks, {_platform(result)}{until}")
        out.print(f"          {escape(address)}")


def _refused(error: AttestationError, address: str, *, explain: bool, as_json: bool) -> None:
    result = error.result
    if as_json:
        found = {"error": error_fields(error), "address": address}
        print_json(found if result is None else found | {"result": result.to_builtins()})
    else:
        if result is not None:
            _print_checks(result, explain=explain)
        out.print("  ".join(filter(None, ["[bold red]REFUSED[/] ", _platform(result), escape(address)])))
        out.file.flush()
        print_error(error)
    raise typer.Exit(exit_code(error))


def _platform(result: AttestationResult | None) -> str:
    """What the enclave runs on, as far as it is known."""
    if result is None or result.claims is None:
        return ""
    return f"[bold yellow]SIMULATED[/] {result.claims.tee}" if result.simulated else str(result.claims.tee)


def _print_checks(result: AttestationResult, *, explain: bool) -> None:
    if explain:
        for check in result.checks:
            _explain(check)
        return
    made = [check for check in result.checks if check.outcome != "SKIP"]
    skipped = [check for check in result.checks if check.outcome == "SKIP"]
    for step in _IMPLIED:
        if len(made) + bool(skipped) > MAX_ROWS:
            made = [check for check in made if check.step != step or check.outcome == "FAIL"]
    for check in made:
        _print_row(check.outcome, check.name, _short(check.got))
    if skipped:
        _print_row("SKIP", " and ".join(check.name for check in skipped) if len(skipped) < 3 else _rest(skipped), "")


def _rest(skipped: list[Check]) -> str:
    return f"{len(skipped)} further checks: {skipped[-1].got}"


def _print_row(outcome: str, name: str, got: str) -> None:
    row = Text.assemble((f"{outcome:<{_OUTCOME_WIDTH}}", _STYLES[outcome]), f"{name:<{_NAME_WIDTH}}", got)
    row.rstrip()
    row.truncate(out.width, overflow="ellipsis")
    out.print(row)


def _short(got: str) -> str:
    from blindai.attestation.appraisal import abbreviated

    return harmless(abbreviated(got))


def _explain(check: Check) -> None:
    outcome = f"[{_STYLES[check.outcome]}]{check.outcome:<{_OUTCOME_WIDTH}}[/]"
    out.print(f"{outcome}{check.name}  [dim]{check.code or check.step}[/]")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in (("expected", check.expected), ("got", check.got)):
        if value:
            table.add_row(f"{'':<{_OUTCOME_WIDTH}}{label:<8}", escape(harmless(value)))
    if table.row_count:
        out.print(table)
