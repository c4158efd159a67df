"""Simulated collateral: TCB info, QE identity and revocation lists, signed as Intel's PCS signs them.

Source: Intel PCS API version 4 (TCB info version 3, QE identity version 2). The signatures cover the exact,
compact text of the inner JSON.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from blindai.attestation.evidence import TEE, IntelCollateral
from blindai.attestation.simulated import certificates, quote
from blindai.attestation.simulated.certificates import Issuer, PlatformIdentity, Validity
from blindai.attestation.verifiers.intel_certificates import PCK, PCK_CA, TCB_SIGNER, Role

if TYPE_CHECKING:
    from cryptography import x509

CERTIFICATE_LIFETIME = timedelta(days=7 * 365)
COLLATERAL_LIFETIME = timedelta(days=30)  # as Intel's

TCB_EVALUATION_DATA_NUMBER = 17
CURRENT_TCB_DATE = "2025-05-14T00:00:00Z"
OLD_TCB_DATE = "2023-08-09T00:00:00Z"

QE_ATTRIBUTES = "11000000000000000000000000000000"
QE_ATTRIBUTES_MASK = "FBFFFFFFFFFFFFFF0000000000000000"

# TEE_TCB_SVN of the simulated platform starts with the SVN and the major version of its TDX module.
TDX_MODULE_SVN, TDX_MODULE_VERSION = 5, 1
TEE_TCB_SVN = bytes([TDX_MODULE_SVN, TDX_MODULE_VERSION, 2]) + bytes(13)


class QeDescription(msgspec.Struct, frozen=True):
    """The quoting enclave that QE identity describes."""

    id: str
    mrsigner: bytes
    isv_prod_id: int
    isv_svn: int


QUOTING_ENCLAVES = {
    TEE.INTEL_SGX: QeDescription("QE", certificates.digest("quoting enclave signer"), 1, 8),
    TEE.INTEL_TDX: QeDescription("TD_QE", certificates.digest("TD quoting enclave signer"), 2, 4),
}


class SimulatedPki:
    """The certificates and keys of one simulated platform, under a simulated root.

    Attributes:
        root, pck_ca, pck, tcb_signer: each with its private key.
        identity: what the PCK certificate says about the processor.
    """

    def __init__(self, root: Issuer, identity: PlatformIdentity, now: datetime) -> None:
        self._validity = Validity(now - certificates.BACKDATING, now + CERTIFICATE_LIFETIME)
        self.identity = identity
        self.root = root
        self.pck_ca = self._issue(PCK_CA, root)
        self.pck = self._issue(PCK, self.pck_ca, identity)
        self.tcb_signer = self._issue(TCB_SIGNER, root)

    @property
    def pck_chain(self) -> str:
        return certificates.pem(self.pck.certificate, self.pck_ca.certificate, self.root.certificate)

    def _issue(self, role: Role, issuer: Issuer, platform: PlatformIdentity | None = None) -> Issuer:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = certificates.issue(role, key, issuer=issuer, validity=self._validity, platform=platform)
        return Issuer(certificate, key)


def make_collateral(
    pki: SimulatedPki,
    tee: TEE,
    validity: Validity,
    *,
    tcb_status: str,
    qe_tcb_status: str,
    advisories: Collection[str],
    revoked: Collection[x509.Certificate],
    json_signer: Issuer | None = None,
) -> IntelCollateral:
    """Make and sign the collateral of one platform.

    Args:
        pki: the platform's certificates and keys.
        tee: the kind of quotes that the collateral is for.
        validity: of TCB info, QE identity and both revocation lists.
        tcb_status: of the TCB level that the platform reaches; anything but `UpToDate` puts a newer level above it.
        qe_tcb_status: the same for the quoting enclave.
        advisories: that TCB level's.
        revoked: certificates to put on the list of their issuer.
        json_signer: signs TCB info and QE identity in place of the TCB signing certificate.
    """
    signer = json_signer or pki.tcb_signer
    tcb_info = _compact(_tcb_info(pki.identity, tee, validity, tcb_status, advisories))
    qe_identity = _compact(_qe_identity(QUOTING_ENCLAVES[tee], validity, qe_tcb_status))
    chain = certificates.pem(signer.certificate, pki.root.certificate)
    return IntelCollateral(
        pck_crl_issuer_chain=certificates.pem(pki.pck_ca.certificate, pki.root.certificate),
        root_ca_crl=_crl(pki.root, revoked, validity),
        pck_crl=_crl(pki.pck_ca, revoked, validity),
        tcb_info_issuer_chain=chain,
        tcb_info=tcb_info,
        tcb_info_signature=quote.sign(signer.key, tcb_info.encode()).hex(),
        qe_identity_issuer_chain=chain,
        qe_identity=qe_identity,
        qe_identity_signature=quote.sign(signer.key, qe_identity.encode()).hex(),
    )


def _crl(issuer: Issuer, revoked: Collection[x509.Certificate], validity: Validity) -> str:
    own = [certificate for certificate in revoked if certificate.issuer == issuer.certificate.subject]
    return certificates.revoke(issuer, own, validity=validity).public_bytes(Encoding.DER).hex()


def _tcb_info(
    identity: PlatformIdentity, tee: TEE, validity: Validity, status: str, advisories: Collection[str]
) -> dict[str, object]:
    reached = _tcb_level(identity.cpu_svn, identity.pce_svn, tee, status, advisories)
    levels = [reached]
    if status != "UpToDate":
        newer = bytes(svn + 1 for svn in identity.cpu_svn)
        levels = [_tcb_level(newer, identity.pce_svn, tee, "UpToDate", ()), reached]
    info: dict[str, object] = {
        "id": "SGX" if tee is TEE.INTEL_SGX else "TDX",
        "version": 3,
        **_dates(validity),
        "fmspc": identity.fmspc.hex().upper(),
        "pceId": identity.pce_id.hex().upper(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": TCB_EVALUATION_DATA_NUMBER,
    }
    if tee is TEE.INTEL_TDX:
        module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
        level = {"tcb": {"isvsvn": TDX_MODULE_SVN}, "tcbDate": CURRENT_TCB_DATE, "tcbStatus": "UpToDate"}
        info["tdxModule"] = module
        info["tdxModuleIdentities"] = [{"id": f"TDX_{TDX_MODULE_VERSION:02X}", **module, "tcbLevels": [level]}]
    info["tcbLevels"] = levels
    return info


def _tcb_level(cpu_svn: bytes, pce_svn: int, tee: TEE, status: str, advisories: Collection[str]) -> dict[str, object]:
    tcb: dict[str, object] = {"sgxtcbcomponents": [{"svn": svn} for svn in cpu_svn], "pcesvn": pce_svn}
    if tee is TEE.INTEL_TDX:
        tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in TEE_TCB_SVN]
    level: dict[str, object] = {"tcb": tcb, "tcbDate": _tcb_date(status), "tcbStatus": status}
    if advisories:
        level["advisoryIDs"] = list(advisories)
    return level


def _qe_identity(qe: QeDescription, validity: Validity, status: str) -> dict[str, object]:
    levels = [{"tcb": {"isvsvn": qe.isv_svn}, "tcbDate": _tcb_date(status), "tcbStatus": status}]
    if status != "UpToDate":
        newer = {"tcb": {"isvsvn": qe.isv_svn + 1}, "tcbDate": CURRENT_TCB_DATE, "tcbStatus": "UpToDate"}
        levels.insert(0, newer)
    return {
        "id": qe.id,
        "version": 2,
        **_dates(validity),
        "tcbEvaluationDataNumber": TCB_EVALUATION_DATA_NUMBER,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": QE_ATTRIBUTES,
        "attributesMask": QE_ATTRIBUTES_MASK,
        "mrsigner": qe.mrsigner.hex().upper(),
        "isvprodid": qe.isv_prod_id,
        "tcbLevels": levels,
    }


def _tcb_date(status: str) -> str:
    return OLD_TCB_DATE if status.startswith(("OutOfDate", "Revoked")) else CURRENT_TCB_DATE


def _dates(validity: Validity) -> dict[str, str]:
    layout = "%Y-%m-%dT%H:%M:%SZ"
    return {
        "issueDate": validity.not_before.strftime(layout),
        "nextUpdate": validity.not_after.strftime(layout),
    }


def _compact(value: dict[str, object]) -> str:
    return msgspec.json.encode(value).decode()
