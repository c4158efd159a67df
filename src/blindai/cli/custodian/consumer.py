"""`blindai custodian consumer`: who may query, and with which tokens."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from blindai.cli.console import err
from blindai.cli.custodian.lease import LeaseArgument
from blindai.cli.custodian.office import Office, command

app = typer.Typer(no_args_is_help=True, help="Say who may query, and make and revoke their tokens.")

ConsumerArgument = Annotated[str, typer.Argument(metavar="CONSUMER", help="Its name.")]


@app.command()
@command("consumers")
def add(
    office: Office,
    lease: LeaseArgument,
    consumer: ConsumerArgument,
    budget: Annotated[
        int | None, typer.Option("--budget", metavar="N", help="A budget of its own; else the lease's alone bounds it.")
    ] = None,
) -> None:
    """Add a consumer, and print its token, which is not shown again."""
    _tell(office, lease, consumer, office.ledger.add_consumer(lease, consumer, budget, by=office.by))


@app.command()
@command("consumers")
def token(office: Office, lease: LeaseArgument, consumer: ConsumerArgument) -> None:
    """Make another token for a consumer, and print it. Those of before remain good."""
    _tell(office, lease, consumer, office.ledger.issue_token(lease, consumer, by=office.by))


@app.command()
@command("consumers")
def revoke(office: Office, lease: LeaseArgument, consumer: ConsumerArgument) -> None:
    """Revoke all tokens of a consumer; enclaves hear of it with their next grant."""
    office.ledger.revoke_tokens(lease, consumer, by=office.by)
    office.show({"lease": lease, "revoked": consumer}, f"[yellow]revoked[/] all tokens of {escape(consumer)}")


def _tell(office: Office, lease: str, consumer: str, made: str) -> None:
    if not office.as_json:
        err.print(f"the token of {consumer}, which is not shown again:", markup=False)
    office.show({"lease": lease, "consumer": consumer, "token": made}, escape(made))
