"""`blindai custodian export`: a lease's whole log, for an audit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from blindai.cli.custodian.lease import LeaseArgument
from blindai.cli.custodian.office import Office, command
from blindai.errors import ConfigurationError


@command()
def export(
    office: Office,
    lease: LeaseArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="A new file; else standard output.")
    ] = None,
) -> None:
    """Write the signed log of a lease as JSON lines, which `blindai custodian audit` verifies offline."""
    lines = office.ledger.export(lease)
    if output is None:
        for line in lines:
            sys.stdout.write(line + "\n")
        return
    count = 0
    try:
        with output.open("x", encoding="ascii", newline="\n") as file:
            for line in lines:
                file.write(line + "\n")
                count += 1
    except OSError as error:
        raise ConfigurationError(
            f"the export cannot be written to {output}: {error.strerror or error}", code="configuration.output"
        ) from error
    office.show({"lease": lease, "lines": count, "file": str(output)}, f"wrote {count} lines to {escape(str(output))}")
