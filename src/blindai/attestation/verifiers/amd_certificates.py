r"""AMD's certificate hierarchy: who may sign what, and proof that they did.

                ARK-Milan                   one root for each product line; + CRL, which revokes the two below
               /         \
         SEV-Milan     SEV-VLEK-Milan       ASK and ASVK
             |               |
         SEV-VCEK        SEV-VLEK           sign reports: the key of one chip, or that of a cloud; at one TCB

Everything above the last line is RSA-4096 with PSS and SHA-384, the last line has keys on P-384.

Source: AMD VCEK Certificate and KDS Interface Specification 57230, with RFC 5280. Nothing in those certificates but
their names tells an ASK from an ASVK, or a VCEK from a VLEK: here each must be exactly what its place demands.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import cast

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import SignatureAlgorithmOID

from blindai.attestation.anchors import Anchor
from blindai.attestation.evidence import AmdEndorsements
from blindai.attestation.result import Range
from blindai.attestation.verifiers import certificates
from blindai.attestation.verifiers.amd_product import PRODUCTS, Product
from blindai.attestation.verifiers.certificates import SIMULATED_VENDOR, UNPARSABLE, Window, common_name, refusal
from blindai.errors import AttestationError

# AMD's certificates are 1.4 to 1.8 KB, and its lists about 1 KB; 64 KB leave room for a thousand revoked ones.
MAX_CERTIFICATE_BYTES = 4096
MAX_CRL_BYTES = 64 * 1024

# A client seldom talks to more platforms than this at a time; an entry holds about 20 KB.
CACHED_CHAINS = 64

RSA_BITS = 4096

# Tag and length in front of what is signed: the length has two bytes, as RSA signatures alone have 512.
DER_HEADER_BYTES = 4

_AMD = "1.3.6.1.4.1.3704.1"
STRUCT_VERSION = x509.ObjectIdentifier(f"{_AMD}.1")
PRODUCT_NAME = x509.ObjectIdentifier(f"{_AMD}.2")
TCB_PARTS = {
    "boot_loader": x509.ObjectIdentifier(f"{_AMD}.3.1"),
    "tee": x509.ObjectIdentifier(f"{_AMD}.3.2"),
    "snp": x509.ObjectIdentifier(f"{_AMD}.3.3"),
    "microcode": x509.ObjectIdentifier(f"{_AMD}.3.8"),
    "fmc": x509.ObjectIdentifier(f"{_AMD}.3.9"),
}
RESERVED_TCB_PARTS = tuple(x509.ObjectIdentifier(f"{_AMD}.3.{number}") for number in range(4, 8))
HWID = x509.ObjectIdentifier(f"{_AMD}.4")
CSP_ID = x509.ObjectIdentifier(f"{_AMD}.5")

_ROOT_NAME = re.compile(rf"((?:{SIMULATED_VENDOR} )?)ARK-({'|'.join(PRODUCTS)})")
_INTEGER, _OCTET_STRING, _IA5_STRING = 0x02, 0x04, 0x16


class Role(msgspec.Struct, frozen=True):
    """What a certificate in a given place must look like.

    Attributes:
        name: its common name, `{}` standing for the product line.
        path_length: of a CA; None for a root, and for what signs reports.
        ca, signs_crls: whether it signs certificates, and revocation lists.
    """

    name: str
    path_length: int | None = None
    ca: bool = True
    signs_crls: bool = False


ARK = Role("ARK-{}", signs_crls=True)
ASK = Role("SEV-{}", path_length=0)
ASVK = Role("SEV-VLEK-{}", path_length=0)
VCEK = Role("SEV-VCEK", ca=False)
VLEK = Role("SEV-VLEK", ca=False)

# What signs reports, and who issues it, by the name of the key in the report.
ISSUERS = {"vcek": (VCEK, ASK), "vlek": (VLEK, ASVK)}


class CheckedChain(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Endorsements that passed; compared and hashed by identity.

    Attributes:
        anchor: the trust anchor that the chain ends on.
        simulated: the anchor or the root itself says so; one is enough.
        product: the product line whose root it is.
        signing_key: `vcek` or `vlek`.
        key: what signs reports.
        tcb: the security versions to which that key is bound, by part.
        hwid: identity of the chip; None for a VLEK, which many chips share.
        crl_checked: a revocation list came along.
        windows: when each part is valid.
        ranges: the bytes on which this rests.
    """

    anchor: Anchor
    simulated: bool
    product: Product
    signing_key: str
    key: ec.EllipticCurvePublicKey
    tcb: dict[str, int]
    hwid: bytes | None
    crl_checked: bool
    windows: tuple[Window, ...]
    ranges: tuple[Range, ...]


@lru_cache(CACHED_CHAINS)
def check_chain(endorsements: AmdEndorsements, anchors: tuple[Anchor, ...]) -> CheckedChain:
    """Check everything about `endorsements` but time and the report that they are for.

    Raises:
        AttestationError: step `endorsements`; `endorsements.malformed`, `.anchor`, `.role`, `.product`, `.chain`,
            `.crl.issuer`, `.crl.signature`, `.crl.scope`, `.revoked`.
    """
    root = parse_certificate(endorsements.root, what="ARK")
    authority = parse_certificate(endorsements.authority, what="ASK or ASVK")
    leaf = parse_certificate(endorsements.certificate, what="VCEK or VLEK")
    root_name = _ROOT_NAME.fullmatch(common_name(root))
    simulated = SIMULATED_VENDOR in common_name(root)
    anchor = certificates.anchor_of(root, anchors, simulated=simulated)
    if root_name is None:
        raise _role(f"ARK of {', '.join(PRODUCTS)}", f"a certificate named {common_name(root)!r}")
    prefix, product = root_name[1], PRODUCTS[root_name[2]]

    signing_key = _signing_key(leaf, prefix)
    leaf_role, authority_role = ISSUERS[signing_key]
    _require_same_product(authority, authority_role, prefix, product)
    for certificate, role in ((root, ARK), (authority, authority_role), (leaf, leaf_role)):
        _require_role(certificate, role, prefix + role.name.format(product.name))
    for certificate, issuer in ((root, root), (authority, root), (leaf, authority)):
        certificates.require_issued_by(certificate, issuer)
    extensions = _extensions(leaf)
    _require_code_name(extensions, product)

    windows = certificates.certificate_windows((root, authority, leaf))
    ranges = [
        _range("amd.root", root.tbs_certificate_bytes, "ARK itself"),
        _range("amd.authority", authority.tbs_certificate_bytes, "ARK"),
        _range("amd.certificate", leaf.tbs_certificate_bytes, "ASK" if signing_key == "vcek" else "ASVK"),
    ]
    if endorsements.crl is not None:
        crl = parse_crl(endorsements.crl, root)
        # All VCEKs have serial number 0: an entry for it would revoke every one of them, and is taken at its word.
        certificates.require_not_revoked((root, authority, leaf), crl)
        windows += (certificates.crl_window(crl, what="AMD's revocation list"),)
        ranges.append(_range("amd.crl", crl.tbs_certlist_bytes, "ARK"))
    return CheckedChain(
        anchor=anchor,
        simulated=anchor.simulated or simulated,
        product=product,
        signing_key=signing_key,
        key=cast(ec.EllipticCurvePublicKey, leaf.public_key()),  # its role was checked
        tcb=_tcb(extensions, product),
        hwid=_hwid(extensions, product, signing_key),
        crl_checked=endorsements.crl is not None,
        windows=windows,
        ranges=tuple(ranges),
    )


def parse_certificate(der: bytes, *, what: str) -> x509.Certificate:
    """Parse one certificate, all of it.

    Raises:
        AttestationError: `endorsements.malformed`.
    """
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise refusal(
            "malformed",
            f"the {what} certificate is larger than any of AMD's",
            expected=f"at most {MAX_CERTIFICATE_BYTES} bytes",
            got=f"{len(der)} bytes",
        )
    try:
        certificate = certificates.load_der(der)
        certificates.read_whole(certificate)
    except UNPARSABLE as error:
        raise refusal("malformed", f"the {what} certificate cannot be parsed", got=str(error)) from error
    return certificate


def parse_crl(der: bytes, root: x509.Certificate) -> x509.CertificateRevocationList:
    """Parse AMD's revocation list and require that the ARK `root` signed it, and that it is a complete one.

    Raises:
        AttestationError: `endorsements.malformed`, `endorsements.crl.issuer`, `endorsements.crl.signature`,
            `endorsements.crl.scope`.
    """
    if len(der) > MAX_CRL_BYTES:
        raise refusal(
            "malformed",
            "the revocation list is larger than any of AMD's",
            expected=f"at most {MAX_CRL_BYTES} bytes",
            got=f"{len(der)} bytes",
        )
    try:
        with certificates.as_they_are():
            crl = x509.load_der_x509_crl(der)
            _ = crl.issuer
        key = root.public_key()
        genuine = isinstance(key, rsa.RSAPublicKey) and _is_pss_sha384(crl) and crl.is_signature_valid(key)
        _ = (crl.last_update_utc, crl.next_update_utc, [entry.revocation_date_utc for entry in crl])
        issuer = crl.issuer
        certificates.require_whole_signature(crl)
        complete = _is_complete(crl)
    except UNPARSABLE as error:
        raise refusal("malformed", "the revocation list cannot be parsed", got=str(error)) from error
    if issuer != root.subject:
        raise refusal(
            "crl.issuer",
            "the revocation list comes from another root than the certificates",
            expected=root.subject.rfc4514_string(),
            got=issuer.rfc4514_string(),
            likely="it is the list of another product line",
        )
    if not genuine:
        raise refusal(
            "crl.signature",
            "the revocation list is not signed by its issuer",
            expected=f"signed by {common_name(root)}",
            got="a signature that does not verify",
        )
    if not complete:
        raise refusal(
            "crl.scope",
            "the revocation list covers only some certificates or some reasons",
            expected="a complete list",
            got=", ".join(extension.oid.dotted_string for extension in crl.extensions if extension.critical),
        )
    return crl


def _is_complete(crl: x509.CertificateRevocationList) -> bool:
    """RFC 5280, section 5.2: a list with a critical extension that is not understood proves no absence."""
    for extension in crl.extensions:
        point = extension.value
        if isinstance(point, x509.IssuingDistributionPoint):
            if point.only_some_reasons or point.only_contains_user_certs or point.only_contains_attribute_certs:
                return False
        elif extension.critical:
            return False
    return True


def _signing_key(leaf: x509.Certificate, prefix: str) -> str:
    name = common_name(leaf)
    for signing_key, (role, _) in ISSUERS.items():
        if name == prefix + role.name:
            return signing_key
    raise _role(f"{prefix}{VCEK.name} or {prefix}{VLEK.name}", f"a certificate named {name!r}")


def _require_same_product(authority: x509.Certificate, role: Role, prefix: str, product: Product) -> None:
    """Tell a chain of mixed product lines from other wrong chains."""
    name = common_name(authority)
    for other in PRODUCTS:
        if other != product.name and name == prefix + role.name.format(other):
            raise _mixed(f"{prefix}{role.name.format(product.name)}", name)


def _require_code_name(extensions: dict[x509.ObjectIdentifier, bytes], product: Product) -> None:
    """The name of the processors, with the stepping behind a hyphen (a VLEK has none)."""
    code_name = _value(extensions, PRODUCT_NAME, _IA5_STRING).decode("ascii", "replace")
    if code_name.partition("-")[0] not in product.code_names:
        raise _mixed(" or ".join(product.code_names), code_name)


def _require_role(certificate: x509.Certificate, role: Role, name: str) -> None:
    found = common_name(certificate)
    if found != name:
        fault = f"a certificate named {found!r}"
    elif not _is_pss_sha384(certificate):
        fault = "another signature algorithm than RSASSA-PSS with SHA-384"
    elif role.ca:
        fault = _authority_fault(certificate, role)
    else:
        fault = _leaf_fault(certificate)
    if fault:
        raise _role(name, fault)


def _is_pss_sha384(signed: x509.Certificate | x509.CertificateRevocationList) -> bool:
    return signed.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS and isinstance(
        signed.signature_hash_algorithm, hashes.SHA384
    )


def _authority_fault(certificate: x509.Certificate, role: Role) -> str:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != RSA_BITS:
        return f"another key than RSA of {RSA_BITS} bits"
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        return str(error)
    if not constraints.ca or constraints.path_length != role.path_length:
        return f"basic constraints CA={constraints.ca}, path length {constraints.path_length}"
    if not usage.key_cert_sign or usage.crl_sign != role.signs_crls:
        return "another key usage"
    return _unknown_critical(certificate)


def _leaf_fault(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return "another key than ECDSA on P-384"
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            return "basic constraints CA=True"
        if isinstance(value, x509.KeyUsage) and (value.key_cert_sign or not value.digital_signature):
            return "another key usage"
    return _unknown_critical(certificate)


def _unknown_critical(certificate: x509.Certificate) -> str:
    unknown = [
        extension.oid.dotted_string
        for extension in certificate.extensions
        if extension.critical and not isinstance(extension.value, x509.BasicConstraints | x509.KeyUsage)
    ]
    return f"critical extensions {', '.join(unknown)}" if unknown else ""


def _extensions(leaf: x509.Certificate) -> dict[x509.ObjectIdentifier, bytes]:
    return {
        extension.oid: extension.value.value
        for extension in leaf.extensions
        if isinstance(extension.value, x509.UnrecognizedExtension)
    }


def _tcb(extensions: dict[x509.ObjectIdentifier, bytes], product: Product) -> dict[str, int]:
    struct_version = _byte(extensions, STRUCT_VERSION)
    if struct_version != product.struct_version:
        raise _mixed(f"TCB structure version {product.struct_version}", f"version {struct_version}")
    for part in RESERVED_TCB_PARTS:
        if part in extensions and _byte(extensions, part):
            raise _unreadable(part, "0")
    return {part: _byte(extensions, TCB_PARTS[part]) for part in product.tcb}


def _hwid(extensions: dict[x509.ObjectIdentifier, bytes], product: Product, signing_key: str) -> bytes | None:
    """The chip of a VCEK. A VLEK names a cloud (CSP_ID) in its place."""
    own, other = (HWID, CSP_ID) if signing_key == "vcek" else (CSP_ID, HWID)
    if own not in extensions or other in extensions:
        name = (VCEK if signing_key == "vcek" else VLEK).name
        raise _role(f"{name} with extension {own.dotted_string}", "without it, or with the other key's")
    if signing_key == "vlek":
        return None
    hwid = extensions[HWID]
    if len(hwid) != product.hwid_bytes:  # older certificates hold it as it is, newer ones as an OCTET STRING
        hwid = _value(extensions, HWID, _OCTET_STRING)
    if len(hwid) != product.hwid_bytes or not any(hwid):
        raise _unreadable(HWID, f"{product.hwid_bytes} bytes that are not all zeros")
    return hwid


def _byte(extensions: dict[x509.ObjectIdentifier, bytes], oid: x509.ObjectIdentifier) -> int:
    """An INTEGER from 0 to 255."""
    content = _value(extensions, oid, _INTEGER)
    number = int.from_bytes(content, signed=True) if content else -1
    if not 0 <= number <= 255 or len(content) != number.bit_length() // 8 + 1:
        raise _unreadable(oid, "an integer from 0 to 255")
    return number


def _value(extensions: dict[x509.ObjectIdentifier, bytes], oid: x509.ObjectIdentifier, tag: int) -> bytes:
    """The content of one short DER element (X.690, section 8.1.3) that fills the extension."""
    der = extensions.get(oid, b"")
    if len(der) < 2 or (der[0], der[1]) != (tag, len(der) - 2) or der[1] >= 0x80:
        raise _unreadable(oid, f"one element of type {tag:#x}")
    return der[2:]


def _range(of: str, signed: bytes, issuer: str) -> Range:
    return Range(of, DER_HEADER_BYTES, DER_HEADER_BYTES + len(signed), f"SHA-384, signed by the {issuer} (RSASSA-PSS)")


def _role(expected: str, got: str) -> AttestationError:
    return refusal("role", "a certificate stands in a place for which it was not issued", expected=expected, got=got)


def _mixed(expected: str, got: str) -> AttestationError:
    return refusal("product", "the certificates belong to different product lines", expected=expected, got=got)


def _unreadable(oid: x509.ObjectIdentifier, expected: str) -> AttestationError:
    return refusal(
        "malformed", f"extension {oid.dotted_string} of the VCEK or VLEK cannot be parsed", expected=expected
    )
