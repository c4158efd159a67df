"""Intel's collateral: is it whole, genuine, for this kind of TEE, and until when?

Nothing here depends on the body of a quote, so a result is kept for the platform's next quote (bounded, and keyed
by the exact bytes); only time is compared on every call. What is checked, in this order:

1. the certificate chains and revocation lists parse strictly;
2. all chains end on one root, self-signed, whose public key is a trust anchor;
3. each certificate has the role of its place, and is signed by the next;
4. each revocation list is signed by its issuer, and no certificate is on one;
5. TCB info and QE identity are signed by the TCB signing certificate.

Sources: Intel PCS API version 4 (TCB info version 3, QE identity version 2); RFC 5280.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Annotated, TypeVar

import dcap_qvl
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from blindai.attestation.anchors import Anchor
from blindai.attestation.evidence import TEE, IntelCollateral
from blindai.attestation.result import Range
from blindai.attestation.verifiers import certificates, intel_certificates
from blindai.attestation.verifiers.certificates import Window, refusal
from blindai.attestation.verifiers.intel_layout import certificate_range, collateral_ranges

# A client seldom talks to more platforms than this at a time; an entry holds about 100 KB.
CACHED_COLLATERALS = 16
CACHED_PCK_CHAINS = 64

PCK_CHAIN_LENGTH = 3  # PCK, PCK CA, root
ISSUER_CHAIN_LENGTH = 2  # signer, root

TCB_INFO_VERSION = 3
QE_IDENTITY_VERSION = 2
ECDSA_P256_SIGNATURE_BYTES = 64

T = TypeVar("T")
Time = Annotated[datetime, msgspec.Meta(tz=True)]

_IDENTITIES = {TEE.INTEL_SGX: ("SGX", "QE"), TEE.INTEL_TDX: ("TDX", "TD_QE")}


class IsvTcb(msgspec.Struct, frozen=True):
    """`tcb` of a TDX module level."""

    isvsvn: int


class ModuleLevel(msgspec.Struct, frozen=True, rename="camel"):
    """A TCB level of a TDX module."""

    tcb: IsvTcb
    tcb_date: Time


class ModuleIdentity(msgspec.Struct, frozen=True, rename="camel"):
    """A line of TDX modules: `TDX_01`, `TDX_03`, .."""

    id: str
    tcb_levels: tuple[ModuleLevel, ...] = ()


class TcbInfo(msgspec.Struct, frozen=True, rename="camel"):
    """The fields of TCB info that are used here; the levels are matched by dcap-qvl."""

    id: str
    version: int
    issue_date: Time
    next_update: Time
    fmspc: str
    pce_id: str
    tdx_module_identities: tuple[ModuleIdentity, ...] = ()


class QeIdentity(msgspec.Struct, frozen=True, rename="camel"):
    """The fields of QE identity that are used here; the report is matched by dcap-qvl."""

    id: str
    version: int
    issue_date: Time
    next_update: Time


class CheckedCollateral(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Collateral that passed; compared and hashed by identity.

    Attributes:
        anchor: the trust anchor that it ends on.
        simulated: the anchor or the root itself says so. One is enough, lest a policy that trusts a simulated root
            as if it were a real one hide it from everybody else.
        root: that root's certificate.
        pck_ca, pck_crl: the issuer of PCK certificates that the collateral speaks of, and what it revoked.
        windows: when each part is valid.
        ranges: its documents, for whoever checks by hand.
        qvl: the same collateral in dcap-qvl's form.
        verifier: dcap-qvl's verifier for this root.
    """

    anchor: Anchor
    simulated: bool
    root: x509.Certificate
    pck_ca: x509.Certificate
    pck_crl: x509.CertificateRevocationList
    tcb_info: TcbInfo
    qe_identity: QeIdentity
    windows: tuple[Window, ...]
    ranges: tuple[Range, ...]
    qvl: dcap_qvl.QuoteCollateralV3
    verifier: dcap_qvl.QuoteVerifier

    def require_for(self, tee: TEE) -> None:
        """Refuse collateral of the other kind of TEE, or of a version that is not known here.

        Raises:
            AttestationError: `endorsements.tcb_info.kind`, `endorsements.qe_identity.kind`.
        """
        tcb_id, qe_id = _IDENTITIES[tee]
        for what, part, expected in (
            ("tcb_info", self.tcb_info, (tcb_id, TCB_INFO_VERSION)),
            ("qe_identity", self.qe_identity, (qe_id, QE_IDENTITY_VERSION)),
        ):
            if (part.id, part.version) != expected:
                raise refusal(
                    f"{what}.kind",
                    "the collateral is for another kind of quote",
                    expected=f"{expected[0]} version {expected[1]}",
                    got=f"{part.id} version {part.version}",
                )


class CheckedPckChain(msgspec.Struct, frozen=True, eq=False):
    """A PCK chain that passed against some collateral; `ranges` as there."""

    windows: tuple[Window, ...]
    ranges: tuple[Range, ...]


def check_collateral(collateral: IntelCollateral, anchors: tuple[Anchor, ...]) -> CheckedCollateral:
    """Check everything about `collateral` but time, platform and kind of TEE.

    Raises:
        AttestationError: step `endorsements`; `endorsements.malformed`, `.anchor`, `.role`, `.chain`,
            `.crl.signature`, `.revoked`, `.tcb_info.signature`, `.qe_identity.signature`.
    """
    return _check_collateral(collateral, anchors)


@lru_cache(CACHED_COLLATERALS)
def _check_collateral(collateral: IntelCollateral, anchors: tuple[Anchor, ...]) -> CheckedCollateral:
    pck_ca, root = intel_certificates.parse_chain(
        collateral.pck_crl_issuer_chain, what="issuer chain of the PCK CRL", length=ISSUER_CHAIN_LENGTH
    )
    tcb_signer, tcb_root = intel_certificates.parse_chain(
        collateral.tcb_info_issuer_chain, what="issuer chain of the TCB info", length=ISSUER_CHAIN_LENGTH
    )
    qe_signer, qe_root = intel_certificates.parse_chain(
        collateral.qe_identity_issuer_chain, what="issuer chain of the QE identity", length=ISSUER_CHAIN_LENGTH
    )
    vendor = intel_certificates.vendor(root)
    anchor = certificates.anchor_of(root, anchors, simulated=vendor == certificates.SIMULATED_VENDOR)
    require_same_root(root, tcb_root, qe_root)

    intel_certificates.require_role(root, intel_certificates.ROOT, vendor=vendor)
    intel_certificates.require_role(pck_ca, intel_certificates.PCK_CA, vendor=vendor)
    for signer in (tcb_signer, qe_signer):
        intel_certificates.require_role(signer, intel_certificates.TCB_SIGNER, vendor=vendor)
    for certificate in dict.fromkeys((root, pck_ca, tcb_signer, qe_signer)):  # Intel's two signers are one
        certificates.require_issued_by(certificate, root)

    root_crl = intel_certificates.parse_crl(collateral.root_ca_crl, root, what="root CA's revocation list")
    pck_crl = intel_certificates.parse_crl(collateral.pck_crl, pck_ca, what="PCK revocation list")
    certificates.require_not_revoked((root, pck_ca, tcb_signer, qe_signer), root_crl)

    tcb_info = _signed(
        collateral.tcb_info, collateral.tcb_info_signature, tcb_signer, TcbInfo, what="TCB info", kind="tcb_info"
    )
    qe_identity = _signed(
        collateral.qe_identity,
        collateral.qe_identity_signature,
        qe_signer,
        QeIdentity,
        what="QE identity",
        kind="qe_identity",
    )
    return CheckedCollateral(
        anchor=anchor,
        simulated=anchor.simulated or vendor == certificates.SIMULATED_VENDOR,
        root=root,
        pck_ca=pck_ca,
        pck_crl=pck_crl,
        tcb_info=tcb_info,
        qe_identity=qe_identity,
        windows=(
            Window("the TCB info", "tcb_info", tcb_info.issue_date, tcb_info.next_update),
            Window("the QE identity", "qe_identity", qe_identity.issue_date, qe_identity.next_update),
            certificates.crl_window(root_crl, what="the root CA's revocation list"),
            certificates.crl_window(pck_crl, what="the PCK revocation list"),
            *certificates.certificate_windows((root, pck_ca, tcb_signer, qe_signer)),
        ),
        ranges=collateral_ranges(
            collateral,
            [(certificate, root) for certificate in dict.fromkeys((pck_ca, tcb_signer, qe_signer, root))],
            certificates.common_name(tcb_signer),
        ),
        qvl=dcap_qvl.QuoteCollateralV3(
            collateral.pck_crl_issuer_chain,
            bytes.fromhex(collateral.root_ca_crl),
            bytes.fromhex(collateral.pck_crl),
            collateral.tcb_info_issuer_chain,
            collateral.tcb_info,
            bytes.fromhex(collateral.tcb_info_signature),
            collateral.qe_identity_issuer_chain,
            collateral.qe_identity,
            bytes.fromhex(collateral.qe_identity_signature),
        ),
        verifier=dcap_qvl.QuoteVerifier(root.public_bytes(Encoding.DER)),
    )


@lru_cache(CACHED_PCK_CHAINS)
def check_pck_chain(pem: bytes, collateral: CheckedCollateral) -> CheckedPckChain:
    """Check the PCK chain out of a quote: its roles, signatures, revocation, and that `collateral` is about it.

    Raises:
        AttestationError: step `endorsements`; `endorsements.malformed`, `.root`, `.role`, `.chain`, `.crl.issuer`,
            `.revoked`, `.platform` (TCB info of another family of processors).
    """
    try:
        text = pem.decode("ascii")
    except UnicodeDecodeError as error:
        raise refusal("malformed", "the PCK certificate chain cannot be parsed", expected="PEM") from error
    pck, pck_ca, root = intel_certificates.parse_chain(text, what="PCK certificate chain", length=PCK_CHAIN_LENGTH)
    require_same_root(collateral.root, root)
    intel_certificates.require_role(pck, intel_certificates.PCK, vendor=intel_certificates.vendor(root))
    if pck_ca != collateral.pck_ca:
        raise refusal(
            "crl.issuer",
            "the PCK revocation list comes from another CA than the platform's PCK certificate",
            expected=_named(pck_ca),
            got=_named(collateral.pck_ca),
        )
    certificates.require_issued_by(pck, pck_ca)
    certificates.require_not_revoked((pck,), collateral.pck_crl)
    _require_same_platform(pem, collateral.tcb_info)
    return CheckedPckChain(certificates.certificate_windows((pck,)), (certificate_range((pck, pck_ca)),))


def require_same_root(root: x509.Certificate, *others: x509.Certificate) -> None:
    """Refuse chains whose embedded root differs in any bit: it is not on the path, so no signature would tell.

    Raises:
        AttestationError: `endorsements.root`.
    """
    for other in others:
        if other != root:
            raise refusal(
                "root", "the certificate chains do not end on the same root", expected=_named(root), got=_named(other)
            )


def _signed(text: str, signature_hex: str, signer: x509.Certificate, layout: type[T], *, what: str, kind: str) -> T:
    """Intel signs the exact text of the inner JSON; the signature is raw r||s."""
    signature = intel_certificates.decode_hex(signature_hex, what=f"signature of the {what}")
    key = signer.public_key()
    message = text.encode(errors="surrogatepass")  # a lone surrogate is no UTF-8: no signature covers it
    if not (isinstance(key, ec.EllipticCurvePublicKey) and is_signed_by(key, signature, message)):
        raise refusal(
            f"{kind}.signature",
            f"the {what} is not signed by its issuer",
            expected=f"signed by {certificates.common_name(signer)}",
            got="a signature that does not verify",
            likely="it was altered, or text and signature belong to different issues",
        )
    try:
        return msgspec.json.decode(text, type=layout)
    except msgspec.DecodeError as error:
        raise refusal("malformed", f"the {what} cannot be parsed", got=str(error)) from error


def is_signed_by(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> bool:
    """Whether `signature`, 64 bytes r||s, is an ECDSA-SHA256 signature of `message` by `key` (P-256)."""
    if len(signature) != ECDSA_P256_SIGNATURE_BYTES:
        return False
    half = ECDSA_P256_SIGNATURE_BYTES // 2
    r, s = int.from_bytes(signature[:half]), int.from_bytes(signature[half:])
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _require_same_platform(pem: bytes, tcb_info: TcbInfo) -> None:
    try:
        platform = dcap_qvl.parse_pck_extension_from_pem(pem)
    except ValueError as error:
        raise refusal("malformed", "the PCK certificate's SGX extension cannot be parsed", got=str(error)) from error
    expected = (platform.fmspc.hex(), platform.pce_id.hex())
    got = (tcb_info.fmspc.lower(), tcb_info.pce_id.lower())
    if expected != got:
        raise refusal(
            "platform",
            "the TCB info is about another family of processors",
            expected="FMSPC {}, PCE {}".format(*expected),
            got="FMSPC {}, PCE {}".format(*got),
        )


def _named(certificate: x509.Certificate) -> str:
    return f"{certificates.common_name(certificate)}, serial number {certificates.serial_number(certificate):x}"
