"""The messages of the gate the other way round: the attested end has opened the connection, the custodian asks.

    POST /.well-known/blindai/challenge
    -> {"v": 1, "audience": for whose sake, "identity": only for a TPM}
    <- {"v": 1, "nonce": 64 hex digits, "signature": 128 hex digits, "credential": only for a TPM}

    POST /.well-known/blindai/attestation
    -> {"v": 1, "mode": "fresh", "nonce", "keyset", "config", "statement", "evidence", "activated": only for a TPM}
    <- {"v": 1, "instance": 64 hex digits}

    <- refused: {"error", "code"}, with "step" where an appraisal refused, "hint" where there is one

The enclave verifies `signature` before it sends its evidence, or anything else that is about itself.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from blindai.attestation.evidence import MAX_EVIDENCE_BYTES, TpmIdentity
from blindai.channel.gate import FreshAnswer, GateCredential, Hex64
from blindai.channel.statement import VERSION, Hex32
from blindai.crypto.digests import tagged

CHALLENGE_PATH = "/.well-known/blindai/challenge"
CHALLENGE_DOMAIN = "blindai/challenge/v1"

# The public areas of two RSA-4096 keys take 1.5 KB in base64; certificates come with the evidence.
MAX_CHALLENGE_BODY_BYTES = 4096
# The largest evidence, and what stands beside it.
MAX_PRESENTATION_BODY_BYTES = MAX_EVIDENCE_BYTES + (1 << 16)
# A challenge with a credential takes 1200 bytes, a refusal a sentence or two.
MAX_ANSWER_BYTES = 1 << 14

Audience = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
"""Which policy the enclave wants to be judged by: the id of a lease."""


class ChallengeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """From the attested end; `identity` is that of its TPM, without certificates."""

    v: int
    audience: Audience
    identity: TpmIdentity | None = None


class ChallengeStatement(msgspec.Struct, frozen=True):
    """What the custodian signs. Each end makes it from its own side of the connection.

    Attributes:
        nonce: 32 random bytes of the custodian, used once; in hex, as all that follows.
        ekm: exported keying material of this connection with `nonce` as context, 32 bytes.
        spki_sha256: of the custodian's TLS key.
        caller_spki_sha256: of the attested end's TLS key.
    """

    audience: Audience
    nonce: Hex32
    ekm: Hex32
    spki_sha256: Hex32
    caller_spki_sha256: Hex32
    v: int = VERSION

    @property
    def message(self) -> bytes:
        return tagged(CHALLENGE_DOMAIN, msgspec.to_builtins(self))


class ChallengeAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The nonce, signed for this connection (Ed25519), and a credential for the TPM of the request."""

    v: int
    nonce: Hex32
    signature: Hex64
    credential: GateCredential | None = None


class Presentation(FreshAnswer, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A fresh attestation with the nonce that it answers."""

    nonce: Hex32


class Admission(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The gate is open. `instance` is the digest of the keyset that the custodian has judged."""

    v: int
    instance: Hex32


challenge_request_decoder = msgspec.json.Decoder(ChallengeRequest)
challenge_answer_decoder = msgspec.json.Decoder(ChallengeAnswer)
presentation_decoder = msgspec.json.Decoder(Presentation)
admission_decoder = msgspec.json.Decoder(Admission)
