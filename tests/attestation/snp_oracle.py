"""A second SEV-SNP verifier, written on its own, to check the first one against.

It shares no code with the package, reads certificates with a DER reader of its own, knows no error codes and explains
nothing: it accepts, returning what it read, or raises `Refused`. Written from AMD's documents 56860 and 57230.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

AMD = bytes.fromhex("2b060104019c7801")  # 1.3.6.1.4.1.3704.1
SHA384 = "300d06096086480165030402020500"
PSS = "06092a864886f70d01010a30{}a00f" + SHA384 + "a11c301a06092a864886f70d010108" + SHA384 + "a203020130"
ALGORITHMS = {bytes.fromhex(PSS.format("34")), bytes.fromhex(PSS.format("39") + "a303020101")}
LINES = {"Milan": (0x19, range(16)), "Genoa": (0x19, [*range(16, 32), *range(160, 176)]), "Turin": (0x1A, range(32))}
CODE_NAMES = {"Milan": ["Milan"], "Genoa": ["Genoa", "Bergamo", "Siena"], "Turin": ["Turin"]}


class Refused(Exception):
    pass


@dataclass(frozen=True)
class Accepted:
    report_data: bytes
    debug: bool
    product: str
    crl_checked: bool


def require(condition: object) -> None:
    if not condition:
        raise Refused


def verify(report: bytes, chain: list[bytes], crl: bytes | None, root_spki: str, now: datetime) -> Accepted:
    """`chain`: VCEK or VLEK, ASK or ASVK, ARK."""
    try:
        return _verify(report, chain, crl, root_spki, now)
    except (ValueError, LookupError, TypeError, struct.error, InvalidSignature, UnsupportedAlgorithm) as error:
        raise Refused from error


def _verify(report: bytes, chain: list[bytes], crl: bytes | None, root_spki: str, now: datetime) -> Accepted:
    leaf, authority, root = signed_chain(*chain)
    for child, parent in ((root, root), (authority, root), (leaf, authority)):
        require(child.start <= now <= child.end and child.issuer == parent.subject)
    require(hashlib.sha256(root.spki).hexdigest() == root_spki)
    simulated = "SIMULATED " if root.name.startswith("SIMULATED ") else ""
    product = root.name.removeprefix(f"{simulated}ARK-")
    key = {"SEV-VCEK": 0, "SEV-VLEK": 1}[leaf.name.removeprefix(simulated)]
    require(leaf.name.startswith(simulated) and root.name == f"{simulated}ARK-{product}" and product in LINES)
    require(authority.name == f"{simulated}SEV-{'VLEK-' if key else ''}{product}")
    require((root.is_authority(path_length=None), authority.is_authority(path_length=0)) == (True, True))
    require(b"\x55\x1d\x13" not in leaf.extensions and b"\x55\x1d\x0f" not in leaf.extensions and not leaf.critical)
    if crl is not None:
        signed_list(crl, root).allows(now, root, authority, leaf)

    version, guest_svn, policy, vmpl, algorithm = struct.unpack_from("<IIQ32xII", report)
    platform, info, reserved = struct.unpack_from("<QII", report, 0x40)
    require(len(report) == 0x4A0 and version in {2, 3, 5} and vmpl <= 3 and algorithm == 1 and guest_svn >= 0)
    require(policy & 1 << 17 and policy < 1 << 26 and platform < 1 << 8)
    require(info in {key << 2, key << 2 | 1} or (key and info in {0b110, 0b111}))
    require(reserved == 0 and report[0x1EB] == report[0x1EF] == 0)
    require(not any(report[0x18B:0x1A0] + report[0x208:0x2A0] + report[0x330:]))
    require(version > 2 or not any(report[0x188:0x18B]))
    require(version > 3 or not any(report[0x1F8:0x208]))
    family, models = LINES[product]
    require(version == 2 or (report[0x188] == family and report[0x189] in models))

    # The certificate's numbers, put together as the report has them, must be the reported TCB.
    turin = product == "Turin"
    parts = [9, 1, 2, 3, 5, 6, 7, 8] if turin else [1, 2, 4, 5, 6, 7, 3, 8]
    numbers = [0 if part in {4, 5, 6, 7} else uint8(leaf.extensions[AMD + bytes([3, part])]) for part in parts]
    require(not any(uint8(leaf.extensions[n]) for p in (4, 5, 6, 7) if (n := AMD + bytes([3, p])) in leaf.extensions))
    reported, committed, current = report[0x180:0x188], report[0x1E0:0x1E8], report[0x38:0x40]
    launch = report[0x1F0:0x1F8]
    require(bytes(numbers) == reported and uint8(leaf.extensions[AMD + b"\x01"]) == turin)
    for tcb in (committed, current, launch):
        require(not any(tcb[4:7] if turin else tcb[2:6]))
    require(all(a <= b <= c for a, b, c in zip(reported, committed, current, strict=True)))
    tag, code_name = one(leaf.extensions[AMD + b"\x02"])
    require(tag == 0x16 and code_name.decode("ascii").split("-")[0] in CODE_NAMES[product])
    if key:
        require(AMD + b"\x05" in leaf.extensions and AMD + b"\x04" not in leaf.extensions)
    else:
        require(AMD + b"\x05" not in leaf.extensions)
        hwid, size = leaf.extensions[AMD + b"\x04"], 8 if turin else 64
        hwid = hwid if len(hwid) == size else octets(hwid)
        require(len(hwid) == size and any(hwid))
        require(report[0x1A0:0x1E0] in {bytes(64), hwid + bytes(64 - size)})

    smt_forbidden, smt = not policy >> 16 & 1, platform & 1
    require(not (smt_forbidden and smt))
    require(not policy >> 23 & 1 or platform >> 3 & 1)
    require(not policy >> 24 & 1 or platform >> 4 & 1)
    r, s = (int.from_bytes(report[at : at + 72], "little") for at in (0x2A0, 0x2E8))
    require(max(r, s) < 1 << 384)
    public = serialization.load_der_public_key(leaf.spki)
    require(isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name == "secp384r1")
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(encode_dss_signature(r, s), report[:0x2A0], ec.ECDSA(hashes.SHA384()))
    return Accepted(report[0x50:0x90], bool(policy >> 19 & 1), product, crl is not None)


class Signed:
    """SEQUENCE of what is signed, algorithm and signature."""

    def __init__(self, der: bytes) -> None:
        require(len(der) <= 65536)
        tag, body = one(der)
        (_, tbs, self.tbs), (kind, self.algorithm, _), (bits, signature, _) = elements(body)
        require((tag, kind, bits) == (0x30, 0x30, 0x03))
        require(signature[:1] == b"\0" and self.algorithm in ALGORITHMS)
        self.signature = signature[1:]
        self.fields = elements(tbs)


class Certificate(Signed):
    def __init__(self, der: bytes) -> None:
        super().__init__(der)
        require(len(der) <= 4096)
        version, (_, self.serial, _), (_, algorithm, _), issuer, validity, subject, spki, extensions = self.fields
        require(version[2] == bytes.fromhex("a003020102") and algorithm == self.algorithm)
        self.issuer, self.subject, self.spki = issuer[2], subject[2], spki[2]
        self.start, self.end = (time(tag, text) for tag, text, _ in elements(validity[1]))
        self.name = common_name(subject[1])
        self.extensions: dict[bytes, bytes] = {}
        self.critical = False
        for _, extension, _ in elements(one(extensions[1])[1]):
            (_, oid, _), *critical, (_, value, _) = elements(extension)
            require(oid not in self.extensions)
            self.extensions[oid] = value
            self.critical = self.critical or bool(critical and oid not in {b"\x55\x1d\x13", b"\x55\x1d\x0f"})

    def is_authority(self, *, path_length: int | None) -> bool:
        constraints = {None: "30030101ff", 0: "30060101ff020100"}[path_length]
        usage = {None: {"03020106"}, 0: {"03020204", "03020104"}}[path_length]  # AMD counts one unused bit too few
        return (
            self.extensions[b"\x55\x1d\x13"].hex() == constraints
            and self.extensions[b"\x55\x1d\x0f"].hex() in usage
            and not self.critical
        )

    def signed(self, child: Signed) -> None:
        key = serialization.load_der_public_key(self.spki)
        require(isinstance(key, rsa.RSAPublicKey) and key.key_size == 4096)
        assert isinstance(key, rsa.RSAPublicKey)
        key.verify(child.signature, child.tbs, padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA384())


class CertificateList(Signed):
    def __init__(self, der: bytes, root: Certificate) -> None:
        super().__init__(der)
        root.signed(self)
        _, algorithm, issuer, start, end, *rest = self.fields
        require(algorithm[1] == self.algorithm and issuer[2] == root.subject)
        self.start, self.end = (time(tag, text) for tag, text, _ in (start, end))
        entries = [entry for tag, listed, _ in rest if tag == 0x30 for _, entry, _ in elements(listed)]
        self.revoked = [elements(entry)[0][1] for entry in entries]

    def allows(self, now: datetime, *certificates: Certificate) -> None:
        require(self.start <= now < self.end)
        require(not any(certificate.serial in self.revoked for certificate in certificates))


# Many reports come with the same chain and list. What these raise is not remembered.
@lru_cache(16)
def signed_chain(leaf: bytes, authority: bytes, root: bytes) -> tuple[Certificate, Certificate, Certificate]:
    """Read, with every signature among them verified."""
    found = Certificate(leaf), Certificate(authority), Certificate(root)
    for child, parent in zip(found, (found[1], found[2], found[2]), strict=True):
        parent.signed(child)
    return found


@lru_cache(16)
def signed_list(der: bytes, root: Certificate) -> CertificateList:
    """Read, with its signature verified."""
    return CertificateList(der, root)


def elements(der: bytes) -> list[tuple[int, bytes, bytes]]:
    """Tag, content and the whole of each element; lengths in their shortest form."""
    found = []
    while der:
        tag, size, at = der[0], der[1], 2
        if size & 0x80:
            at += size & 0x7F
            size = int.from_bytes(der[2:at])
            require(size >= 0x80 and der[2])
        require(len(der) >= at + size)
        found.append((tag, der[at : at + size], der[: at + size]))
        der = der[at + size :]
    return found


def one(der: bytes) -> tuple[int, bytes]:
    ((tag, content, _),) = elements(der)
    return tag, content


def octets(der: bytes) -> bytes:
    tag, content = one(der)
    require(tag == 0x04)
    return content


def uint8(der: bytes) -> int:
    tag, content = one(der)
    number = int.from_bytes(content, signed=True)
    require(tag == 0x02 and 0 <= number < 256 and len(content) == (1 if number < 128 else 2))
    return number


def time(tag: int, text: bytes) -> datetime:
    layout = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}[tag]
    return datetime.strptime(text.decode("ascii"), layout).replace(tzinfo=UTC)


def common_name(name: bytes) -> str:
    (found,) = (
        parts[1][1].decode()
        for _, relative, _ in elements(name)
        for _, pair, _ in elements(relative)
        if (parts := elements(pair))[0][1] == b"\x55\x04\x03"
    )
    return found
