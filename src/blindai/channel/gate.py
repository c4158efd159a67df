"""The messages of the gate: one HTTP exchange before any application byte, on every connection.

    POST /.well-known/blindai/attestation
    -> {"v": 1, "mode": "fresh" | "resumed", "nonce": 64 hex digits, "keyset_digest": only when resumed}
    <- fresh:   {"v": 1, "mode": "fresh", "keyset", "config", "statement", "evidence"}
    <- resumed: {"v": 1, "mode": "resumed", "signature": 128 hex digits}
    <- refused: {"error", "code"}, code `gate.*`

`statement` in the answer is the attested end's own view. The relying party never believes it: it only serves to
say, after a refusal, in which field the two views differ.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from blindai.attestation.result import Mode
from blindai.channel.keyset import Keyset
from blindai.channel.statement import Statement
from blindai.wire.problems import ProblemBody

GATE_PATH = "/.well-known/blindai/attestation"

# The request is one short JSON object and a few headers.
MAX_REQUEST_HEAD_BYTES = 4096
MAX_REQUEST_BODY_BYTES = 1024
# Evidence with collateral is about 30 KB in base64; composite evidence of eight GPUs stays below this.
MAX_ANSWER_BYTES = 2 << 20

Hex32 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Hex64 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{128}\Z")]


class GateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """From the relying party; `nonce` is 32 random bytes, never used twice."""

    v: int
    mode: Mode
    nonce: Hex32
    keyset_digest: Hex32 | None = None


class FreshAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Evidence whose report_data commits to this connection, and what is needed to recompute it."""

    v: int
    mode: Mode
    keyset: Keyset
    config: dict[str, Any]
    statement: Statement
    evidence: msgspec.Raw


class ResumedAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The statement of this connection, signed by the connection-proof key of a keyset verified before."""

    v: int
    mode: Mode
    signature: Hex64


request_decoder = msgspec.json.Decoder(GateRequest)
fresh_decoder = msgspec.json.Decoder(FreshAnswer)
resumed_decoder = msgspec.json.Decoder(ResumedAnswer)
problem_decoder = msgspec.json.Decoder(ProblemBody)
encoder = msgspec.json.Encoder()
