"""`blindai cloud`: the control plane of a cloud of enclaves."""

from __future__ import annotations

import typer

from blindai.cli.cloud import account, serve

app = typer.Typer(no_args_is_help=True, help="Run the control plane of a cloud of enclaves: who may do what in them.")
app.command()(serve.serve)
app.add_typer(account.app, name="account")
