"""Where things stand in an Intel quote, and what was done with each: for whoever wants to check one by hand.

Sources: as `intel_quote`. Offsets count from the first byte of the quote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding

from blindai.attestation.claims import Location
from blindai.attestation.evidence import TEE, IntelCollateral
from blindai.attestation.result import OpenCheck, Range
from blindai.attestation.verifiers.certificates import common_name
from blindai.attestation.verifiers.intel_quote import QE_AUTH_DATA_BYTES, UnverifiedQuote

if TYPE_CHECKING:
    from cryptography import x509

HEADER_BYTES = 48
BODY_DESCRIPTOR_BYTES = 6  # version 5
LENGTH_BYTES = 4
CERTIFICATION_BYTES = 6  # type and size
QE_REPORT_BYTES = 384
SIGNATURE_BYTES = 64
KEY_BYTES = 64
REPORT_DATA_AT = 320  # in an SGX report body
HASHED_KEY_BYTES = 32

# Offsets and sizes in the body.
_ENCLAVE_FIELDS = {
    "attributes": (48, 8),
    "xfrm": (56, 8),
    "mrenclave": (64, 32),
    "mrsigner": (128, 32),
    "isvextprodid": (32, 16),
    "configid": (192, 64),
    "isv_prod_id": (256, 2),
    "isv_svn": (258, 2),
    "config_svn": (260, 2),
    "isvfamilyid": (304, 16),
    "report_data": (REPORT_DATA_AT, 64),
}
_TD_FIELDS = {
    "tdx_module_svn": (0, 1),
    "tdx_module_version": (1, 1),
    "mrseam": (16, 48),
    "mrsignerseam": (64, 48),
    "seam_attributes": (112, 8),
    "attributes": (120, 8),
    "xfam": (128, 8),
    "mrtd": (136, 48),
    "mrconfigid": (184, 48),
    "mrowner": (232, 48),
    "mrownerconfig": (280, 48),
    "rtmr0": (328, 48),
    "rtmr1": (376, 48),
    "rtmr2": (424, 48),
    "rtmr3": (472, 48),
    "report_data": (520, 64),
}
_TD_1_5_FIELDS = {
    "tdx_module_svn_2": (584, 1),
    "tdx_module_version_2": (585, 1),
    "mrservicetd": (600, 48),
}


@lru_cache(8)  # one entry for each layout
def _locations(tee: TEE, version: int, *, service_td: bool) -> dict[str, Location]:
    body = HEADER_BYTES + (BODY_DESCRIPTOR_BYTES if version == 5 else 0)
    fields = _ENCLAVE_FIELDS if tee is TEE.INTEL_SGX else _TD_FIELDS | (_TD_1_5_FIELDS if service_td else {})
    places = {name: Location("quote", body + at, body + at + size) for name, (at, size) in fields.items()}
    return places | {"debug": places["attributes"], "flags": places["attributes"]}


def locations(quote: UnverifiedQuote) -> dict[str, Location]:
    """Where each claim stands."""
    return _locations(quote.tee, quote.version, service_td="mrservicetd" in quote.measurements)


def note_signatures(check: OpenCheck, raw: bytes, quote: UnverifiedQuote) -> None:
    """Note every byte range that the signatures and hashes of a quote are about, from the body to the PCK's key."""
    signature = len(quote.signed) + LENGTH_BYTES
    key = signature + SIGNATURE_BYTES
    qe_report = key + KEY_BYTES + (CERTIFICATION_BYTES if quote.version >= 4 else 0)
    qe_signature = qe_report + QE_REPORT_BYTES
    auth_data = _auth_data_at(quote)
    hashed_key = qe_report + REPORT_DATA_AT
    body_digest = hashlib.sha256(quote.signed).hexdigest()
    report_digest = hashlib.sha256(raw[qe_report:qe_signature]).hexdigest()
    hashed = raw[key : key + KEY_BYTES] + raw[auth_data : auth_data + QE_AUTH_DATA_BYTES]
    key_digest = hashlib.sha256(hashed).hexdigest()
    check.uses("quote", 0, len(quote.signed), "SHA-256, signed by the attestation key (ECDSA P-256)", body_digest)
    check.uses("quote", signature, key, "that signature, r and s")
    check.uses("quote", key, key + KEY_BYTES, "the attestation key, x and y; SHA-256 with the next", key_digest)
    check.uses("quote", auth_data, auth_data + QE_AUTH_DATA_BYTES, "QE authentication data")
    check.uses(
        "quote",
        hashed_key,
        hashed_key + HASHED_KEY_BYTES,
        "in the quoting enclave's report, compared with that SHA-256",
        raw[hashed_key : hashed_key + HASHED_KEY_BYTES].hex(),
    )
    check.uses("quote", qe_report, qe_signature, "SHA-256, signed by the PCK (ECDSA P-256)", report_digest)
    check.uses("quote", qe_signature, qe_signature + SIGNATURE_BYTES, "that signature, r and s")


def note_pck_chain(check: OpenCheck, quote: UnverifiedQuote) -> None:
    """Note where the certificates of the platform's key stand."""
    auth_data = _auth_data_at(quote)
    start = auth_data + QE_AUTH_DATA_BYTES + CERTIFICATION_BYTES
    check.uses("quote", start, start + len(quote.pck_chain), "PEM: PCK, PCK CA, root")


def collateral_ranges(
    collateral: IntelCollateral, issued: Sequence[tuple[x509.Certificate, x509.Certificate]], signer: str
) -> tuple[Range, ...]:
    """The documents of checked collateral with their digests.

    Args:
        issued: each certificate with its issuer.
        signer: who signed TCB info and QE identity.
    """
    documents = (
        ("tcb_info", collateral.tcb_info.encode(), f"SHA-256, signed by {signer} (ECDSA P-256)"),
        ("qe_identity", collateral.qe_identity.encode(), f"SHA-256, signed by {signer} (ECDSA P-256)"),
        ("root_ca_crl", bytes.fromhex(collateral.root_ca_crl), "SHA-256; revocation list, signed by the root"),
        ("pck_crl", bytes.fromhex(collateral.pck_crl), "SHA-256; revocation list, signed by the PCK CA"),
    )
    ranges = [Range(of, 0, len(data), use, hashlib.sha256(data).hexdigest()) for of, data, use in documents]
    return (*ranges, *map(certificate_range, issued))


def certificate_range(issued: tuple[x509.Certificate, x509.Certificate]) -> Range:
    """A certificate that was found to be signed by its issuer, by its fingerprint."""
    certificate, issuer = issued
    der = certificate.public_bytes(Encoding.DER)
    use = f"SHA-256 of the DER; signed by {common_name(issuer)}"
    return Range(common_name(certificate), 0, len(der), use, hashlib.sha256(der).hexdigest())


def _auth_data_at(quote: UnverifiedQuote) -> int:
    key_end = len(quote.signed) + LENGTH_BYTES + SIGNATURE_BYTES + KEY_BYTES
    wrapping = CERTIFICATION_BYTES if quote.version >= 4 else 0
    return key_end + wrapping + QE_REPORT_BYTES + SIGNATURE_BYTES + 2
