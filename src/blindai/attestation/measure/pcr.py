"""What the PCRs of a TPM will hold after a boot, from the files that are booted.

PCR 4 gets the Authenticode digest of each image that firmware loads; PCR 11 the sections of a unified kernel image
(UKI), by systemd-stub, and then the phases of the boot, by systemd-pcrphase.

Sources: TCG PC Client Platform Firmware Profile 1.06, sections 3.3.4.5 and 10.4; systemd-stub(7), "TPM PCR Notes";
systemd-measure(1); systemd-pcrphase.service(8); UAPI group, "Unified Kernel Image", section "UKI TPM PCR".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from blindai.attestation.measure.pe import PeImage, Section
from blindai.errors import ConfigurationError

# systemd-stub measures these, in this order; .pcrsig holds signatures over the result and is left out.
MEASURED_SECTIONS = (
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey",
)  # fmt: skip
# What of these is measured depends on the machine or on what a person chose in the boot menu.
UNPREDICTABLE_SECTIONS = (".profile", ".dtbauto", ".hwids", ".efifw")

PHASES = ("enter-initrd", "leave-initrd", "sysinit", "ready")  # of a system that has finished to boot
MAX_PHASES = 16

# A section has less than a page of padding in a file; anything more would be zeros that no build tool leaves out.
MAX_FILL_BYTES = 1 << 16

# From this version on the stub starts the inner kernel itself; earlier ones hand it to the firmware, and whether that
# measures it depends on which protocols the firmware has (https://github.com/systemd/systemd/pull/37372).
DIRECT_KERNEL_VERSION = 258

PCR_BYTES = 32
_CALLING = b"Calling EFI Application from Boot Option"
_SEPARATOR = bytes(4)
_STUB = re.compile(rb"#### LoaderInfo: systemd-stub ([0-9]{1,4})")
_PHASE = re.compile(r"[a-z0-9-]{1,64}")


def pcr4(images: Iterable[PeImage]) -> str:
    """PCR 4 (SHA-256, lower-case hex) after the first boot option was started, which loads `images` in this order.

    An earlier boot option that failed leaves events of its own, and so another value.
    """
    digests = [hashlib.sha256(event).digest() for event in (_CALLING, _SEPARATOR)]
    return _extended([*digests, *(image.authenticode for image in images)])


def pcr11(uki: PeImage, phases: Sequence[str] = PHASES) -> str:
    """PCR 11 (SHA-256, lower-case hex) once the system that `uki` boots has entered the last of `phases`.

    Args:
        uki: the image.
        phases: in their order; none for an image whose system does not run systemd-pcrphase.

    Raises:
        ConfigurationError: `measure.uki`: this is no UKI, or one whose measurement depends on the machine;
            `measure.option`: a phase has an impossible name.
    """
    sections = uki_sections(uki)
    digests = []
    for name in MEASURED_SECTIONS:
        if name in sections:
            digests += [hashlib.sha256(name.encode() + b"\0"), hashlib.sha256(uki.content(sections[name]))]
    return enter(_extended(digest.digest() for digest in digests), phases)


def enter(pcr: str, phases: Sequence[str]) -> str:
    """PCR 11 once a system whose PCR 11 was `pcr` has entered the last of `phases`.

    Raises:
        ConfigurationError: `measure.option`.
    """
    if len(phases) > MAX_PHASES or not all(map(_PHASE.fullmatch, phases)):
        raise ConfigurationError(
            f"{':'.join(phases)!r} is no list of boot phases",
            code="measure.option",
            hint=f"the phases of a full boot are {':'.join(PHASES)}",
        )
    return _extended((hashlib.sha256(phase.encode()).digest() for phase in phases), bytes.fromhex(pcr))


def uki_sections(uki: PeImage) -> dict[str, Section]:
    """The sections of a UKI by name, without those that say nothing to the stub.

    Raises:
        ConfigurationError: `measure.uki`.
    """
    found: dict[str, Section] = {}
    for section in uki.sections:
        if section.name in UNPREDICTABLE_SECTIONS:
            raise _uki_error(f"what is measured of its section {section.name} depends on the machine or the boot menu")
        if section.name not in MEASURED_SECTIONS:
            continue
        if section.name in found:
            raise _uki_error(f"it has two sections {section.name}")
        if section.memory_bytes > section.file_bytes + MAX_FILL_BYTES:
            raise _uki_error(f"section {section.name} is {section.memory_bytes} bytes long, and not all in the file")
        found[section.name] = section
    if ".linux" not in found:
        raise _uki_error("it has no section .linux")
    return found


def inner_kernel(uki: PeImage) -> PeImage:
    """The kernel in a UKI, as the stub may hand it to the firmware.

    Raises:
        ConfigurationError: `measure.uki`, `measure.pe`.
    """
    return PeImage.parse(uki.content(uki_sections(uki)[".linux"]))


def stub_version(uki: PeImage) -> int | None:
    """The major version of systemd-stub in a UKI; None where it does not say so."""
    named = (section for section in uki.sections if section.name == ".sdmagic")
    section = next(named, None)
    match = None if section is None else _STUB.match(uki.data, section.offset)
    return None if match is None else int(match[1])


def _extended(digests: Iterable[bytes], value: bytes = bytes(PCR_BYTES)) -> str:
    for digest in digests:
        value = hashlib.sha256(value + digest).digest()
    return value.hex()


def _uki_error(reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"PCR 11 of this image cannot be predicted: {reason}",
        code="measure.uki",
        hint="build one with ukify, or take the values from a machine's event log: --event-log",
    )
