"""The one error tree. Every error carries a stable `code` that callers and tests may rely on.

The library raises; the command line renders. Codes are dotted lower-case words
(`attestation.code.unknown`, `input.shape`); once released, a code keeps its meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blindai.attestation.result import AttestationResult
    from blindai.channel.transcript import Transcript


class BlindAIError(Exception):
    """Base of all errors of this package.

    Attributes:
        message: one sentence, what was wrong and where.
        code: stable identifier of the refusal.
        hint: what to do next, or an empty string.
        retry_after: seconds after which to try again; 0 where no server has said so.
    """

    default_code = "error"
    retry_after = 0

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]" + (f"\n  next  {self.hint}" if self.hint else "")


class AttestationError(BlindAIError):
    """The peer was not accepted. No application byte was sent to it.

    Attributes:
        step: the step of the appraisal that refused (see `attestation.result.STEPS`).
        check: the human name of the check that refused.
        expected, got: what the relying party required and what it saw.
        likely: the likely cause, in words.
        result: the whole appraisal, where one was made.
        transcript: what was appraised, where the peer gave evidence.
    """

    default_code = "attestation.refused"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        step: str = "",
        check: str = "",
        expected: str = "",
        got: str = "",
        likely: str = "",
        hint: str = "",
        result: AttestationResult | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.step = step
        self.check = check
        self.expected = expected
        self.got = got
        self.likely = likely
        self.result = result
        self.transcript: Transcript | None = None

    def __str__(self) -> str:
        """The error as a reader meets it: what failed, expected and got, cause, what is safe, what next."""
        rows = [
            ("check", self._check_line()),
            ("expected", self.expected),
            ("got", self.got),
            ("likely", self.likely),
            ("safe", "no prompt, tensor or API key was sent"),
            ("next", self.hint),
            ("code", self.code),
        ]
        return "\n".join([self.message, *(f"  {label:<9} {text}" for label, text in rows if text)])

    def _check_line(self) -> str:
        name = self.check or self.step
        if self.result is None or not name:
            return name
        passed, total = self.result.tally()
        return f"{name:<30} {passed} of {total} passed"


class CustodianError(BlindAIError):
    """The custodian of an enclave did not prove who it is, or does not accept the enclave. Nothing else was said to it.

    Attributes:
        step: the step of the custodian's appraisal that refused, where it made one (see `attestation.result.STEPS`).
    """

    default_code = "custodian.refused"

    def __init__(self, message: str, *, code: str | None = None, step: str = "", hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)
        self.step = step


class ReceiptError(BlindAIError):
    """A receipt does not prove what it is for: it, or what was sent or answered, is not what was signed.

    Attributes:
        check: the human name of the check that refused.
        expected, got: what was required and what was seen.
    """

    default_code = "receipt.refused"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        check: str = "",
        expected: str = "",
        got: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.check = check
        self.expected = expected
        self.got = got

    def __str__(self) -> str:
        rows = [("check", self.check), ("expected", self.expected), ("got", self.got), ("next", self.hint)]
        lines = [f"  {label:<9} {text}" for label, text in rows if text]
        return "\n".join([self.message, *lines, f"  code      {self.code}"])


class ConfigurationError(BlindAIError):
    """A file, flag or setting of this side is wrong; nothing was contacted."""

    default_code = "configuration.invalid"


class AuthenticationError(BlindAIError):
    """The API key is missing, unknown, expired or revoked."""

    default_code = "authentication.failed"


class PermissionDenied(BlindAIError):
    """The API key is known but may not do this."""

    default_code = "permission.denied"


class ModelNotFound(BlindAIError):
    """No such model or version, or it is not loaded."""

    default_code = "model.not_found"


class InvalidModel(BlindAIError):
    """The model file was refused; nothing of it was stored."""

    default_code = "model.invalid"


class InvalidInput(BlindAIError):
    """The request was refused: a name, shape, datatype, value or size is wrong."""

    default_code = "input.invalid"


class BudgetExhausted(BlindAIError):
    """The consumer's budget for a leased model is used up.

    Attributes:
        used: units that were spent, by all instances of the enclave, as far as this one knows.
        granted: units that the consumer may spend in all.
        request_id: of the request for more that the enclave filed; empty where the custodian could not be reached.
        state: of that request: `pending`, `approved` or `denied`.
        reason: the custodian's words, where the request was denied.
    """

    default_code = "lease.budget_exhausted"

    def __init__(
        self,
        message: str,
        *,
        used: int,
        granted: int,
        request_id: str,
        state: str,
        reason: str = "",
        code: str | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.used = used
        self.granted = granted
        self.request_id = request_id
        self.state = state
        self.reason = reason


class LeaseStopped(BlindAIError):
    """The custodian stopped or paused the lease of this model, or bars this enclave from it."""

    default_code = "lease.stopped"


class LeaseExpired(BlindAIError):
    """The lease ran out before the enclave could renew it: it has no word from the custodian."""

    default_code = "lease.expired"


class QuotaExceeded(BlindAIError):
    """A limit on memory, models, body size or rate was reached."""

    default_code = "quota.exceeded"


class Unavailable(BlindAIError):
    """The server cannot be reached, is busy, or went away in the middle of a request."""

    default_code = "unavailable"


def harmless(text: str) -> str:
    """`text` without characters that command a terminal: a stranger may have written it."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)
