"""Expected launch digests of AMD SEV-SNP guests, by the package sev-snp-measure.

The digest covers the firmware, the hashes of kernel, initrd and command line where they are given, and the initial
state of each vCPU: so there is one value for each number and type of vCPUs.

Source: AMD SEV Secure Nested Paging Firmware ABI Specification, section 8.17 (SNP_LAUNCH_UPDATE).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from blindai.attestation.measure.artefact import read_artefact
from blindai.attestation.measure.firmware import (
    MAX_FIRMWARE_BYTES,
    PAGE_BYTES,
    firmware_error,
    guid_table,
    metadata_offset,
)
from blindai.errors import ConfigurationError

SEV_METADATA = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
SEV_ES_RESET_BLOCK = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
SEV_HASH_TABLE = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
KERNEL_HASHES = 0x10  # the section that holds the hashes of kernel, initrd and command line
SECTION_KINDS = frozenset({1, 2, 3, 4, KERNEL_HASHES})  # memory, secrets, CPUID, calling area of an SVSM

MAX_VCPUS = 1024  # KVM's limit is 1024 by default; QEMU's machine types allow fewer
MAX_SECTIONS = 64  # OVMF has 7
MAX_SECTION_BYTES = 16 << 20  # OVMF's largest has 124 KiB
MAX_BOOT_FILE_BYTES = 2 << 30  # an initrd that holds a whole system
HASH_TABLE_BYTES = 176  # QEMU, target/i386/sev.c, PaddedSevHashTable

DEFAULT_GUEST_FEATURES = 1  # SNPActive, and nothing else (AMD APM volume 2, table B-4, SEV_FEATURES)

_HEADER = struct.Struct("<4sIII")  # signature, length, version, number of sections
_SECTION = struct.Struct("<III")  # address, size, kind
_ADDRESS = struct.Struct("<I")


class Hypervisor(StrEnum):
    """Who launches the guest: the initial state of a vCPU is the hypervisor's choice."""

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"


class Boot(NamedTuple):
    """What is handed over by a hypervisor that boots a kernel directly (QEMU -kernel, kernel-hashes=on)."""

    kernel: Path
    initrd: Path | None = None
    cmdline: str = ""


class LaunchDigest(NamedTuple):
    """The expected digest for one machine shape.

    Attributes:
        vcpus: how many.
        vcpu_type: QEMU's name of the CPU model; empty where the hypervisor does not let it choose.
        value: 96 hex digits.
    """

    vcpus: int
    vcpu_type: str
    value: str


def launch_digests(
    firmware: Path,
    *,
    vcpus: Sequence[int],
    vcpu_types: Sequence[str] = (),
    boot: Boot | None = None,
    guest_features: int = DEFAULT_GUEST_FEATURES,
    hypervisor: Hypervisor = Hypervisor.QEMU,
) -> Iterator[LaunchDigest]:
    """The launch digests of every combination of `vcpus` and `vcpu_types`.

    Args:
        firmware: an OVMF image with SEV metadata.
        vcpus: numbers of vCPUs.
        vcpu_types: QEMU's CPU models, such as EPYC-v4; needed for QEMU, and meant for no other hypervisor.
        boot: what the hypervisor boots directly; None where the firmware boots from a disk.
        guest_features: SEV_FEATURES of the guest.
        hypervisor: who launches it.

    Raises:
        ConfigurationError: `measure.dependency`: sev-snp-measure is not installed; `measure.unreadable`,
            `measure.too_large`, `measure.firmware`, `measure.metadata`: a file; `measure.option`: a number or name.
    """
    try:
        from sevsnpmeasure.guest import snp_calc_launch_digest
        from sevsnpmeasure.vcpu_types import CPU_SIGS
        from sevsnpmeasure.vmm_types import VMMType
    except ImportError as error:
        raise ConfigurationError(
            "launch digests of SEV-SNP need the package sev-snp-measure",
            code="measure.dependency",
            hint="pip install 'blindai[measure]'",
        ) from error

    _require_options(vcpus, vcpu_types, CPU_SIGS, guest_features, hypervisor)
    require_snp_firmware(read_artefact(firmware, MAX_FIRMWARE_BYTES), kernel_hashes=boot is not None)
    for path in (boot.kernel, boot.initrd) if boot else ():
        if path is not None:
            read_artefact(path, MAX_BOOT_FILE_BYTES)
    vmm = {Hypervisor.QEMU: VMMType.QEMU, Hypervisor.EC2: VMMType.ec2, Hypervisor.GCE: VMMType.gce}[hypervisor]
    for vcpu_type in vcpu_types or ("",):
        for count in vcpus:
            digest = snp_calc_launch_digest(
                count,
                CPU_SIGS[vcpu_type] if vcpu_type else 0,
                str(firmware),
                str(boot.kernel) if boot else "",
                str(boot.initrd) if boot and boot.initrd else "",
                boot.cmdline if boot else "",
                guest_features,
                "",
                vmm,
            )
            yield LaunchDigest(count, vcpu_type, digest.hex())


def require_snp_firmware(image: bytes, *, kernel_hashes: bool) -> None:
    """Refuse a firmware image that no SNP guest could be launched with.

    Args:
        image: the whole image.
        kernel_hashes: the guest is to measure a kernel that the hypervisor hands over.

    Raises:
        ConfigurationError: `measure.firmware`, `measure.metadata`.
    """
    table = guid_table(image)
    if SEV_METADATA not in table or len(table.get(SEV_ES_RESET_BLOCK, b"")) < _ADDRESS.size:
        raise ConfigurationError(
            "this firmware image has no SEV-SNP metadata",
            code="measure.metadata",
            hint="give the image that the guest is launched with, such as OVMF.amdsev.fd",
        )
    at = metadata_offset(image, table[SEV_METADATA])
    if at + _HEADER.size > len(image):
        raise firmware_error("the SEV metadata lie outside the image")
    signature, length, version, count = _HEADER.unpack_from(image, at)
    end = at + _HEADER.size + count * _SECTION.size
    if signature != b"ASEV" or version != 1 or count > MAX_SECTIONS or length != end - at or end > len(image):
        raise _metadata_error(f"{length} bytes of version {version} with {count} sections")
    kinds = set()
    for address, size, kind in _SECTION.iter_unpack(image[at + _HEADER.size : end]):
        if kind not in SECTION_KINDS or address % PAGE_BYTES or size % PAGE_BYTES or size > MAX_SECTION_BYTES:
            raise _metadata_error(f"a section of kind {kind:#x} with {size} bytes at {address:#x}")
        kinds.add(kind)
    if kernel_hashes:
        entry = table.get(SEV_HASH_TABLE, b"").ljust(_ADDRESS.size, b"\0")
        (address,) = _ADDRESS.unpack_from(entry)
        if KERNEL_HASHES not in kinds or not address or address % PAGE_BYTES > PAGE_BYTES - HASH_TABLE_BYTES:
            raise ConfigurationError(
                "this firmware has no room for the hashes of a kernel",
                code="measure.metadata",
                hint="give OVMF built from OvmfPkg/AmdSev, or boot from a disk",
            )


def _require_options(
    vcpus: Sequence[int],
    vcpu_types: Sequence[str],
    known: dict[str, int],
    guest_features: int,
    hypervisor: Hypervisor,
) -> None:
    if not vcpus or not all(0 < count <= MAX_VCPUS for count in vcpus) or len(set(vcpus)) != len(vcpus):
        raise _option_error(f"numbers of vCPUs are distinct, and from 1 to {MAX_VCPUS}")
    if not 0 < guest_features < 1 << 64 or not guest_features & 1:
        raise _option_error("guest features are a number of 64 bits whose lowest bit, SNPActive, is set")
    if (hypervisor is Hypervisor.QEMU) is not bool(vcpu_types):
        raise _option_error("the type of vCPUs is given for QEMU, and for no other hypervisor")
    for vcpu_type in vcpu_types:
        if vcpu_type not in known:
            raise _option_error(f"unknown type of vCPU {vcpu_type!r}; known: {', '.join(known)}")
    if len(set(vcpu_types)) != len(vcpu_types):
        raise _option_error("a type of vCPU is given twice")


def _metadata_error(got: str) -> ConfigurationError:
    return ConfigurationError(f"the SEV metadata of this firmware cannot be used: {got}", code="measure.metadata")


def _option_error(reason: str) -> ConfigurationError:
    return ConfigurationError(reason, code="measure.option")
