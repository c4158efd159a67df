"""Intel's collateral for the platform that made a quote: TCB info, QE identity and two revocation lists.

Source: Intel, API for the Provisioning Certification Service, version 4; the same for a PCCS (Intel SGX PCCS design
guide), which sends revocation lists as hex.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import dcap_qvl
import msgspec

from blindai.attestation.anchors import Anchor, Vendor
from blindai.attestation.collateral.document import Document, Entry, Kind
from blindai.attestation.collateral.plan import Endorsements
from blindai.attestation.collateral.service import Services
from blindai.attestation.evidence import TEE, Evidence, IntelCollateral
from blindai.attestation.verifiers import intel_certificates
from blindai.attestation.verifiers.certificates import common_name, refusal, spki_sha256
from blindai.attestation.verifiers.intel_collateral import (
    ISSUER_CHAIN_LENGTH,
    PCK_CHAIN_LENGTH,
    check_collateral,
    check_pck_chain,
)
from blindai.attestation.verifiers.intel_quote import parse

# A server has one platform, a relying party few.
_PLATFORMS = 64

_PCK_CRL_CHAIN = ("sgx-pck-crl-issuer-chain",)
_TCB_INFO_CHAIN = ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")  # versions 4 and 3 of the API
_QE_IDENTITY_CHAIN = ("sgx-enclave-identity-issuer-chain",)

_TREES = {TEE.INTEL_SGX: "sgx", TEE.INTEL_TDX: "tdx"}


class _Signed(msgspec.Struct, frozen=True, rename="camel"):
    """The inner text is kept as it came: Intel signed those bytes."""

    signature: str
    tcb_info: msgspec.Raw = msgspec.Raw(b"")
    enclave_identity: msgspec.Raw = msgspec.Raw(b"")


class _Platform(msgspec.Struct, frozen=True):
    fmspc: str
    ca: str


class IntelPlan(msgspec.Struct, frozen=True):
    """The collateral of one quote's platform.

    Attributes:
        tee: of the quote itself.
        pck_chain: from the quote, PEM.
        fmspc: 6 bytes in lower-case hex, family of processors.
        ca: which of Intel's two CAs issued the PCK certificate, `platform` or `processor`.
    """

    tee: TEE
    pck_chain: bytes
    fmspc: str
    ca: str
    services: Services

    @property
    def platform(self) -> str:
        return f"{self.tee} processors of FMSPC {self.fmspc}"

    @property
    def documents(self) -> tuple[Document, ...]:
        tree, base = _TREES[self.tee], self.services.intel
        return (
            Document(
                name=f"intel-{tree}-tcb-{self.fmspc}.json",
                what=f"the TCB info of FMSPC {self.fmspc}",
                kind=Kind.SIGNED,
                url=f"{base}/{tree}/certification/v4/tcb?fmspc={self.fmspc}",
                chain_headers=_TCB_INFO_CHAIN,
            ),
            Document(
                name=f"intel-{tree}-qe-identity.json",
                what="the QE identity",
                kind=Kind.SIGNED,
                url=f"{base}/{tree}/certification/v4/qe/identity",
                chain_headers=_QE_IDENTITY_CHAIN,
            ),
            Document(
                name=f"intel-pck-crl-{self.ca}.pem",
                what=f"the PCK revocation list of the {self.ca} CA",
                kind=Kind.CRL,
                url=f"{base}/sgx/certification/v4/pckcrl?ca={self.ca}&encoding=der",
                chain_headers=_PCK_CRL_CHAIN,
            ),
            Document(
                name="intel-root-crl.pem",
                what="the root CA's revocation list",
                kind=Kind.CRL,
                url=self.services.intel_root_crl(),
            ),
        )

    def assemble(self, entries: Mapping[str, Entry]) -> Endorsements:
        """See `Plan.assemble`. Roots are not judged here: which ones it trusts is up to each relying party."""
        tcb, qe, pck_crl, root_crl = (entries[document.name] for document in self.documents)
        tcb_info, qe_identity = (_decode(entry.body) for entry in (tcb, qe))
        collateral = IntelCollateral(
            pck_crl_issuer_chain=pck_crl.chain,
            root_ca_crl=root_crl.body.hex(),
            pck_crl=pck_crl.body.hex(),
            tcb_info_issuer_chain=tcb.chain,
            tcb_info=bytes(tcb_info.tcb_info).decode(),
            tcb_info_signature=tcb_info.signature.lower(),
            qe_identity_issuer_chain=qe.chain,
            qe_identity=bytes(qe_identity.enclave_identity).decode(),
            qe_identity_signature=qe_identity.signature.lower(),
        )
        checked = check_collateral(collateral, (_own_anchor(pck_crl.chain),))
        checked.require_for(self.tee)
        windows = checked.windows + check_pck_chain(self.pck_chain, checked).windows
        return Endorsements(
            subject=(self.tee, self.pck_chain),
            not_after=min(window.not_after for window in windows),
            intel=collateral,
        )


def quote_of(evidence: Evidence) -> bytes:
    """The Intel quote in evidence of any of Intel's TEEs; Azure's stands beside the TPM's.

    Raises:
        AttestationError: `endorsements.missing`; there is none.
    """
    if evidence.tee is not TEE.AZURE_TDX:
        return evidence.quote
    if evidence.azure is None or evidence.azure.td_quote is None:
        raise refusal("missing", "the evidence holds no TDX quote", expected="a TDX quote beside the TPM's quote")
    return evidence.azure.td_quote


def plan(evidence: Evidence, services: Services) -> IntelPlan:
    """What endorses the platform of this evidence.

    Raises:
        AttestationError: the quote cannot be parsed (step `evidence`), or its PCK chain (`endorsements.malformed`).
    """
    quote = parse(quote_of(evidence))
    platform = _platform(quote.pck_chain)
    return IntelPlan(quote.tee, quote.pck_chain, platform.fmspc, platform.ca, services)


@lru_cache(_PLATFORMS)
def _platform(pck_chain: bytes) -> _Platform:
    text = pck_chain.decode("ascii", "replace")
    _, ca, _ = intel_certificates.parse_chain(text, what="PCK certificate chain", length=PCK_CHAIN_LENGTH)
    try:
        fmspc = dcap_qvl.parse_pck_extension_from_pem(pck_chain).fmspc.hex()
    except ValueError as error:
        raise refusal("malformed", "the PCK certificate's SGX extension cannot be parsed", got=str(error)) from error
    return _Platform(fmspc, "processor" if "Processor" in common_name(ca) else "platform")


def _own_anchor(chain: str) -> Anchor:
    """The root of the answer itself: whether all of it belongs together is all that is asked here."""
    root = intel_certificates.parse_chain(chain, what="issuer chain of the PCK CRL", length=ISSUER_CHAIN_LENGTH)[-1]
    return Anchor(common_name(root), Vendor.INTEL, spki_sha256(root))


_decode = msgspec.json.Decoder(_Signed).decode
