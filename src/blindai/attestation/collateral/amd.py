"""AMD's endorsements for the chip that signed an SEV-SNP report: VCEK, ASK and ARK, and the revocation list.

Source: AMD VCEK Certificate and KDS Interface Specification 57230, section 4. A VLEK's certificate is given by AMD to
the cloud alone, which hands it to its guests beside the report; no service gives it to anybody else.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

import msgspec

from blindai.attestation.anchors import Anchor, Vendor
from blindai.attestation.collateral.document import Document, Entry, Kind
from blindai.attestation.collateral.plan import Endorsements
from blindai.attestation.collateral.service import Services
from blindai.attestation.evidence import TEE, AmdEndorsements, Evidence
from blindai.attestation.verifiers import azure_report
from blindai.attestation.verifiers.amd_certificates import check_chain, parse_certificate
from blindai.attestation.verifiers.amd_product import GENOA, MILAN, PRODUCTS, Product
from blindai.attestation.verifiers.amd_report import UnverifiedReport, parse
from blindai.attestation.verifiers.certificates import common_name, refusal, spki_sha256

# The names of the parts of the TCB in an address, by their names here.
_SPL = {"fmc": "fmcSPL", "boot_loader": "blSPL", "tee": "teeSPL", "snp": "snpSPL", "microcode": "ucodeSPL"}

_END = "-----END CERTIFICATE-----"


class AmdPlan(msgspec.Struct, frozen=True):
    """The endorsements of one chip at one TCB, or of one cloud.

    Attributes:
        signing_key: `vcek` or `vlek`.
        chip_id: 64 bytes; zeros if it is masked.
        reported_tcb: 8 bytes, to which the key is bound.
        certificate: what the host gave of the key, DER; empty if it gave none.
    """

    product: Product
    signing_key: str
    chip_id: bytes
    reported_tcb: bytes
    certificate: bytes
    services: Services

    @property
    def platform(self) -> str:
        return f"an AMD {self.product.name} processor that signs with its {self.signing_key.upper()}"

    @property
    def documents(self) -> tuple[Document, ...]:
        line, key = self.product.name.lower(), self.signing_key
        base = f"{self.services.amd}/{key}/v1/{self.product.name}"
        shared = (
            Document(
                name=f"amd-{line}-{key}-chain.pem",
                what=f"the certificates above the {key.upper()} of {self.product.name}",
                kind=Kind.CHAIN,
                url=f"{base}/cert_chain",
            ),
            Document(
                name=f"amd-{line}-{key}-crl.pem",
                what=f"the revocation list of {self.product.name}",
                kind=Kind.CRL,
                url=f"{base}/crl",
            ),
        )
        return shared if self.certificate else (self._own(base), *shared)

    def _own(self, base: str) -> Document:
        hwid = self.chip_id[: self.product.hwid_bytes].hex()
        versions = "&".join(f"{_SPL[part]}={self.reported_tcb[at]:02d}" for part, at in self.product.tcb.items())
        by_chip = self.signing_key == "vcek" and any(self.chip_id)
        holder = f"-{hwid}" if by_chip else ""
        return Document(
            name=f"amd-{self.product.name.lower()}-{self.signing_key}{holder}-{self.reported_tcb.hex()}.pem",
            what=f"the {self.signing_key.upper()} certificate of this chip at its TCB",
            kind=Kind.CERTIFICATE,
            url=f"{base}/{hwid}?{versions}" if by_chip else "",
        )

    def assemble(self, entries: Mapping[str, Entry]) -> Endorsements:
        """See `Plan.assemble`. Roots are not judged here: which ones it trusts is up to each relying party."""
        *own, chain, crl = (entries[document.name] for document in self.documents)
        authority, root = (
            ssl.PEM_cert_to_DER_cert((part + _END).strip()) for part in chain.body.decode("ascii").split(_END)[:2]
        )
        amd = AmdEndorsements(
            certificate=own[0].body if own else self.certificate, authority=authority, root=root, crl=crl.body
        )
        certificate = parse_certificate(root, what="ARK")
        anchor = Anchor(common_name(certificate), Vendor.AMD, spki_sha256(certificate))
        checked = check_chain(amd, (anchor,))
        if checked.tcb != self.product.versions(self.reported_tcb):
            raise refusal(
                "tcb",
                "the certificate is for other firmware than the report states",
                expected=self.reported_tcb.hex(),
                got=str(checked.tcb),
            )
        if checked.hwid is not None and any(self.chip_id) and checked.hwid != self.chip_id[: self.product.hwid_bytes]:
            raise refusal(
                "chip",
                "the certificate is for another processor than the report",
                expected=self.chip_id.hex(),
                got=checked.hwid.hex(),
            )
        return Endorsements(
            subject=_subject(self.signing_key, self.chip_id, self.reported_tcb, self.certificate),
            not_after=min(window.not_after for window in checked.windows),
            amd=amd,
        )


def report_of(evidence: Evidence) -> bytes:
    """The SEV-SNP report in evidence of any of AMD's TEEs; Azure's stands inside the paravisor's.

    Raises:
        AttestationError: `evidence.hcl`, or `endorsements.missing`; there is none.
    """
    if evidence.tee is not TEE.AZURE_SEV_SNP:
        return evidence.quote
    if evidence.azure is None:
        raise refusal("missing", "the evidence holds no SEV-SNP report", expected="a report of the paravisor")
    return azure_report.parse(evidence.azure.hcl_report).hardware_report


def plans(evidence: Evidence, services: Services) -> tuple[AmdPlan, ...]:
    """What endorses the platform of this evidence; one for each product line that it may be.

    Reports of version 2 do not say which processor it is. The certificate says it where the host gave one; where not,
    the service knows the chip under one product line and answers 404 for the other.

    Raises:
        AttestationError: the report cannot be parsed; step `evidence`.
    """
    report = parse(report_of(evidence))
    certificate = evidence.amd.certificate if evidence.amd is not None else b""
    return tuple(
        AmdPlan(
            product=product,
            signing_key=report.signing_key,
            chip_id=report.chip_id,
            reported_tcb=report.tcbs["reported_tcb"],
            certificate=certificate,
            services=services,
        )
        for product in _products(report, certificate)
    )


def subject(evidence: Evidence) -> tuple[object, ...]:
    """What tells the platforms of evidence apart.

    Raises:
        AttestationError: the report cannot be parsed; step `evidence`.
    """
    report = parse(report_of(evidence))
    certificate = evidence.amd.certificate if evidence.amd is not None else b""
    return _subject(report.signing_key, report.chip_id, report.tcbs["reported_tcb"], certificate)


def _subject(signing_key: str, chip_id: bytes, reported_tcb: bytes, certificate: bytes) -> tuple[object, ...]:
    return (signing_key, chip_id, reported_tcb, certificate)


def _products(report: UnverifiedReport, certificate: bytes) -> tuple[Product, ...]:
    if report.cpu is not None:
        found = tuple(product for product in PRODUCTS.values() if product.has_cpu(*report.cpu))
        if not found:
            raise refusal("product", "the report is of a processor that is not known here", got=str(report.cpu))
        return found
    if certificate:
        issuer = parse_certificate(certificate, what="VCEK or VLEK").issuer.rfc4514_string()
        return tuple(product for product in (MILAN, GENOA) if product.name in issuer) or (MILAN, GENOA)
    return (MILAN, GENOA)
