"""`blindai verify`: attest a server, and say check by check what was found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from blindai.cli.console import err, error_fields, exit_code, out, print_error, print_json, reported
from blindai.cli.target import Json, PolicyFile, Simulation, connect
from blindai.cli.verdict import platform, print_checks, print_explained, statement_fields
from blindai.errors import AttestationError, ConfigurationError

if TYPE_CHECKING:
    from blindai.attestation.result import AttestationResult
    from blindai.channel.transcript import Transcript

Explain = Annotated[
    bool, typer.Option("--explain", help="Show what each check required and saw, whole, and every byte it used.")
]


def verify(
    addr: Annotated[str | None, typer.Argument(metavar="[URL]", help="https://host:port of the server.")] = None,
    policy: PolicyFile = None,
    simulation: Simulation = False,
    explain: Explain = False,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE", help="Keep the evidence in a new file, for `blindai audit`."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Attest a server and print one line for each check. Exits 0 only if every required check passes."""
    with reported(as_json=as_json):
        from blindai.client.destination import resolve_address

        address = resolve_address(addr).url
        if save is not None and os.path.lexists(save):
            from blindai.channel.saved_evidence import already_there

            raise already_there(save)
        try:
            with connect(address, policy, None, simulation=simulation, announce=False) as client:
                result, transcript = client.attestation, client.transcript
        except AttestationError as error:
            _refused(error, address, save, explain=explain, as_json=as_json)
        if as_json:
            found = {"address": address, "result": result.to_builtins()}
            print_json(found | ({"statement": statement_fields(transcript)} if transcript is not None else {}))
        else:
            if explain:
                print_explained(result, transcript)
            else:
                print_checks(result)
            print_accepted(result, address)
        _save(save, transcript, result, address)


def print_accepted(result: AttestationResult, address: str) -> None:
    """The two lines that end an acceptance."""
    passed, required = result.tally()
    until = f", until {result.expires_at:%Y-%m-%d %H:%MZ}" if result.expires_at else ""
    out.print(f"[bold green]ACCEPTED[/]  {passed} of {required} required checks, {platform(result)}{until}")
    out.print(f"          {escape(address)}")


def _refused(error: AttestationError, address: str, save: Path | None, *, explain: bool, as_json: bool) -> None:
    result, transcript = error.result, error.transcript
    if as_json:
        found = {"error": error_fields(error), "address": address}
        found |= {} if result is None else {"result": result.to_builtins()}
        print_json(found | ({} if transcript is None else {"statement": statement_fields(transcript)}))
    else:
        if explain:
            print_explained(result, transcript)
        elif result is not None:
            print_checks(result)
        out.print("  ".join(filter(None, ["[bold red]REFUSED[/] ", platform(result), escape(address)])))
        out.file.flush()
        print_error(error)
    try:
        _save(save, transcript, error, address)
    except ConfigurationError as failure:
        print_error(failure)  # the refusal decides how the command ends
    raise typer.Exit(exit_code(error))


def _save(
    path: Path | None, transcript: Transcript | None, outcome: AttestationResult | AttestationError, address: str
) -> None:
    if path is None:
        return
    if transcript is None:
        err.print("nothing was saved: the server gave no evidence")
        return
    from blindai.channel.saved_evidence import SavedEvidence

    SavedEvidence.of(transcript, outcome, address).write(path)
    err.print(f"saved to {escape(os.fspath(path))}; repeat the verdict with: blindai audit {escape(os.fspath(path))}")
