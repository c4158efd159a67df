"""`blindai cloud account`: what accounts may use. For whoever has the control plane's database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table

from blindai.cli.cloud.place import Data, existing_database
from blindai.cli.console import out, print_json, reported
from blindai.cli.database import DatabaseAddress, DatabaseFile
from blindai.cli.target import Json
from blindai.errors import InvalidInput

if TYPE_CHECKING:
    from blindai.cloud.allowances import Allowance

UNLIMITED: Final = "unlimited"

app = typer.Typer(no_args_is_help=True, help="See what accounts use, and change what they may use.")


@app.command(name="list")
def list_all(
    data: Data = None, database: DatabaseAddress = None, database_file: DatabaseFile = None, as_json: Json = False
) -> None:
    """List the accounts, with what they have, what they have used this month, and what they may."""
    with reported(as_json=as_json), existing_database(data, database, database_file) as opened:
        from blindai.cloud.allowances import Allowances

        accounts = Allowances(opened).all()
        if as_json:
            print_json([_fields(one) for one in accounts])
            return
        if not accounts:
            out.print("no accounts yet")
            return
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("ACCOUNT", "KIND", "MODELS", "SIZE", "THIS MONTH", "STATE"):
            table.add_column(column, no_wrap=column in {"ACCOUNT", "KIND"}, overflow="fold")
        for one in accounts:
            table.add_row(*_cells(one))
        out.print(table)


@app.command()
def quotas(
    name: Annotated[str, typer.Argument(metavar="ACCOUNT", help="Its name.")],
    models: Annotated[int | None, typer.Option("--models", metavar="N", help="Versions of models at one time.")] = None,
    model_bytes: Annotated[
        int | None, typer.Option("--bytes", metavar="N", help="Of all of its models together.")
    ] = None,
    per_minute: Annotated[
        int | None, typer.Option("--per-minute", metavar="N", help="Requests a minute, on each endpoint.")
    ] = None,
    per_month: Annotated[
        str | None, typer.Option("--per-month", metavar="N", help=f"Requests a month (UTC), or {UNLIMITED}.")
    ] = None,
    data: Data = None,
    database: DatabaseAddress = None,
    database_file: DatabaseFile = None,
    as_json: Json = False,
) -> None:
    """Show what an account uses and may use; with options, change what it may. Enclaves follow within seconds."""
    with reported(as_json=as_json):
        given = {"models": models, "model_bytes": model_bytes, "requests_per_minute": per_minute}
        changes = {quota: count for quota, count in given.items() if count is not None}
        month = {} if per_month is None else {"requests_per_month": _month(per_month)}
        with existing_database(data, database, database_file) as opened:
            from blindai.cloud.allowances import Allowances

            accounts = Allowances(opened)
            account = accounts.change(name, {**changes, **month}) if changes or month else accounts.of(name)
        if as_json:
            print_json(_fields(account))
            return
        may = account.quotas
        out.print(f"{account.name}, {account.kind}, {_since(account)}")
        for line in (
            f"  members     {account.members}",
            f"  models      {account.models} of {may.models}",
            f"  bytes       {account.model_bytes:,} of {may.model_bytes:,}",
            f"  this month  {account.month_requests:,} of {_limit(may.requests_per_month)} requests",
            f"  a minute    {may.requests_per_minute:,} requests on each endpoint",
        ):
            out.print(line)


def _month(text: str) -> int | None:
    if text == UNLIMITED:
        return None
    if not (text.isascii() and text.isdecimal()):
        raise InvalidInput(f"--per-month is a number or {UNLIMITED}", code="account.quotas")
    return int(text)


def _cells(one: Allowance) -> tuple[str, ...]:
    from blindai.cloud.console.phrases import size

    may = one.quotas
    return (
        one.name,
        one.kind,
        f"{one.models}/{may.models}",
        f"{size(one.model_bytes)}/{size(may.model_bytes)}",
        f"{one.month_requests:,}/{_limit(may.requests_per_month)}",
        "open" if one.closed_at is None else f"closed {one.closed_at:%Y-%m-%d}",
    )


def _since(one: Allowance) -> str:
    opened = f"since {one.opened_at:%Y-%m-%d}"
    return opened if one.closed_at is None else f"{opened}, closed {one.closed_at:%Y-%m-%d}"


def _limit(count: int | None) -> str:
    return UNLIMITED if count is None else f"{count:,}"


def _fields(one: Allowance) -> dict[str, Any]:
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(one)
    return fields
