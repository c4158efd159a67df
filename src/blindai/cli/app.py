"""The command line as a whole: which commands there are."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

import blindai
from blindai.cli import audit, demo, keys, login, manifest, measure, models, predict, proxy, serve, top, verify
from blindai.cli.cloud import app as cloud
from blindai.cli.custodian import app as custodian

app = typer.Typer(
    name="blindai",
    help="Confidential AI that people can check for themselves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 attestation refused, 4 not found, 5 invalid input or model, "
    "6 not allowed, 7 limit reached, 8 unavailable.",
)
app.add_typer(demo.app, name="demo")
app.command()(serve.serve)
app.command()(verify.verify)
app.command()(audit.audit)
app.command()(login.login)
app.command()(login.logout)
app.add_typer(keys.app, name="keys")
app.add_typer(models.app, name="models")
app.command()(predict.predict)
app.command()(top.top)
app.command()(proxy.proxy)
app.add_typer(manifest.app, name="manifest")
app.add_typer(measure.app, name="measure")
app.add_typer(custodian.app, name="custodian")
app.add_typer(cloud.app, name="cloud")


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    """Confidential AI that people can check for themselves."""
    # The commands say what is simulated in their own words; the library's warning is for programs.
    logging.getLogger("blindai").addHandler(logging.NullHandler())
    if version:
        print(blindai.__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of the `blindai` program."""
    app()
