"""`blindai audit`: repeat the appraisal of saved evidence or of a receipt, later and without the server."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.markup import escape

from blindai.cli import receipt
from blindai.cli.console import err, error_fields, exit_code, out, print_error, print_json, reported
from blindai.cli.target import Json, PolicyFile, Simulation, open_input
from blindai.cli.verdict import platform, print_checks, print_explained, statement_fields, utc
from blindai.cli.verify import Explain
from blindai.errors import AttestationError, ConfigurationError, InvalidInput, harmless

if TYPE_CHECKING:
    from blindai.attestation.policy import Policy
    from blindai.attestation.result import AttestationResult
    from blindai.channel.saved_evidence import SavedEvidence

_Time = Annotated[datetime, msgspec.Meta(tz=True)]


def audit(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Of `blindai verify --save` or `blindai predict --receipt`; '-' is stdin."),
    ],
    policy: PolicyFile = None,
    simulation: Simulation = False,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="RFC 3339, or 'now'; without it the time of the file."),
    ] = None,
    collateral_url: Annotated[
        str | None,
        typer.Option("--collateral-url", metavar="URL", help="Ask this PCCS or KDS for endorsements that are missing."),
    ] = None,
    nvattest: Annotated[
        bool,
        typer.Option("--nvattest", help="Also ask NVIDIA's program about the GPUs; it needs the network."),
    ] = False,
    given_input: Annotated[
        Path | None,
        typer.Option(
            "--input", metavar="FILE", help="Of a receipt: is this what was sent? As `blindai predict` reads."
        ),
    ] = None,
    given_output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help="Of a receipt: is this the answer? Or `blindai predict --json`'s."
        ),
    ] = None,
    explain: Explain = False,
    as_json: Json = False,
) -> None:
    """Repeat the verdict on saved evidence, or on a receipt, offline. Exits as `verify` does."""
    with reported(as_json=as_json):
        data = _read(file)
        if receipt.is_receipt(data):
            if collateral_url is not None:
                raise _useless("--collateral-url is of no use for a receipt: its evidence came with all endorsements")
            audited = receipt.Audited(
                receipt.decode(data),
                _policy(policy, simulation=simulation),
                at=None if at is None else _moment(at),
                given_input=given_input,
                given_output=given_output,
            )
            audited.show(ask=_ask_nvidia if nvattest else None, explain=explain, as_json=as_json)
            return
        if given_input is not None or given_output is not None:
            raise _useless("--input and --output are for receipts, and this file is none")
        saved = _decode(data)
        if collateral_url is not None:
            saved = _endorsed(saved, collateral_url)
        chosen = _policy(policy, simulation=simulation)
        moment = saved.gate.at if at is None else _moment(at)
        error: AttestationError | None = None
        result: AttestationResult | None = None
        nvidia_says = ""
        try:
            result = saved.audit(chosen, at=moment)
            if nvattest:
                nvidia_says = _ask_nvidia(saved, result)
        except AttestationError as refusal:
            error, result = refusal, refusal.result or result
            if error.code.endswith(("expired", "not_yet_valid")):
                # The clock of this computer plays no part here.
                error.hint = (
                    "" if moment == saved.gate.at else "for the verdict at the time of the file, leave out --at"
                )
        if as_json:
            told = {"nvattest": nvidia_says} if nvidia_says else {}
            print_json(_fields(saved, chosen, moment, result, error) | told)
        else:
            _print(saved, chosen, moment, result, error, explain=explain, nvidia_says=nvidia_says)
        if error is not None:
            raise typer.Exit(exit_code(error))


def _read(file: Path) -> bytes:
    from blindai.client.receipt import MAX_FILE_BYTES

    try:
        with open_input(file) as opened:
            return opened.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InvalidInput(f"{file} cannot be read: {error}", code="input.saved_evidence") from error


def _decode(data: bytes) -> SavedEvidence:
    from blindai.channel.saved_evidence import SavedEvidence

    return SavedEvidence.decode(data)


def _useless(message: str) -> ConfigurationError:
    return ConfigurationError(message, code="configuration.audit")


def _endorsed(saved: SavedEvidence, url: str) -> SavedEvidence:
    from blindai.attestation.collateral.library import Library, complete
    from blindai.attestation.evidence import Evidence

    try:
        evidence = Evidence.decode(bytes(saved.gate.evidence))
        return saved.endorsed(complete(evidence, Library.open(evidence.tee, url=url)))
    except AttestationError:
        return saved  # the appraisal says what is wrong with it


def _ask_nvidia(saved: SavedEvidence, result: AttestationResult) -> str:
    """In its own words, what NVIDIA's program found, which was nothing bad."""
    from blindai.attestation.evidence import Evidence
    from blindai.attestation.nvattest import PROGRAM, require_accepted

    devices = Evidence.decode(bytes(saved.gate.evidence)).devices
    with err.status(f"{PROGRAM} asks NVIDIA about {len(devices)} devices"):
        verdicts = require_accepted(devices, result.devices)
    words = " and ".join(dict.fromkeys(harmless(verdict.message) for verdict in verdicts))
    return f"accepts {len(devices)} devices: {words}"


def _policy(policy: Path | None, *, simulation: bool) -> Policy:
    from blindai.attestation.measure.local import local_policy
    from blindai.client.profile import resolve_policy

    return local_policy() if simulation and policy is None else resolve_policy(policy)


def _moment(at: str) -> datetime:
    if at == "now":
        return datetime.now(UTC)
    try:
        return msgspec.convert(at, _Time)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"{at!r} is not a time",
            code="configuration.time",
            hint="give RFC 3339 with a time zone, such as 2026-01-15T12:00:00Z, or now",
        ) from error


def _fields(
    saved: SavedEvidence,
    policy: Policy,
    at: datetime,
    result: AttestationResult | None,
    error: AttestationError | None,
) -> dict[str, Any]:
    from blindai.channel.saved_evidence import UNKNOWABLE

    return {
        "address": saved.address,
        "recorded_at": utc(saved.gate.at),
        "at": utc(at),
        "recorded_verdict": msgspec.to_builtins(saved.verdict),
        "policy_changed": _changed(saved, policy),
        "statement": statement_fields(saved.gate),
        "not_known": list(UNKNOWABLE),
        **({"error": error_fields(error)} if error is not None else {}),
        **({"result": result.to_builtins()} if result is not None else {}),
    }


def _changed(saved: SavedEvidence, policy: Policy) -> bool | None:
    """Whether it is another policy than then; None where the refusal came before one was needed."""
    return saved.verdict.policy_digest != policy.digest if saved.verdict.policy_digest else None


def _print(
    saved: SavedEvidence,
    policy: Policy,
    at: datetime,
    result: AttestationResult | None,
    error: AttestationError | None,
    *,
    explain: bool,
    nvidia_says: str,
) -> None:
    from blindai.channel.saved_evidence import UNKNOWABLE

    if explain:
        print_explained(result, saved.gate)
    elif result is not None:
        print_checks(result)
    when = f"as of {utc(at)}" + (", the time of the file" if at == saved.gate.at else "")
    if error is None and result is not None:
        passed, required = result.tally()
        verdict = f"[bold green]ACCEPTED[/]  {passed} of {required} required checks"
    else:
        verdict = "[bold red]REFUSED[/] "
    out.print("  ".join(filter(None, [verdict, platform(result), when])))
    out.print(f"recorded  {utc(saved.gate.at)}  {escape(harmless(saved.address))}  {_then(saved)}")
    if nvidia_says:
        out.print(f"nvattest  {escape(nvidia_says)}")
    if _changed(saved, policy):
        then, now = saved.verdict.policy_digest[:16], policy.digest[:16]
        out.print(f"policy    {escape(policy.source)} is not the one of that verdict: {then}.. then, {now}.. now")
    for line in UNKNOWABLE if explain else UNKNOWABLE[:1]:
        out.print(f"not known {line}")
    out.file.flush()
    if error is not None:
        print_error(error)


def _then(saved: SavedEvidence) -> str:
    verdict = saved.verdict
    return escape(harmless("accepted then" if not verdict.code else f"refused then: {verdict.code}"))
