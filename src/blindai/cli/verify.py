"""`blindai verify`: attest a server, and say check by check what was found."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from blindai.attestation.result import AttestationResult, Check, Outcome
from blindai.cli.console import err, error_fields, exit_code, out, print_json, reported
from blindai.cli.target import Json, PolicyFile, Simulation, connect
from blindai.errors import AttestationError

_STYLES = {Outcome.PASS: "green", Outcome.FAIL: "bold red", Outcome.SKIP: "dim"}

# Long values are cut in the short table; --explain and --json show them whole.
_MAX_CELL = 58


def verify(
    addr: Annotated[str | None, typer.Argument(metavar="[URL]", help="https://host:port of the server.")] = None,
    policy: PolicyFile = None,
    simulation: Simulation = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show what each check required and saw, whole.")] = False,
    as_json: Json = False,
) -> None:
    """Attest a server and print one line for each check. Exits 0 only if every required check passes."""
    with reported(as_json=as_json):
        try:
            with connect(addr, policy, None, simulation=simulation) as client:
                address, result = client.address, client.attestation
        except AttestationError as error:
            _refused(error, addr or "", explain=explain, as_json=as_json)
    if as_json:
        print_json({"address": address, "result": result.to_builtins()})
        return
    _print_checks(result, explain=explain)
    until = f"{result.expires_at:%Y-%m-%d %H:%M} UTC" if result.expires_at else ""
    out.print(f"[bold green]ACCEPTED[/]  {escape(address)}  {_platform(result)}, {result.mode}, until {until}")


def _refused(error: AttestationError, addr: str, *, explain: bool, as_json: bool) -> None:
    result = error.result
    if as_json:
        found = {"error": error_fields(error), "address": addr}
        print_json(found if result is None else found | {"result": result.to_builtins()})
    else:
        if result is not None:
            _print_checks(result, explain=explain)
        out.print(f"[bold red]REFUSED[/]  {escape(addr)}  {_platform(result)}".rstrip())
        err.print(f"AttestationError: {error}", markup=False)
    raise typer.Exit(exit_code(error))


def _platform(result: AttestationResult | None) -> str:
    if result is None or result.claims is None:
        return ""
    return f"[bold yellow]SIMULATED[/] {result.claims.tee}" if result.simulated else str(result.claims.tee)


def _print_checks(result: AttestationResult, *, explain: bool) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold" if explain else "ellipsis", no_wrap=not explain)
    skipped = []
    for check in result.checks:
        if explain:
            _explain(table, check)
        elif check.outcome is Outcome.SKIP:
            skipped.append(check)
        elif check.outcome is Outcome.FAIL or check.step != "evidence":  # implied by the checks after it
            table.add_row(_outcome(check), check.name, escape(_short(check.got)))
    if skipped:
        table.add_row(_outcome(skipped[0]), ", ".join(check.name for check in skipped), "")
    out.print(table)


def _explain(table: Table, check: Check) -> None:
    table.add_row(_outcome(check), check.name, f"[dim]{escape(check.code or check.step)}[/]")
    for label, value in (("expected", check.expected), ("got", check.got)):
        if value:
            table.add_row("", f"  {label}", escape(value))


def _outcome(check: Check) -> str:
    return f"[{_STYLES[check.outcome]}]{check.outcome}[/]"


def _short(text: str) -> str:
    return text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 3]}..."
