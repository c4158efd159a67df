"""`blindai manifest`: check a policy before it is relied on, and read it in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from blindai.cli.console import ExitCode, out, print_json, reported
from blindai.cli.target import Json
from blindai.errors import ConfigurationError, harmless

if TYPE_CHECKING:
    from blindai.attestation.policy.lint import Finding

app = typer.Typer(no_args_is_help=True, help="Check a manifest, and show what it accepts.")

File = Annotated[Path, typer.Argument(metavar="FILE", help="The manifest.")]

_COLOURS = {"error": "bold red", "warning": "yellow"}


@app.command()
def check(
    file: File = Path("manifest.toml"),
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where there are warnings.")] = False,
    as_json: Json = False,
) -> None:
    """Say by line what is wrong in a manifest (exit code 2), and where it accepts more than it may have to."""
    with reported(as_json=as_json):
        from blindai.attestation.policy import Policy
        from blindai.attestation.policy.lint import errors, warnings

        problems: list[ConfigurationError] = []
        try:
            policy = Policy.load(file, problems=problems)
        except ConfigurationError:
            if not problems:  # there is no manifest to remark on
                raise
            findings = errors(problems, str(file))
            code = ExitCode.USAGE
        else:
            findings = warnings(policy)
            code = ExitCode.FAILED if strict and findings else ExitCode.OK
        if as_json:
            import msgspec

            print_json({"file": str(file), "valid": not problems, "findings": msgspec.to_builtins(findings)})
        else:
            _print(file, findings)
    raise typer.Exit(code)


@app.command()
def show(file: File = Path("manifest.toml"), as_json: Json = False) -> None:
    """Say in plain words what a manifest accepts and refuses, with the line for each."""
    with reported(as_json=as_json):
        from blindai.attestation.appraisal.appraisal import abbreviated
        from blindai.attestation.policy import Policy
        from blindai.attestation.policy.summary import summary

        policy = Policy.load(file)
        sections = summary(policy)
        if as_json:
            import msgspec

            told = {"file": str(file), "digest": policy.digest, "sections": msgspec.to_builtins(sections)}
            print_json(told)
            return
        out.print(f"policy {escape(harmless(str(file)))}")
        out.print(f"digest {policy.digest}")
        for section in sections:
            out.print(f"\n[bold]{escape(section.title)}[/]")
            for statement in section.statements:
                line = "" if statement.line is None else f"line {statement.line}"
                out.print(f"  {line:<10}{escape(harmless(abbreviated(statement.text)))}")


def _print(file: Path, findings: tuple[Finding, ...]) -> None:
    name = harmless(str(file))
    for finding in findings:
        place = name if finding.line is None else f"{name}:{finding.line}"
        out.print(escape(f"{place}: "), end="")
        out.print(f"{finding.level}: ", style=_COLOURS[finding.level], end="")
        out.print(escape(f"{harmless(finding.message)} [{finding.code}]"))
    counts = {level: sum(finding.level == level for finding in findings) for level in _COLOURS}
    said = ", ".join(f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items() if count)
    out.print(escape(f"{name}: {said or 'nothing to remark'}"))
