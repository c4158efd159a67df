"""What `blindai audit` makes of a receipt."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import typer
from rich.markup import escape

from blindai.cli.console import error_fields, exit_code, out, print_error, print_json
from blindai.cli.predict import read_inputs
from blindai.cli.verdict import platform, print_checks, print_each, print_explained, statement_fields, utc
from blindai.errors import AttestationError, BlindAIError, InvalidInput, ReceiptError, harmless

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from blindai.attestation.policy import Policy
    from blindai.attestation.result import AttestationResult
    from blindai.channel.saved_evidence import SavedEvidence
    from blindai.client.receipt import Receipt


def is_receipt(data: bytes) -> bool:
    """As `client.receipt.is_receipt`."""
    from blindai.client import receipt

    return receipt.is_receipt(data)


def decode(data: bytes) -> Receipt:
    """As `client.receipt.SavedReceipt.decode`."""
    from blindai.client.receipt import Receipt, SavedReceipt

    return Receipt(SavedReceipt.decode(data))


def read_outputs(path: Path) -> Any:
    """Values as `predict.read_inputs` reads them, or what `blindai predict --json` has printed.

    Raises:
        InvalidInput: `input.file`, or of a tensor that cannot be read.
    """
    from blindai.wire.tensor import from_json

    values = read_inputs(path)
    if not isinstance(values, dict) or not isinstance(values.get("outputs"), list):
        return values
    try:
        return {
            output["name"]: from_json(
                output["name"], output["datatype"], tuple(output["shape"]), json.dumps(output["data"]).encode()
            ).data
            for output in values["outputs"]
        }
    except (KeyError, TypeError) as error:
        raise InvalidInput(f"{path} is not what `blindai predict --json` prints: {error}", code="input.file") from error


class Audited:
    """A receipt whose checks were made."""

    def __init__(
        self,
        receipt: Receipt,
        policy: Policy,
        *,
        at: datetime | None,
        given_input: Path | None,
        given_output: Path | None,
    ) -> None:
        """Make them. `at` is another time than that of the receipt, to judge by.

        Raises:
            InvalidInput: `input.file`, or of a tensor that cannot be read.
        """
        self._receipt = receipt
        self._policy = policy
        inputs = None if given_input is None else read_inputs(given_input)
        outputs = None if given_output is None else read_outputs(given_output)
        self._audit = receipt.audit(policy, inputs=inputs, outputs=outputs, at=at)
        if isinstance(self._audit.error, AttestationError):
            # Nothing is sent to anybody here, and the clock of this computer plays no part.
            self._audit.error.hint = "" if at is None else "for the verdict at the time of the receipt, leave out --at"

    def show(
        self, *, ask: Callable[[SavedEvidence, AttestationResult], str] | None, explain: bool, as_json: bool
    ) -> None:
        """Print every check and the verdict; leave with an exit code where it is a refusal.

        Args:
            ask: somebody else about the devices, whose words are shown.
        """
        audit, saved = self._audit, self._receipt.saved
        told = "" if ask is None or audit.result is None else ask(saved.evidence, audit.result)
        if as_json:
            print_json(self._fields() | ({"nvattest": told} if told else {}))
        else:
            self._print(explain=explain, told=told)
        if audit.error is not None:
            raise typer.Exit(exit_code(audit.error))

    def _fields(self) -> dict[str, Any]:
        from blindai.client.receipt import UNKNOWABLE

        audit, saved = self._audit, self._receipt.saved
        return {
            "kind": saved.kind,
            "address": saved.address,
            "asked_at": utc(saved.asked),
            "at": utc(audit.at),
            "recorded_verdict": msgspec.to_builtins(saved.verdict),
            "policy_changed": saved.verdict.policy_digest != self._policy.digest,
            "outdated": audit.outdated,
            "receipt": msgspec.to_builtins(saved.receipt),
            "checks": msgspec.to_builtins(audit.checks),
            "statement": statement_fields(saved.gate),
            "not_known": list(UNKNOWABLE),
            **({"error": error_fields(audit.error)} if audit.error is not None else {}),
            **({"result": audit.result.to_builtins()} if audit.result is not None else {}),
        }

    def _print(self, *, explain: bool, told: str) -> None:
        from blindai.attestation.result import Outcome
        from blindai.client.receipt import UNKNOWABLE

        audit, saved = self._audit, self._receipt.saved
        receipt = saved.receipt
        if explain:
            print_explained(audit.result, saved.gate)
        elif audit.result is not None:
            print_checks(audit.result)
        print_each(audit.checks, explain=explain)
        when = f"as of {utc(audit.at)}" + (", the time of the receipt" if audit.at == saved.asked else "")
        if audit.error is None and audit.result is not None:
            passed, required = audit.result.tally()
            made = sum(check.outcome is Outcome.PASS for check in audit.checks)
            verdict = f"[bold green]ACCEPTED[/]  {passed + made} of {required + made} required checks"
        else:
            verdict = "[bold red]REFUSED[/] "
        out.print("  ".join(filter(None, [verdict, platform(audit.result), when])))
        if audit.outdated:
            out.print(
                f"[yellow]outdated[/]  by the clock of today the enclave would be refused ({audit.outdated}): "
                "what vouched for it then has run out since"
            )
        out.print(f"receipt   {receipt.model} version {receipt.version}, {utc(receipt.time)} as claimed by the enclave")
        out.print(f"model     {receipt.model_digest} [dim](SHA-256 of the upload)[/]")
        if receipt.grant_digest is not None:
            out.print(f"lease     grant {receipt.grant_digest}")
        out.print(f"recorded  {utc(saved.asked)}  {escape(harmless(saved.address))}  {saved.verdict.status}")
        if told:
            out.print(f"nvattest  {escape(told)}")
        if saved.verdict.policy_digest != self._policy.digest:
            then, now = saved.verdict.policy_digest[:16], self._policy.digest[:16]
            out.print(f"policy    {escape(self._policy.source)} is not the one of then: {then}.. then, {now}.. now")
        for line in UNKNOWABLE if explain else UNKNOWABLE[:1]:
            out.print(f"not known {line}")
        out.file.flush()
        if audit.error is not None:
            print_error(_without_comfort(audit.error))


def _without_comfort(error: BlindAIError) -> BlindAIError:
    """The same refusal, without the words that nothing was sent: when the receipt was made, something was."""
    if not isinstance(error, AttestationError):
        return error
    return ReceiptError(
        error.message, code=error.code, check=error.check, expected=error.expected, got=error.got, hint=error.hint
    )
