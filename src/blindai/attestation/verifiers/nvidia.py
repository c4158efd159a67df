"""Verify an NVIDIA GPU or NVSwitch: its evidence in, claims out. Pure: no clock, no network, no file.

In this order:

    1. the report has the layout of SPDM 1.1, and nothing follows its signature
    2. the certificates name a firmware, are signed one by the other, stand in their places, end on a trust anchor,
       and are valid now
    3. the report names the same firmware
    4. the key of the first certificate signed the report, from the request on: with the nonce

Left to the policy: the nonce, measurements, versions, which and how many devices. NVIDIA's certificates never end, and
whether one was revoked is only known to NVIDIA's OCSP service, which is not asked here.

Sources: DMTF DSP0274 1.1.0; NVIDIA nvtrust.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from blindai.attestation.anchors import Anchor, Vendor
from blindai.attestation.claims import DeviceClaims
from blindai.attestation.evidence import DeviceEvidence, DeviceKind
from blindai.attestation.result import OpenCheck
from blindai.attestation.verifiers.certificates import (
    SIMULATED_VENDOR,
    anchor_of,
    certificate_windows,
    common_name,
    require_current,
    spki_sha256,
    whole_second,
)
from blindai.attestation.verifiers.nvidia_certificates import (
    Chip,
    certified_fwid,
    parse_chain,
    require_issued,
    require_roles,
)
from blindai.attestation.verifiers.nvidia_report import UnverifiedReport, parse
from blindai.errors import AttestationError

if TYPE_CHECKING:
    from cryptography import x509

# What the checks that all vendors share call it, and what it is called for a device.
_DEVICE_CODES = {
    "endorsements.anchor": "devices.anchor",
    "endorsements.certificate.expired": "devices.certificate.expired",
    "endorsements.certificate.not_yet_valid": "devices.certificate.not_yet_valid",
}

_SCALAR_BYTES = 48

# An entry holds about 10 KB. A client seldom talks to more devices than this at a time.
REMEMBERED_DEVICES = 64


def verify_device(
    device: DeviceEvidence, *, anchors: Sequence[Anchor], now: datetime, check: OpenCheck
) -> DeviceClaims:
    """Verify the evidence of one device, and say what it proves.

    Args:
        device: as the enclave's driver handed it out.
        anchors: the roots on which its certificates may end; those of other vendors are left aside.
        now: the time of the verification, with its time zone.
        check: notes the ranges of bytes that were hashed and compared.

    Raises:
        AttestationError: step `devices`, with the code of the first thing that is wrong.
        ValueError: `now` has no time zone.
    """
    now = whole_second(now)
    report = parse(device.report, device.kind)
    chain, fwid, chip = _checked(device.certificates, device.kind)
    anchor = _anchor(chain, tuple(anchor for anchor in anchors if anchor.vendor is Vendor.NVIDIA), now)
    _require_fwid(report, fwid, check)
    _require_signature(report, chip.key, common_name(chain[0]), check)
    return DeviceClaims(
        kind=device.kind,
        simulated=anchor.simulated,
        anchor=anchor.name,
        id=spki_sha256(chain[1]),
        chip=chip.name,
        architecture=chip.architecture,
        nonce=report.nonce,
        driver=report.driver,
        firmware=report.firmware,
        mode=report.mode,
        measurements=report.measurements,
        not_after=min(window.not_after for window in certificate_windows(chain)),
        locations=report.locations,
    )


@lru_cache(REMEMBERED_DEVICES)
def _checked(certificates: str, kind: DeviceKind) -> tuple[tuple[x509.Certificate, ...], bytes, Chip]:
    """All about a chain that does not change with time or policy: it is sent anew with each report."""
    chain = parse_chain(certificates)
    fwid = certified_fwid(chain[0])
    require_issued(chain)
    return chain, fwid, require_roles(chain, kind)


def _anchor(chain: tuple[x509.Certificate, ...], anchors: Sequence[Anchor], now: datetime) -> Anchor:
    try:
        anchor = anchor_of(chain[-1], anchors, simulated=common_name(chain[-1]).startswith(SIMULATED_VENDOR))
        require_current(certificate_windows(chain), now)
    except AttestationError as error:
        raise AttestationError(
            error.message,
            code=_DEVICE_CODES[error.code],
            step="devices",
            expected=error.expected,
            got=error.got,
            likely=error.likely,
        ) from error
    return anchor


def _require_fwid(report: UnverifiedReport, certified: bytes, check: OpenCheck) -> None:
    if not report.fwid:
        raise AttestationError(
            "the report does not say which firmware made it",
            code="devices.fwid_missing",
            step="devices",
            expected="a firmware id (FWID) in the report",
            got="none",
            likely="the GPU's firmware is older than any that is verified here",
        )
    location = report.locations["fwid"]
    check.uses(location.of, location.start, location.end, "fwid, compared with the certificate's", report.fwid.hex())
    if report.fwid != certified:
        raise AttestationError(
            "the key that signed the report belongs to another firmware",
            code="devices.fwid",
            step="devices",
            expected=certified.hex(),
            got=report.fwid.hex(),
            likely="the certificates are those of another device, or of the time before an update",
        )


def _require_signature(report: UnverifiedReport, key: ec.EllipticCurvePublicKey, signer: str, check: OpenCheck) -> None:
    end = len(report.signed)
    check.uses("report", 0, end, f"SHA-384, signed by {signer} (ECDSA P-384)")
    check.uses("report", end, end + len(report.signature), "the signature", report.signature.hex())
    r, s = (int.from_bytes(half) for half in (report.signature[:_SCALAR_BYTES], report.signature[_SCALAR_BYTES:]))
    try:
        key.verify(encode_dss_signature(r, s), report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise AttestationError(
            "the report was altered after the device signed it",
            code="devices.signature",
            step="devices",
            expected=f"a signature by {signer}",
            got="a signature that does not verify",
            likely="bytes were changed on the way, or report and certificates are those of two devices",
        ) from error
