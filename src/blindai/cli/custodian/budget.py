"""`blindai custodian budget`: decide on requests for more, and raise budgets."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from blindai.cli.custodian import pictures, proposal
from blindai.cli.custodian.lease import LeaseArgument
from blindai.cli.custodian.office import Office, command

app = typer.Typer(no_args_is_help=True, help="Decide on requests for more budget, and raise budgets.")

RequestArgument = Annotated[str, typer.Argument(metavar="REQUEST", help="Its id, as `lease show` shows it.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it stands in the log.")]


@app.command()
@command("decide")
def grant(
    office: Office,
    request: RequestArgument,
    amount: Annotated[
        int | None, typer.Option("--amount", metavar="N", help="Another amount than was asked for.")
    ] = None,
    reason: Reason = "",
) -> None:
    """Approve a request. The consumer's next query runs."""
    waiting = office.ledger.approve(request, amount=amount, by=office.by, reason=reason)
    if waiting is None:
        office.show({"request": request, "state": "approved"}, f"[green]approved[/] {escape(request)}")
    else:
        proposal.tell(office, waiting)


@app.command()
@command("decide")
def deny(
    office: Office,
    request: RequestArgument,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; the consumer reads it.")],
) -> None:
    """Deny a request."""
    denied = office.ledger.deny(request, by=office.by, reason=reason)
    office.show(pictures.plain(denied), f"[yellow]denied[/] {escape(request)}")


@app.command(name="raise")
@command("decide")
def raise_budget(
    office: Office,
    lease: LeaseArgument,
    amount: Annotated[int, typer.Argument(metavar="N", help="How many more queries.")],
    consumer: Annotated[
        str | None, typer.Option("--consumer", metavar="NAME", help="This consumer's budget; else the lease's.")
    ] = None,
    reason: Reason = "",
) -> None:
    """Raise the budget of a lease, or of one of its consumers."""
    waiting = office.ledger.raise_budget(lease, consumer=consumer, amount=amount, by=office.by, reason=reason)
    if waiting is None:
        whose = lease if consumer is None else f"{consumer} in {lease}"
        office.show(
            {"lease": lease, "consumer": consumer, "raised": amount}, f"[green]raised[/] {escape(whose)} by {amount:,}"
        )
    else:
        proposal.tell(office, waiting)
