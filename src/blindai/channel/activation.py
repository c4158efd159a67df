"""The relying party's side of credential activation, for evidence of a TPM.

A credential is encrypted to the endorsement key that the peer names. Whether that key is in a genuine TPM shows later,
when the evidence is verified: what comes back is believed for this key and no other (`evidence.Activation`).
"""

from __future__ import annotations

import os

import msgspec

from blindai.attestation.credential import SECRET_BYTES, make_credential
from blindai.attestation.evidence import Activation, TpmIdentity
from blindai.attestation.verifiers.tpm_quote import endorsement_key_fault
from blindai.attestation.verifiers.tpm_structures import parse_public
from blindai.channel import gate
from blindai.errors import AttestationError


class Challenge(msgspec.Struct, frozen=True):
    """A credential on its way.

    Attributes:
        ek_public: TPMT_PUBLIC of the key to which it is encrypted.
        ak_name: the name of the key that must be in the same TPM.
        secret: what it holds; fresh random bytes.
        credential: what is sent.
    """

    ek_public: bytes
    ak_name: bytes
    secret: bytes
    credential: gate.GateCredential

    @classmethod
    def of(cls, identity: TpmIdentity) -> Challenge:
        """Make one with a new secret for the TPM and the attestation key that the peer says are its own.

        Raises:
            AttestationError: step `evidence`, the keys cannot be parsed; `endorsements.endorsement_key`, nothing can be
                encrypted to the first of them.
        """
        ek = parse_public(identity.ek_public, what="the EK")
        ak = parse_public(identity.ak_public, what="the AK")
        if fault := endorsement_key_fault(ek):
            raise AttestationError(
                "the peer's endorsement key is none",
                code="endorsements.endorsement_key",
                step="endorsements",
                expected="a storage key that never leaves its TPM",
                got=fault,
            )
        secret = os.urandom(SECRET_BYTES)
        made = make_credential(ek, ak.name, secret)
        return cls(ek.raw, ak.name, secret, gate.GateCredential(made.blob, made.encrypted_secret))

    def answered(self, answer: bytes) -> Activation:
        """The record of what came back, to be judged with the evidence."""
        return Activation(ek_public=self.ek_public, ak_name=self.ak_name, secret=self.secret, answer=answer)
