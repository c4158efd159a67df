"""Certificates of NVIDIA's devices: from the key that signs reports to the device identity CA.

The chain of a GH100, leaf first; `GH100` is the chip:

    GH100 A01 GSP FMC LF            signs reports; names the firmware (FWID) to which its key belongs
    GH100 A01 GSP BROM              the device itself
    NVIDIA GH100 Provisioner ICA 1
    NVIDIA GH100 Identity
    NVIDIA Device Identity CA       the trust anchor
"""

from __future__ import annotations

import re

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from blindai.attestation.evidence import DeviceKind
from blindai.attestation.verifiers.certificates import (
    SIMULATED_VENDOR,
    UNPARSABLE,
    common_name,
    load_pem,
    read_whole,
    require_issued_by,
)
from blindai.attestation.verifiers.nvidia_report import FWID_BYTES
from blindai.errors import AttestationError

CHAIN_LENGTH = 5
MAX_CHAIN_CHARACTERS = 16384  # a GH100's has 4825

ROOT_NAME = "Device Identity CA"

# By the first letters of the chip's name.
CHIPS: dict[str, tuple[DeviceKind, str]] = {
    "GH": (DeviceKind.NVIDIA_GPU, "hopper"),
    "GB": (DeviceKind.NVIDIA_GPU, "blackwell"),
    "LS": (DeviceKind.NVIDIA_SWITCH, "ls10"),
}

# tcg-dice-TcbInfo (TCG DICE Attestation Architecture, "X.509 Attestation Extensions"). What stands in it ends with the
# FWID: SEQUENCE { OBJECT IDENTIFIER sha384, OCTET STRING of 48 bytes }.
FWID_EXTENSION = x509.ObjectIdentifier("2.23.133.5.4.1")
FWID_PREFIX = bytes.fromhex("303d0609608648016503040202") + bytes([0x04, FWID_BYTES])


class Chip(msgspec.Struct, frozen=True):
    """What the certificates say of the device.

    Attributes:
        name: such as `GH100`.
        architecture: such as `hopper`.
        key: that of the first certificate, which signs reports.
    """

    name: str
    kind: DeviceKind
    architecture: str
    key: ec.EllipticCurvePublicKey


def parse_chain(pem: str) -> tuple[x509.Certificate, ...]:
    """Parse a chain of certificates, leaf first.

    Raises:
        AttestationError: `devices.certificates`.
    """
    try:
        chain = load_pem(pem, maximum=MAX_CHAIN_CHARACTERS)
        if len(chain) > CHAIN_LENGTH:  # before the signature of each is looked at, which takes a while
            raise ValueError(f"there are {len(chain)}, and a chain has {CHAIN_LENGTH}")
        for certificate in chain:
            read_whole(certificate)
    except UNPARSABLE as error:
        raise _refusal(
            "devices.certificates", "the certificates of the device cannot be parsed", expected="PEM", got=str(error)
        ) from error
    return chain


def certified_fwid(leaf: x509.Certificate) -> bytes:
    """The firmware to which the leaf's key belongs, 48 bytes.

    Raises:
        AttestationError: `devices.fwid_missing`.
    """
    for extension in leaf.extensions:
        if extension.oid == FWID_EXTENSION:
            value: bytes = extension.value.public_bytes()
            if value[-FWID_BYTES - len(FWID_PREFIX) : -FWID_BYTES] == FWID_PREFIX:
                return value[-FWID_BYTES:]
    raise _refusal(
        "devices.fwid_missing",
        "the device's certificate does not say which firmware holds its key",
        expected="a firmware id (FWID) in the first certificate",
        got=f"none in {common_name(leaf)!r}",
        likely="the first certificate is missing, or this is no certificate of a device",
    )


def require_issued(chain: tuple[x509.Certificate, ...]) -> None:
    """Each certificate is signed by the next one, the last by itself.

    Raises:
        AttestationError: `devices.chain`.
    """
    for certificate, issuer in zip(chain, (*chain[1:], chain[-1]), strict=True):
        try:
            require_issued_by(certificate, issuer)
        except AttestationError as error:
            raise _refusal("devices.chain", error.message, expected=error.expected, got=error.got) from error


def require_roles(chain: tuple[x509.Certificate, ...], kind: DeviceKind) -> Chip:
    """Each certificate is made for its place, and all are of one chip.

    Raises:
        AttestationError: `devices.role`, `devices.kind` or `devices.unsupported`.
    """
    if len(chain) != CHAIN_LENGTH:
        raise _role(f"{CHAIN_LENGTH} certificates", f"{len(chain)}")
    simulated = common_name(chain[-1]).startswith(SIMULATED_VENDOR)
    vendor = SIMULATED_VENDOR if simulated else "NVIDIA"
    match = re.fullmatch(rf"{vendor} ([A-Z]{{2}}[0-9]{{2,3}}) Identity", common_name(chain[3]))
    if match is None:
        raise _role(f"{vendor} .. Identity", repr(common_name(chain[3])))
    name = match[1]
    own = rf"{SIMULATED_VENDOR} {name} .+" if simulated else rf"{name} .+"
    patterns = (own, own, rf"{vendor} {name} Provisioner ICA [0-9]+", re.escape(match[0]), f"{vendor} {ROOT_NAME}")
    keys: list[ec.EllipticCurvePublicKey] = []
    for position, (certificate, pattern) in enumerate(zip(chain, patterns, strict=True)):
        if not re.fullmatch(pattern, common_name(certificate)):
            raise _role(pattern, repr(common_name(certificate)))
        keys.append(_key(certificate))
        if fault := _fault(certificate, is_ca=position > 0):
            raise _role(f"{common_name(certificate)} for its place", fault)
    if name[:2] not in CHIPS:
        raise _refusal(
            "devices.unsupported",
            "this release does not know devices with this chip",
            expected=", ".join(f"{prefix}.." for prefix in CHIPS),
            got=name,
        )
    of_chip, architecture = CHIPS[name[:2]]
    if of_chip is not kind:
        message = "the device is of another kind than the evidence says"
        raise _refusal("devices.kind", message, expected=kind, got=f"{of_chip} {name}")
    return Chip(name, kind, architecture, keys[0])


def _key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1):
        return key
    raise _role("a key on P-384", f"{common_name(certificate)} with another key")


def _fault(certificate: x509.Certificate, *, is_ca: bool) -> str:
    if not isinstance(certificate.signature_hash_algorithm, hashes.SHA384):
        return "a signature with another hash than SHA-384"
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        return str(error)
    constraints = [item.value for item in certificate.extensions if isinstance(item.value, x509.BasicConstraints)]
    if any(item.ca for item in constraints) != is_ca or usage.key_cert_sign != is_ca:
        return "a certificate of a CA" if not is_ca else "no certificate of a CA"
    if not is_ca and not usage.digital_signature:
        return "a key that may not sign"
    return ""


def _role(expected: str, got: str) -> AttestationError:
    return _refusal(
        "devices.role", "a certificate stands in a place for which it was not issued", expected=expected, got=got
    )


def _refusal(code: str, message: str, *, expected: str, got: str, likely: str = "") -> AttestationError:
    return AttestationError(message, code=code, step="devices", expected=expected, got=got, likely=likely)
