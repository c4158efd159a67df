"""Evidence (RFC 9334, section 8.1): what an attester hands over, with the endorsements that travel beside it."""

from __future__ import annotations

import hashlib
from enum import StrEnum

import msgspec

from blindai.errors import AttestationError

# A TDX quote is about 5 KB and its collateral about 16 KB; a boot log has up to 256 KB, each of eight GPUs some 20 KB.
MAX_EVIDENCE_BYTES = 1 << 20


class TEE(StrEnum):
    """The kinds of trusted execution environment, by the names that manifests and results use."""

    INTEL_SGX = "intel-sgx"
    INTEL_TDX = "intel-tdx"
    AMD_SEV_SNP = "amd-sev-snp"
    AZURE_SEV_SNP = "azure-sev-snp"
    AZURE_TDX = "azure-tdx"
    TPM = "tpm"


# Their quote is that of a TPM, whose qualifying data may be too short for 64 bytes (TPM 2.0 part 2, TPM2B_DATA).
TPM_TEES = frozenset({TEE.AZURE_SEV_SNP, TEE.AZURE_TDX, TEE.TPM})


REPORT_DATA_BYTES = 64  # of SGX, TDX and SEV-SNP alike


def require_report_data(report_data: bytes) -> None:
    """Refuse a caller that does not hand in 64 bytes.

    Raises:
        ValueError: a mistake of the caller, not of the platform.
    """
    if len(report_data) != REPORT_DATA_BYTES:
        raise ValueError(f"report_data is {REPORT_DATA_BYTES} bytes, not {len(report_data)}")


def committed(tee: TEE, report_data: bytes) -> bytes:
    """What a quote of `tee` carries of the 64 bytes: all of them, or in a TPM's quote their SHA-256."""
    return hashlib.sha256(report_data).digest() if tee in TPM_TEES else report_data


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


class AmdEndorsements(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What vouches for the key that signs SEV-SNP reports; each certificate and list in DER.

    Attributes:
        certificate: the VCEK of the chip, or the VLEK of the cloud.
        authority: the ASK that issued the VCEK, or the ASVK that issued the VLEK.
        root: the ARK of the product line.
        crl: AMD's revocation list, signed by the ARK.
    """

    certificate: bytes
    authority: bytes
    root: bytes
    crl: bytes | None = None


class TpmQuote(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What stands beside the TPMS_ATTEST of a TPM 2.0 quote.

    Attributes:
        signature: TPMT_SIGNATURE over it, by the attestation key (AK).
        pcrs: the values of the selected PCRs by number, SHA-256 bank, 32 bytes each.
        event_log: the firmware's boot log (TCG PC Client), whose replay explains the PCRs.
    """

    signature: bytes
    pcrs: dict[int, bytes]
    event_log: bytes | None = None


class TpmIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which TPM it is, and its attestation key.

    Attributes:
        ak_public: TPMT_PUBLIC of the AK.
        ek_public: TPMT_PUBLIC of the endorsement key (EK), to which a credential is encrypted.
        ek_certificates: the EK's certificate, then those up to the maker's root; DER.
    """

    ak_public: bytes
    ek_public: bytes
    ek_certificates: tuple[bytes, ...]


class AzureReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What ties the virtual TPM of an Azure confidential VM to its processor.

    Attributes:
        hcl_report: the TPM's NV index 0x01400001: the hardware report at boot, and the runtime data it commits to.
        td_quote: on TDX, the quote that was made from the TD report in there.
    """

    hcl_report: bytes
    td_quote: bytes | None = None


class DeviceKind(StrEnum):
    """The kinds of device that attest themselves beside the processor."""

    NVIDIA_GPU = "nvidia-gpu"
    NVIDIA_SWITCH = "nvidia-switch"


class DeviceEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The evidence of one device.

    Attributes:
        report: the SPDM GET_MEASUREMENTS request and its signed response, as the driver hands them out.
        certificates: PEM, from the device's own certificate to the maker's root.
    """

    kind: DeviceKind
    report: bytes
    certificates: str


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One attestation: the signed quote, and the endorsements with which it can be verified offline.

    Nothing in here is believed before a verifier has checked it: `tee` only selects the verifier.

    Attributes:
        quote: the bytes that commit to report_data: an SGX or TDX quote, an SEV-SNP report, or a TPMS_ATTEST.
        intel_collateral: for Intel's TEEs, Azure's TDX among them.
        amd: for SEV-SNP, Azure's among them.
        tpm: for every TEE whose quote is a TPM's.
        tpm_identity: for `TEE.TPM` alone; Azure's attestation key is vouched for by the processor.
        azure: for Azure's TEEs.
        devices: beside any TEE.
    """

    tee: TEE
    quote: bytes
    intel_collateral: IntelCollateral | None = None
    amd: AmdEndorsements | None = None
    tpm: TpmQuote | None = None
    tpm_identity: TpmIdentity | None = None
    azure: AzureReport | None = None
    devices: tuple[DeviceEvidence, ...] = ()

    def bare(self) -> Evidence:
        """Without endorsements and boot log: what the attester alone can give."""
        tpm = self.tpm and msgspec.structs.replace(self.tpm, event_log=None)
        return msgspec.structs.replace(self, intel_collateral=None, amd=None, tpm=tpm, devices=())

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


class Activation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A credential activation (TPM 2.0 part 1, "Credential Protection"), as the relying party itself carried it out.

    Only the TPM that holds the EK can decrypt the credential, and it does so only if the named AK is one of its own.

    Attributes:
        ek_public: TPMT_PUBLIC of the EK to which the credential was encrypted.
        ak_name: the name (TPM 2.0 part 1, "Names") of the AK for which it was made.
        secret: what the credential held; fresh random bytes of the relying party.
        answer: what came back.
    """

    ek_public: bytes
    ak_name: bytes
    secret: bytes
    answer: bytes


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Evidence)
