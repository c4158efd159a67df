"""Evidence (RFC 9334, section 8.1): what an attester hands over, with the endorsements that travel beside it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from blindai.errors import AttestationError

# A TDX quote is about 5 KB and its collateral about 16 KB; a composite with eight GPUs stays well below this.
MAX_EVIDENCE_BYTES = 1 << 20


class TEE(StrEnum):
    """The kinds of trusted execution environment, by the names that manifests and results use."""

    INTEL_SGX = "intel-sgx"
    INTEL_TDX = "intel-tdx"


class IntelCollateral(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Intel DCAP collateral, in the field names of Intel's quote verification library (QuoteCollateralV3).

    Chains are PEM, leaf first. `*_crl` and `*_signature` are lower-case hex of DER and of raw r||s.
    `tcb_info` and `qe_identity` are the exact inner JSON over which Intel signed.
    """

    pck_crl_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: str
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str
    pck_certificate_chain: str | None = None


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One attestation: the signed quote, and the endorsements with which it can be verified offline.

    Nothing in here is believed before a verifier has checked it: `tee` only selects the verifier.
    """

    tee: TEE
    quote: bytes
    intel_collateral: IntelCollateral | None = None

    def encode(self) -> bytes:
        """As JSON, `quote` in base64."""
        return _encoder.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Evidence:
        """Strictly parse what `encode` wrote.

        Raises:
            AttestationError: `evidence.too_large` or `evidence.malformed`, step `evidence`.
        """
        if len(data) > MAX_EVIDENCE_BYTES:
            raise AttestationError(
                "the evidence is larger than any genuine evidence",
                code="evidence.too_large",
                step="evidence",
                expected=f"at most {MAX_EVIDENCE_BYTES} bytes",
                got=f"{len(data)} bytes",
            )
        try:
            return _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise AttestationError(
                "the evidence cannot be parsed", code="evidence.malformed", step="evidence", got=str(error)
            ) from error


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Evidence)
