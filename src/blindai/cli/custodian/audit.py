"""`blindai custodian audit`: verify the exported log of a lease, offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer
from rich.markup import escape
from rich.table import Table

from blindai.cli.console import ExitCode, out, print_json, reported
from blindai.cli.target import Json, open_input
from blindai.errors import ConfigurationError, InvalidInput, harmless

if TYPE_CHECKING:
    from blindai.custody.audit import Audit
    from blindai.custody.audit.books import Books

_KEY_CHARACTERS = 64


def audit(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What `blindai custodian export` wrote; '-' is standard input.")
    ],
    custodian_key: Annotated[
        str | None,
        typer.Option(
            "--custodian-key", metavar="HEX", help="The custodian's public key; without it, the one in the file."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify a lease's log offline: signatures, chain, evidence, grants, records, decisions and every unit.

    Exits with 3 if anything in it was removed, changed, moved, repeated or forged, or cannot be true.
    """
    with reported(as_json=as_json):
        from blindai.custody.audit import audit as verify

        key = None if custodian_key is None else _key(custodian_key)
        try:
            with open_input(file) as opened:
                result = verify(_lines(opened), custodian=key)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise InvalidInput(f"{file} cannot be read: {error}", code="input.log") from error
        if as_json:
            print_json(_fields(result, known=key is not None))
        else:
            _print(result, known=key is not None)
        if result.findings:
            raise typer.Exit(ExitCode.ATTESTATION)


def _key(text: str) -> str:
    key = text.strip().lower()
    if len(key) != _KEY_CHARACTERS or set(key) - set("0123456789abcdef"):
        raise ConfigurationError(
            f"a custodian's key is {_KEY_CHARACTERS} hex digits",
            code="configuration.custodian_key",
            hint="`blindai custodian lease show` prints it, and the enclave's configuration names it",
        )
    return key


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, of which none may fill the memory."""
    from blindai.custody.log import MAX_LINE_BYTES

    while line := file.readline(MAX_LINE_BYTES + 2):
        yield line


def _fields(result: Audit, *, known: bool) -> dict[str, Any]:
    from blindai.custody.audit import UNKNOWABLE, State

    fields: dict[str, Any] = {
        "whole": not result.findings,
        "lease": result.lease_id,
        "custodian": result.custodian,
        "custodian_known": known,
        "entries": result.entries,
        "replayed": result.replayed,
        "head": result.head,
        "exported_at": result.exported_at,
        "kinds": {str(kind): count for kind, count in sorted(result.kinds.items())},
        "findings": [
            {"line": found.line, "entry": found.seq, "code": found.code, "message": found.message}
            for found in result.findings
        ],
        "not_known": list(UNKNOWABLE),
    }
    if result.lease is not None:
        books = result.lease.books
        fields |= {
            "name": result.lease.terms.name,
            "borrower": result.lease.terms.borrower,
            "state": str(result.lease.decisions.state),
            "budget": books.budget,
            "granted": books.granted,
            "spent": books.spent,
            "accounts": {
                consumer: {"budget": account.budget, "granted": account.granted, "spent": account.spent}
                for consumer, account in books.accounts.items()
            },
            "instances": {str(state): result.instances(state) for state in State},
            "simulated": result.simulated,
        }
    return fields


def _print(result: Audit, *, known: bool) -> None:
    from blindai.custody.audit import UNKNOWABLE, State
    from blindai.custody.log import Kind

    lease = result.lease
    if lease is not None:
        _print_accounts(lease.books)
    for found in result.findings:
        entry = f", entry {found.seq}" if found.seq else ""
        out.print(f"[red]line {found.line}{entry}[/]  {found.code}  {escape(harmless(found.message))}")
    verdict = "[bold red]BROKEN[/]" if result.findings else "[bold green]WHOLE[/] "
    named = "" if lease is None else f"  {lease.terms.name}, lent to {lease.terms.borrower}"
    out.print(f"{verdict}    {result.lease_id or 'no lease'}{escape(harmless(named))}")
    unsure = "" if known else ", the key in the file: compare it, or give --custodian-key"
    out.print(f"custodian {result.custodian or 'unknown'}{unsure}")
    behind = "" if result.replayed == result.entries else f"; looked at as a whole up to entry {result.replayed}"
    out.print(f"entries   {result.entries}{behind}")
    if result.head:
        out.print(f"head      {result.head}")
    counts = ", ".join(f"{result.instances(state)} {state}" for state in State)
    simulated = f", [yellow]{result.simulated} simulated[/]" if result.simulated else ""
    out.print(f"instances {counts}{simulated}")
    out.print(f"signed    {result.kinds[Kind.GRANT_ISSUED]} grants, {result.kinds[Kind.RECORD_ACCEPTED]} records")
    for line in UNKNOWABLE:
        out.print(f"not known {line}")


def _print_accounts(books: Books) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("consumer")
    for name in ("budget", "granted", "spent"):
        table.add_column(name, justify="right")
    for consumer, account in sorted(books.accounts.items()):
        own = "-" if account.budget is None else str(account.budget)
        table.add_row(consumer or "anyone", own, str(account.granted), str(account.spent))
    table.add_row("[bold]all[/]", str(books.budget), str(books.granted), str(books.spent))
    out.print(table)
