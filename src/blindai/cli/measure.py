"""`blindai measure`: the manifest for the code that is installed here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blindai.cli.console import err, print_json, reported
from blindai.cli.target import Json
from blindai.errors import ConfigurationError


def measure(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write here; standard output without it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the manifest that accepts this very code on this installation's simulated platform."""
    with reported(as_json=as_json):
        from blindai.attestation.measure.local import local_policy

        policy = local_policy()
        if as_json:
            print_json(
                {
                    "simulated_root": policy.simulated_root,
                    "code": [{"name": code.name, "tee": code.tee, **code.measurements} for code in policy.code],
                }
            )
        elif output is None:
            print(policy.to_toml(), end="")
        else:
            _write(output, policy.to_toml())
            err.print(f"wrote {output}", markup=False)


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigurationError(
            f"{path} exists", code="configuration.output", hint="a policy is not overwritten: move it away first"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error}", code="configuration.output") from error
