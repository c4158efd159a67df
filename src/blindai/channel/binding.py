"""Evidence bound to one connection: what it must commit to, and in which words it is refused if it does not."""

from __future__ import annotations

import msgspec

from blindai.attestation.appraisal.appraisal import abbreviated
from blindai.attestation.evidence import TEE, committed
from blindai.attestation.result import STEPS, AttestationResult, Outcome, Status
from blindai.channel.statement import Statement
from blindai.errors import AttestationError


class ConnectionBinding:
    """What the evidence must commit to, recomputed from this side of the connection; a `Binding` of the appraisal."""

    def __init__(self, own: Statement, claimed: Statement | None) -> None:
        self.report_data = own.report_data
        self._own = own
        self._claimed = claimed

    def committed(self, tee: TEE) -> bytes:
        return committed(tee, self.report_data)

    def refusal(self, got: bytes) -> AttestationError:
        """Say in which field the two ends differ.

        The peer's own statement is used only if the evidence commits to it, and only to choose the words:
        the evidence is refused already.
        """
        if self._claimed is not None and got in {committed(tee, self._claimed.report_data) for tee in TEE}:
            for field, (code, message, likely) in _MISMATCHES.items():
                expected, seen = getattr(self._own, field), getattr(self._claimed, field)
                if expected != seen:
                    return AttestationError(
                        message, code=code, step="binding", expected=expected, got=seen, likely=likely
                    )
        return AttestationError(
            "the evidence was not made for this connection",
            code="binding.report_data",
            step="binding",
            expected=self.report_data.hex(),
            got=got.hex(),
            likely="somebody forwards the evidence of another enclave",
        )


_MISMATCHES: dict[str, tuple[str, str, str]] = {
    "role": (
        "binding.role",
        "the evidence was made by a party in another role",
        "evidence that an enclave made as a client was reflected",
    ),
    "nonce": ("binding.nonce", "the evidence is old: it answers another challenge", "recorded evidence was replayed"),
    "spki_sha256": (
        "binding.key",
        "the connection does not end in the enclave: it ends at somebody else's key",
        "a man in the middle forwards the evidence of a genuine enclave",
    ),
    "ekm": (
        "binding.exporter",
        "the evidence was made for another TLS connection of the same key",
        "the enclave's TLS key was stolen and a relay sits in between",
    ),
    "keyset_digest": ("binding.keyset", "the evidence commits to other keys", "the keyset was exchanged on the way"),
    "config_digest": (
        "binding.config",
        "the evidence commits to another configuration",
        "the configuration was exchanged on the way",
    ),
    "devices_digest": (
        "binding.devices",
        "the evidence commits to other devices",
        "the evidence of a GPU was exchanged on the way",
    ),
}


def unbound(
    result: AttestationResult, message: str, *, code: str, expected: str, got: str, likely: str = ""
) -> AttestationError:
    """A refusal in the step "binding", by a check that only this end of the connection can make."""
    checks = tuple(
        msgspec.structs.replace(check, outcome=Outcome.FAIL, code=code, expected=expected, got=got)
        if check.step == "binding"
        else check
        for check in result.checks
    )
    refused = msgspec.structs.replace(
        result, status=Status.CONTRAINDICATED, checks=checks, code=code, step="binding", expires_at=None
    )
    return AttestationError(
        message,
        code=code,
        step="binding",
        check=STEPS["binding"],
        expected=abbreviated(expected),
        got=abbreviated(got),
        likely=likely,
        result=refused,
    )
