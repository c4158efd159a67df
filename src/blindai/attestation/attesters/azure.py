"""The attester of Azure confidential VMs: the paravisor's virtual TPM, and what the metadata service adds.

The virtual TPM signs what the relying party asked for; the paravisor's report, in an NV index, leads from there to
the processor. The certificates of an SEV-SNP processor, and the quote of a TDX one, come from Azure's instance
metadata service (IMDS), a plain HTTP service on a link-local address. Nothing that it says is believed unsigned.

Sources: Microsoft, "Guest attestation design for confidential VMs" and "Trusted Hardware Identity Management".
"""

from __future__ import annotations

import base64
import http.client
import threading
from typing import Protocol

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from blindai.attestation.evidence import (
    TEE,
    AmdEndorsements,
    AzureReport,
    Evidence,
    TpmQuote,
    committed,
    require_report_data,
)
from blindai.attestation.verifiers import azure_report
from blindai.errors import Unavailable

HCL_REPORT_INDEX = 0x01400001
AK_HANDLE = 0x81000003

IMDS_HOST = "169.254.169.254"
IMDS_SECONDS = 5.0  # it is on the same host
MAX_IMDS_BYTES = 1 << 17  # a chain of certificates is 6 KB, a TD quote 5 KB
_CERTIFICATION_PATH = "/metadata/THIM/amd/certification"
_TD_QUOTE_PATH = "/acc/tdquote"


class VirtualTpm(Protocol):
    """What is needed of the TPM, and may be done from several threads."""

    def read_nv(self, index: int) -> bytes:
        """All of an NV index."""

    def quote_with(self, key: int, extra_data: bytes) -> tuple[bytes, TpmQuote]:
        """A quote by the persistent key with this handle: TPMS_ATTEST, and what stands beside it."""


class MetadataService(Protocol):
    """What is needed of Azure's metadata service."""

    def amd_endorsements(self) -> AmdEndorsements:
        """The certificates of the processor's VCEK, without a revocation list."""

    def td_quote(self, td_report: bytes) -> bytes:
        """A quote over a TD report."""


class AzureAttester:
    """Attests an Azure confidential VM, whichever processor it has.

    Args:
        tpm: its virtual TPM.
        metadata: its metadata service.

    Raises:
        AttestationError: `evidence.hcl`: the TPM holds no report of Azure's paravisor.
        ConfigurationError, Unavailable: the TPM cannot be used.
    """

    simulated = False
    quick = False

    def __init__(self, tpm: VirtualTpm, metadata: MetadataService) -> None:
        self._tpm = tpm
        self._metadata = metadata
        self._lock = threading.Lock()
        self._endorsed: tuple[AzureReport, AmdEndorsements | None] | None = None
        kind = azure_report.parse(tpm.read_nv(HCL_REPORT_INDEX)).kind
        self.tee = TEE.AZURE_SEV_SNP if kind == azure_report.SNP_REPORT else TEE.AZURE_TDX

    def attest(self, report_data: bytes) -> Evidence:
        """Have the SHA-256 of `report_data`, 64 bytes, signed. See `Attester.attest`.

        Raises:
            ValueError: `report_data` is not 64 bytes.
            Unavailable: `attester.metadata`: the metadata service does not answer as it should.
            AttestationError: `evidence.hcl`.
        """
        require_report_data(report_data)
        report, amd = self._endorse(self._tpm.read_nv(HCL_REPORT_INDEX))
        quote, tpm = self._tpm.quote_with(AK_HANDLE, committed(self.tee, report_data))
        return Evidence(tee=self.tee, quote=quote, tpm=tpm, azure=report, amd=amd)

    def _endorse(self, hcl_report: bytes) -> tuple[AzureReport, AmdEndorsements | None]:
        """Ask the metadata service, unless it is still the report for which it was asked before."""
        with self._lock:
            if self._endorsed is None or self._endorsed[0].hcl_report != hcl_report:
                amd = td_quote = None
                if self.tee is TEE.AZURE_SEV_SNP:
                    amd = self._metadata.amd_endorsements()
                else:
                    td_quote = self._metadata.td_quote(azure_report.parse(hcl_report).hardware_report)
                self._endorsed = AzureReport(hcl_report=hcl_report, td_quote=td_quote), amd
            return self._endorsed


class _Certification(msgspec.Struct, frozen=True, rename="camel"):
    """Trusted Hardware Identity Management, response of the AMD certification API."""

    vcek_cert: str
    certificate_chain: str


class _TdQuote(msgspec.Struct, frozen=True):
    quote: str


class InstanceMetadata:
    """Azure's instance metadata service.

    Args:
        host, port: where it listens; a link-local address that never leaves the host.
    """

    def __init__(self, host: str = IMDS_HOST, port: int = 80) -> None:
        self._address = host, port

    def amd_endorsements(self) -> AmdEndorsements:
        """Ask for the certificates of the processor. See `MetadataService`.

        Raises:
            Unavailable: `attester.metadata`.
        """
        answer = self._ask("GET", _CERTIFICATION_PATH, None)
        try:
            found = msgspec.json.decode(answer, type=_Certification)
            (vcek,) = _pem_bodies(found.vcek_cert)
            authority, root = x509.load_pem_x509_certificates(found.certificate_chain.encode())
        except (msgspec.DecodeError, UnicodeError, ValueError) as error:
            raise _failed(f"its certificates cannot be parsed: {error}") from error
        return AmdEndorsements(
            certificate=vcek, authority=authority.public_bytes(Encoding.DER), root=root.public_bytes(Encoding.DER)
        )

    def td_quote(self, td_report: bytes) -> bytes:
        """Have a TD report turned into a quote. See `MetadataService`.

        Raises:
            Unavailable: `attester.metadata`.
        """
        body = msgspec.json.encode({"report": base64.urlsafe_b64encode(td_report).decode()})
        try:
            found = msgspec.json.decode(self._ask("POST", _TD_QUOTE_PATH, body), type=_TdQuote)
            digits = found.quote.rstrip("=")
            if not digits:
                raise ValueError("it is empty")
            return base64.b64decode(digits + "=" * (-len(digits) % 4), altchars=b"-_", validate=True)
        except (msgspec.DecodeError, UnicodeError, ValueError) as error:
            raise _failed(f"its quote cannot be parsed: {error}") from error

    def _ask(self, method: str, path: str, body: bytes | None) -> bytes:
        connection = http.client.HTTPConnection(*self._address, timeout=IMDS_SECONDS)
        try:
            # Without the header it refuses: no page in a browser can be made to ask it.
            connection.request(method, path, body, {"Metadata": "true", "Content-Type": "application/json"})
            with connection.getresponse() as response:
                answer = response.read(MAX_IMDS_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise _failed(f"{path}: {error}") from error
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK or len(answer) > MAX_IMDS_BYTES:
            raise _failed(f"{path}: status {response.status}, {len(answer)} bytes")
        return answer


def _pem_bodies(pem: str) -> list[bytes]:
    """The DER of each block, unparsed: pyca/cryptography warns of the serial number 0 that VCEKs have."""
    blocks = pem.split("-----BEGIN CERTIFICATE-----")[1:]
    return [base64.b64decode(block.partition("-----END CERTIFICATE-----")[0]) for block in blocks]


def _failed(reason: str) -> Unavailable:
    return Unavailable(
        f"Azure's instance metadata service does not answer as it should: {reason}",
        code="attester.metadata",
        hint="it is at http://169.254.169.254 inside an Azure virtual machine, and nowhere else",
    )
