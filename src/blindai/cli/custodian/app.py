"""`blindai custodian`: lend models that run on somebody else's machine, meter them, stop them."""

from __future__ import annotations

import typer

from blindai.cli.custodian import audit, budget, consumer, export, lease, operator, proposal, seal, serve, switch

app = typer.Typer(
    no_args_is_help=True,
    help="Lend a model that runs on somebody else's machine, meter it, stop it. "
    "Commands that decide something act as an operator: --as NAME. They work whether or not a server runs.",
)
app.command()(serve.serve)
app.command()(seal.seal)
app.add_typer(lease.app, name="lease")
app.add_typer(budget.app, name="budget")
app.add_typer(consumer.app, name="consumer")
app.command()(switch.stop)
app.command()(switch.pause)
app.command()(switch.resume)
app.command()(proposal.agree)
app.command()(proposal.withdraw)
app.add_typer(operator.app, name="operator")
app.command()(export.export)
app.command()(audit.audit)
