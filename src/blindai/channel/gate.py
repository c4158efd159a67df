"""The messages of the gate: one HTTP exchange before any application byte, on every connection.

    POST /.well-known/blindai/attestation
    -> {"v": 1, "mode": "fresh" | "resumed", "nonce": 64 hex digits, "keyset_digest": only when resumed,
        "devices_digest": only when resumed with devices, "credential": only for a TPM, when it has asked for one}
    <- fresh:   {"v": 1, "mode": "fresh", "keyset", "config", "statement", "evidence", "activated": only for a TPM}
    <- resumed: {"v": 1, "mode": "resumed", "signature": 128 hex digits}
    <- refused: {"error", "code"}, code `gate.*`; with `gate.activation_required` also "identity"

`statement` in the answer is the attested end's own view. The relying party never believes it: it only serves to
say, after a refusal, in which field the two views differ.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from blindai.attestation.evidence import TpmIdentity
from blindai.attestation.result import Mode
from blindai.channel.keyset import Keyset
from blindai.channel.statement import Hex32, Statement
from blindai.wire.problems import ProblemBody

GATE_PATH = "/.well-known/blindai/attestation"

ACTIVATION_REQUIRED = "gate.activation_required"

# The request is one short JSON object and a few headers.
MAX_REQUEST_HEAD_BYTES = 4096
# A credential for an RSA-4096 key, the largest, takes 900 bytes in base64.
MAX_REQUEST_BODY_BYTES = 2048
# Integrity and ciphertext of a secret, each in its size: with SHA-384 2 + 48 + 2 + 48 bytes.
MAX_CREDENTIAL_BLOB_BYTES = 128
MAX_ENCRYPTED_SECRET_BYTES = 512  # RSA-4096; a point on P-384 takes 100
# Evidence with collateral is about 30 KB in base64; composite evidence of eight GPUs stays below this.
MAX_ANSWER_BYTES = 2 << 20

Hex64 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{128}\Z")]


class GateCredential(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A credential that only one TPM can open, and only for one attestation key (`credential.Credential`)."""

    blob: Annotated[bytes, msgspec.Meta(max_length=MAX_CREDENTIAL_BLOB_BYTES)]
    encrypted_secret: Annotated[bytes, msgspec.Meta(max_length=MAX_ENCRYPTED_SECRET_BYTES)]


class GateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """From the relying party; `nonce` is 32 random bytes, never used twice."""

    v: int
    mode: Mode
    nonce: Hex32
    keyset_digest: Hex32 | None = None
    devices_digest: Hex32 | None = None
    credential: GateCredential | None = None


class ActivationRequired(msgspec.Struct, frozen=True, omit_defaults=True):
    """A refusal that says to whom a credential must be made out: `gate.activation_required`."""

    error: str
    code: str
    identity: TpmIdentity


class FreshAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Evidence whose report_data commits to this connection, and what is needed to recompute it.

    Attributes:
        activated: what the credential of the request held, where there was one.
    """

    v: int
    mode: Mode
    keyset: Keyset
    config: dict[str, Any]
    statement: Statement
    evidence: msgspec.Raw
    activated: bytes | None = None


class ResumedAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The statement of this connection, signed by the connection-proof key of a keyset verified before."""

    v: int
    mode: Mode
    signature: Hex64


request_decoder = msgspec.json.Decoder(GateRequest)
fresh_decoder = msgspec.json.Decoder(FreshAnswer)
resumed_decoder = msgspec.json.Decoder(ResumedAnswer)
activation_required_decoder = msgspec.json.Decoder(ActivationRequired)
problem_decoder = msgspec.json.Decoder(ProblemBody)
encoder = msgspec.json.Encoder()


class GateProblem(ProblemBody, frozen=True, omit_defaults=True):
    """A refusal by a relying party; `step` is that of the appraisal, where one was made."""

    step: str = ""


gate_problem_decoder = msgspec.json.Decoder(GateProblem)


class GateRefusal(Exception):
    """The gate stays shut. `fatal` ends the connection; otherwise the other end may ask again.

    With an `identity`, it may ask with a credential for it.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        fatal: bool = True,
        identity: TpmIdentity | None = None,
        step: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.fatal = fatal
        self.identity = identity
        self.step = step
        self.hint = hint

    @property
    def body(self) -> bytes:
        if self.identity is not None:
            return encoder.encode(ActivationRequired(self.message, self.code, self.identity))
        return encoder.encode(GateProblem(error=self.message, code=self.code, hint=self.hint, step=self.step))
