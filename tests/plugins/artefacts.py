"""Small build artefacts made by tests: firmware images, unified kernel images, event logs, SIGSTRUCTs."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

PAGE = 4096

FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
TDX_METADATA = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
SEV_METADATA = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
SEV_ES_RESET_BLOCK = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
SEV_HASH_TABLE = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")

# data offset, data bytes, address, memory bytes, kind, attributes: code that is measured, variables, memory
TDX_SECTIONS = (
    (2 * PAGE, 2 * PAGE, 0xFFFFE000, 2 * PAGE, 0, 1),
    (0, 2 * PAGE, 0xFFFFC000, 2 * PAGE, 1, 0),
    (0, 0, 0x810000, 3 * PAGE, 3, 0),
    (0, 0, 0x809000, PAGE, 2, 0),
    (0, 0, 0x900000, 1 << 27, 4, 2),
)
# address, bytes, kind
SNP_SECTIONS = (
    (0x800000, 2 * PAGE, 1),
    (0x80D000, PAGE, 2),
    (0x80E000, PAGE, 3),
    (0x80F000, PAGE, 4),
    (0x810000, PAGE, 0x10),
)


def image_with(entries: Iterable[tuple[UUID, bytes]], metadata: bytes = b"", *, pages: int = 4) -> bytes:
    """A firmware image of `pages` pages: content that differs everywhere, `metadata` 1 KiB before its end, a table."""
    body = b"".join(hashlib.sha256(struct.pack("<I", number)).digest() for number in range(pages * PAGE // 32))
    table = b"".join(content + struct.pack("<H16s", len(content) + 18, guid.bytes_le) for guid, content in entries)
    table += struct.pack("<H16s", len(table) + 18, FOOTER.bytes_le)
    image = bytearray(body)
    image[-1024 : -1024 + len(metadata)] = metadata
    image[-32 - len(table) : -32] = table
    return bytes(image)


def tdx_metadata(sections: Sequence[tuple[int, ...]] = TDX_SECTIONS, *, signature: bytes = b"TDVF") -> bytes:
    rows = b"".join(struct.pack("<IIQQII", *section) for section in sections)
    return struct.pack("<4sIII", signature, 16 + len(rows), 1, len(sections)) + rows


def tdx_firmware(sections: Sequence[tuple[int, ...]] = TDX_SECTIONS) -> bytes:
    return image_with([(TDX_METADATA, struct.pack("<I", 1024))], tdx_metadata(sections))


def snp_metadata(sections: Sequence[tuple[int, int, int]] = SNP_SECTIONS, *, signature: bytes = b"ASEV") -> bytes:
    rows = b"".join(struct.pack("<III", *section) for section in sections)
    return struct.pack("<4sIII", signature, 16 + len(rows), 1, len(sections)) + rows


def snp_firmware(
    sections: Sequence[tuple[int, int, int]] = SNP_SECTIONS, *, hash_table: int = 0x810400, signature: bytes = b"ASEV"
) -> bytes:
    entries = [
        (SEV_METADATA, struct.pack("<I", 1024)),
        (SEV_ES_RESET_BLOCK, struct.pack("<I", 0x80B004)),
        (SEV_HASH_TABLE, struct.pack("<II", hash_table, 0x400)),
    ]
    return image_with(entries, snp_metadata(sections, signature=signature))


def pe_image(
    sections: Sequence[tuple[str, bytes]], *, trailer: bytes = b"", memory: dict[str, int] | None = None
) -> bytes:
    """An unsigned PE32+ image with these sections, each filled up to 512 bytes in the file."""
    headers = bytearray(0x400)
    headers[:2] = b"MZ"
    struct.pack_into("<I", headers, 0x3C, 0x80)
    headers[0x80:0x84] = b"PE\0\0"
    struct.pack_into("<HHIIIHH", headers, 0x84, 0x8664, len(sections), 0, 0, 0, 240, 0x206)
    optional = 0x98
    struct.pack_into("<HBBIIIII", headers, optional, 0x20B, 0, 0, 512, 512, 0, 0x1000, 0x1000)
    struct.pack_into(
        "<QIIHHHHHHIIIIHH", headers, optional + 24, 0, 0x1000, 512, 0, 0, 0, 0, 0, 0, 0, 0, 0x400, 0, 10, 0
    )
    struct.pack_into("<I", headers, optional + 108, 16)
    content = b""
    address = 0x1000
    for number, (name, data) in enumerate(sections):
        size = -(-len(data) // 512) * 512
        held = (memory or {}).get(name, len(data))
        row = (name.encode(), held, address, size, 0x400 + len(content), 0, 0, 0, 0, 0x40000040)
        struct.pack_into("<8sIIIIIIHHI", headers, optional + 240 + 40 * number, *row)
        content += data.ljust(size, b"\0")
        address += max(-(-len(data) // 0x1000), 1) * 0x1000
    struct.pack_into("<I", headers, optional + 56, address)  # SizeOfImage
    return bytes(headers) + content + trailer


KERNEL = pe_image([(".text", b"kernel " * 100)])
UKI_SECTIONS = {
    ".sdmagic": b"#### LoaderInfo: systemd-stub 257.13-1 ####\0",
    ".osrel": b"ID=test\n",
    ".cmdline": b"console=ttyS0",
    ".initrd": b"initrd " * 200,
    ".linux": KERNEL,
    ".pcrpkey": b"-----BEGIN PUBLIC KEY-----\n",
    ".pcrsig": b"{}",
}


def uki(**changes: bytes | None) -> bytes:
    """A UKI; `changes` replace, add or (None) leave out sections, named without their dot."""
    sections = dict(UKI_SECTIONS)
    for name, content in changes.items():
        if content is None:
            del sections[f".{name}"]
        else:
            sections[f".{name}"] = content
    return pe_image(list(sections.items()))


def log_header(algorithms: Sequence[int]) -> bytes:
    """The first entry of a log in the crypto-agile format."""
    sizes = {0x0B: 32, 0x0C: 48}
    data = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(algorithms))
    data += b"".join(struct.pack("<HH", algorithm, sizes[algorithm]) for algorithm in algorithms) + b"\0"
    return struct.pack("<II20sI", 0, 3, bytes(20), len(data)) + data


def boot_log(events: Iterable[tuple[int, bytes]]) -> bytes:
    """The log of a TPM: pairs of a PCR and a SHA-256 digest that was extended into it."""
    rows = b"".join(
        struct.pack("<IIIH", register, 0x80000003, 1, 0x0B) + digest + struct.pack("<I", 0)
        for register, digest in events
    )
    return log_header([0x0B]) + rows


def sigstruct(
    key: rsa.RSAPrivateKey, *, mrenclave: bytes = b"\x11" * 32, product: int = 7, svn: int = 3, attributes: int = 4
) -> bytes:
    """A SIGSTRUCT that is signed with `key` (3072 bits, exponent 3)."""
    struct_ = bytearray(1808)
    struct_[0:16] = bytes.fromhex("06000000E10000000000010000000000")
    struct_[24:40] = bytes.fromhex("01010000600000006000000001000000")
    struct_[928:944] = attributes.to_bytes(16, "little")
    struct_[960:992] = mrenclave
    struct_[1024:1028] = struct.pack("<HH", product, svn)
    modulus = key.public_key().public_numbers().n
    struct_[128:512] = modulus.to_bytes(384, "little")
    struct_[512:516] = (3).to_bytes(4, "little")
    signature = key.sign(bytes(struct_[:128] + struct_[900:1028]), PKCS1v15(), SHA256())
    struct_[516:900] = signature[::-1]
    return bytes(struct_)
