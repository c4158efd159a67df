"""A second DCAP verifier, written on its own with pyca/cryptography alone, to check the first one against.

It shares no code with the package, knows no error codes and explains nothing: it accepts, returning what it read, or
raises `Refused`. Written from Intel's documents (quote layouts; PCK certificate profile; PCS API version 4).
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.utils import CryptographyDeprecationWarning

SGX_EXTENSION = "1.2.840.113741.1.13.1"
# Worse is further to the right; Revoked is never accepted.
RANK = ["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"]


class Refused(Exception):
    pass


@dataclass(frozen=True)
class Accepted:
    report_data: bytes
    status: str


def require(condition: object) -> None:
    if not condition:
        raise Refused


def verify(tee: str, quote: bytes, collateral: dict[str, str] | None, root_spki: str, now: datetime) -> Accepted:
    try:
        require(collateral)
        return _verify(tee, quote, collateral or {}, root_spki, now)
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration, struct.error) as error:
        raise Refused from error
    except (InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion, x509.ExtensionNotFound) as error:
        raise Refused from error
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise Refused from error


def _verify(tee: str, quote: bytes, collateral: dict[str, str], root_spki: str, now: datetime) -> Accepted:
    # Layout.
    version, key_type, tee_type = struct.unpack_from("<HHI", quote)
    require(key_type == 2 and quote[12:28].hex() == "939a7233f79c4ca9940a0db3957f0607")
    require((version, tee_type, tee) in {(3, 0, "intel-sgx"), (4, 0x81, "intel-tdx"), (5, 0x81, "intel-tdx")})
    start, size = 48, 384 if version == 3 else 584
    if version == 5:
        body_type, size = struct.unpack_from("<HI", quote, 48)
        require((body_type, size) in {(2, 584), (3, 648)})
        start = 54
    body, end = quote[start : start + size], start + size
    (auth_size,) = struct.unpack_from("<I", quote, end)
    auth = quote[end + 4 : end + 4 + auth_size]
    require(len(auth) == auth_size and not any(quote[end + 4 + auth_size :]) and len(quote) <= 16384)
    signature, key, rest = auth[:64], auth[64:128], auth[128:]
    if version >= 4:
        kind, inner_size = struct.unpack_from("<HI", rest)
        require(kind == 6 and len(rest) == 6 + inner_size)
        rest = rest[6:]
    qe, qe_signature = rest[:384], rest[384:448]
    auth_data_size, kind, pem_size = struct.unpack_from("<H32xHI", rest, 448)
    qe_auth_data, pem = rest[450:482], rest[488:]
    require(auth_data_size == 32 and kind == 5 and len(pem) == pem_size)

    # Chains, roles, lists.
    pck, pck_ca, root = _chain(pem.rstrip(b"\0").decode("ascii"), 3)
    crl_issuer, *roots = _chain(collateral["pck_crl_issuer_chain"], 2)
    tcb_signer, *more = _chain(collateral["tcb_info_issuer_chain"], 2)
    qe_signer, *others = _chain(collateral["qe_identity_issuer_chain"], 2)
    require(all(other == root for other in roots + more + others) and crl_issuer == pck_ca)
    spki = root.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    require(hashlib.sha256(spki).hexdigest() == root_spki)
    vendor = _name(root).removesuffix(" SGX Root CA")
    _role(root, {f"{vendor} SGX Root CA"}, 1, has_extension=False)
    _role(pck_ca, {f"{vendor} SGX PCK Platform CA", f"{vendor} SGX PCK Processor CA"}, 0, has_extension=False)
    _role(pck, {f"{vendor} SGX PCK Certificate"}, None, has_extension=True)
    for signer in (tcb_signer, qe_signer):
        _role(signer, {f"{vendor} SGX TCB Signing"}, None, has_extension=False)
    for child, parent in ((root, root), (pck_ca, root), (pck, pck_ca), (tcb_signer, root), (qe_signer, root)):
        require(child.issuer == parent.subject)
        _ecdsa(parent, child.signature, child.tbs_certificate_bytes)
        require(child.not_valid_before_utc <= now <= child.not_valid_after_utc)
    for text, issuer, subjects in (
        (collateral["root_ca_crl"], root, (root, pck_ca, tcb_signer, qe_signer)),
        (collateral["pck_crl"], pck_ca, (pck,)),
    ):
        crl = x509.load_der_x509_crl(_unhex(text))
        require(crl.issuer == issuer.subject and isinstance(crl.signature_hash_algorithm, hashes.SHA256))
        _ecdsa(issuer, crl.signature, crl.tbs_certlist_bytes)
        require(crl.next_update_utc and crl.last_update_utc <= now < crl.next_update_utc)
        revoked = {entry.serial_number for entry in crl}
        require(not any(subject.serial_number in revoked for subject in subjects))

    # Signed JSON.
    tcb_info = _signed(collateral["tcb_info"], collateral["tcb_info_signature"], tcb_signer, now)
    identity = _signed(collateral["qe_identity"], collateral["qe_identity_signature"], qe_signer, now)
    sgx = tee == "intel-sgx"
    require((tcb_info["id"], tcb_info["version"]) == ("SGX" if sgx else "TDX", 3))
    require((identity["id"], identity["version"]) == ("QE" if sgx else "TD_QE", 2))

    # The quoting enclave and the quote.
    _ecdsa(pck, _der_signature(qe_signature), qe)
    require(hashlib.sha256(key + qe_auth_data).digest() == qe[320:352])
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + key)
    point.verify(_der_signature(signature), quote[:end], ec.ECDSA(hashes.SHA256()))
    require(qe[128:160].hex() == identity["mrsigner"].lower() and not qe[48] & 2)
    require(int.from_bytes(qe[256:258], "little") == identity["isvprodid"])
    require(_masked(qe[16:20][::-1], identity["miscselect"], identity["miscselectMask"]))
    require(_masked(qe[48:64], identity["attributes"], identity["attributesMask"]))
    qe_svn = int.from_bytes(qe[258:260], "little")
    statuses = [next(x["tcbStatus"] for x in identity["tcbLevels"] if x["tcb"]["isvsvn"] <= qe_svn)]
    require(statuses[0] in {"UpToDate", "OutOfDate"})

    # The platform's TCB level.
    platform = _sgx_extension(pck)
    require(platform["4"].hex() == tcb_info["fmspc"].lower() and platform["3"].hex() == tcb_info["pceId"].lower())
    cpu_svn, pce_svn = platform["2.18"], int.from_bytes(platform["2.17"])
    module = body[:16]
    levels = sorted(
        tcb_info["tcbLevels"],
        key=lambda level: ([c["svn"] for c in level["tcb"]["sgxtcbcomponents"]], level["tcb"]["pcesvn"]),
        reverse=True,
    )
    modules = [] if sgx else [module, body[584:600] if size == 648 else module]
    for tee_tcb_svn in modules or [b""]:
        statuses.append(next(x["tcbStatus"] for x in levels if _reaches(x["tcb"], cpu_svn, pce_svn, tee_tcb_svn)))
        if not sgx:
            statuses.append(_module_status(tcb_info, tee_tcb_svn, body))
    require("Revoked" not in statuses)

    # Attributes.
    if sgx:
        attributes = int.from_bytes(body[48:56], "little")
        require(attributes & 1 and not attributes & ~sum(1 << bit for bit in (0, 2, 4, 5, 6, 7, 10)))
    else:
        attributes = int.from_bytes(body[120:128], "little")
        require(attributes >> 28 & 1 and not attributes & ~sum(1 << bit for bit in (16, 27, 28, 30, 31, 63)))
        require(not any(body[600:648]))
    report_data = body[320:384] if sgx else body[520:584]
    if any(status.startswith("OutOfDate") for status in statuses):
        needs_configuration = any("Configuration" in status for status in statuses)
        return Accepted(report_data, "OutOfDateConfigurationNeeded" if needs_configuration else "OutOfDate")
    return Accepted(report_data, max(statuses, key=RANK.index))


def _chain(pem: str, length: int) -> list[x509.Certificate]:
    head, foot = "-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n"
    blocks = (pem if pem.endswith("\n") else pem + "\n").split(foot)
    require(len(blocks) == length + 1 and blocks.pop() == "")
    certificates = []
    for block in blocks:
        require(block.startswith(head))
        der = base64.b64decode(block.removeprefix(head).replace("\n", ""), validate=True)
        text = base64.b64encode(der).decode()
        require(block == head + "".join(text[i : i + 64] + "\n" for i in range(0, len(text), 64)))
        # An altered serial number may be negative, of which pyca/cryptography warns; the signature tells anyway.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            certificates.append(x509.load_der_x509_certificate(der))
    return certificates


def _name(certificate: x509.Certificate) -> str:
    (name,) = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(name.value)


def _role(certificate: x509.Certificate, names: set[str], path_length: int | None, *, has_extension: bool) -> None:
    extensions = certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    ca = path_length is not None
    key = certificate.public_key()
    require(_name(certificate) in names and (constraints.ca, constraints.path_length) == (ca, path_length))
    require(usage.key_cert_sign is ca and usage.crl_sign is ca and (ca or usage.digital_signature))
    require(any(extension.oid.dotted_string == SGX_EXTENSION for extension in extensions) is has_extension)
    require(isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1")
    require(isinstance(certificate.signature_hash_algorithm, hashes.SHA256))


def _ecdsa(signer: x509.Certificate, der_signature: bytes, message: bytes) -> None:
    key = signer.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(der_signature, message, ec.ECDSA(hashes.SHA256()))


def _der_signature(raw: bytes) -> bytes:
    require(len(raw) == 64)
    return encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))


def _unhex(text: str) -> bytes:
    require(text and set(text) <= set("0123456789abcdef"))
    return bytes.fromhex(text)


def _signed(text: str, signature: str, signer: x509.Certificate, now: datetime) -> dict[str, Any]:
    _ecdsa(signer, _der_signature(_unhex(signature)), text.encode())
    value = json.loads(text)
    issued, next_update = (
        datetime.strptime(value[name], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) for name in ("issueDate", "nextUpdate")
    )
    require(issued <= now <= next_update)
    return dict(value)


def _masked(found: bytes, expected: str, mask: str) -> bool:
    wanted, bits = bytes.fromhex(expected), bytes.fromhex(mask)
    require(len(found) == len(wanted) == len(bits))
    return all(f & m == w & m for f, w, m in zip(found, wanted, bits, strict=True))


def _reaches(tcb: dict[str, Any], cpu_svn: bytes, pce_svn: int, tee_tcb_svn: bytes) -> bool:
    components = [component["svn"] for component in tcb["sgxtcbcomponents"]]
    tdx = [component["svn"] for component in tcb.get("tdxtcbcomponents", [])] if tee_tcb_svn else []
    require(len(components) == 16 and len(tdx) == len(tee_tcb_svn))
    # The first two TDX components are the module's, judged by its identity once it has a major version.
    skip = 2 if len(tee_tcb_svn) and tee_tcb_svn[1] else 0
    return (
        pce_svn >= tcb["pcesvn"]
        and all(have >= need for have, need in zip(cpu_svn, components, strict=True))
        and all(have >= need for have, need in list(zip(tee_tcb_svn, tdx, strict=True))[skip:])
    )


def _module_status(tcb_info: dict[str, Any], tee_tcb_svn: bytes, body: bytes) -> str:
    svn, major = tee_tcb_svn[:2]
    wanted = tcb_info["tdxModule"]
    require(len(bytes.fromhex(wanted["mrsigner"])) == 48 and _masked(bytes(8), "00" * 8, wanted["attributesMask"]))
    require(len(bytes.fromhex(wanted["attributes"])) == 8)
    if major:
        name = f"TDX_{major:02X}"
        wanted = next(x for x in tcb_info["tdxModuleIdentities"] if x["id"].upper() == name)
    require(body[64:112].hex() == wanted["mrsigner"].lower())
    require(_masked(body[112:120], wanted["attributes"], wanted["attributesMask"]))
    require(not any(f & ~m & 0xFF for f, m in zip(body[112:120], bytes.fromhex(wanted["attributesMask"]), strict=True)))
    if not major:
        return "UpToDate"
    status = next(x["tcbStatus"] for x in wanted["tcbLevels"] if x["tcb"]["isvsvn"] <= svn)
    require(status in {"UpToDate", "OutOfDate", "Revoked"})
    return str(status)


def _sgx_extension(certificate: x509.Certificate) -> dict[str, bytes]:
    """Value octets by the arcs below the extension's identifier: `4` is FMSPC, `2.18` CPUSVN."""
    (extension,) = (e for e in certificate.extensions if e.oid.dotted_string == SGX_EXTENSION)
    found: dict[str, bytes] = {}
    prefix = bytes.fromhex("2a864886f84d010d01")

    def walk(der: bytes) -> None:
        for _, entry in _elements(der):
            (_, oid), (tag, value) = _elements(entry)
            require(oid.startswith(prefix))
            found[".".join(str(arc) for arc in oid[len(prefix) :])] = value
            if tag == 0x30:
                walk(value)

    ((_, content),) = _elements(extension.value.public_bytes())
    walk(content)
    return found


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    elements = []
    while der:
        tag, size, at = der[0], der[1], 2
        if size & 0x80:
            at += size & 0x7F
            size = int.from_bytes(der[2:at])
        require(len(der) >= at + size)
        elements.append((tag, der[at : at + size]))
        der = der[at + size :]
    return elements
