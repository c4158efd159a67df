"""AMD's product lines: which processors they are, and how each lays out the versions of its firmware.

Sources: AMD SEV-SNP Firmware ABI Specification 56860, section 2.2 (TCB_VERSION) and the CPUID fields of
ATTESTATION_REPORT; AMD VCEK Certificate and KDS Interface Specification 57230, section 3.
"""

from __future__ import annotations

from typing import NamedTuple

TCB_BYTES = 8


class Product(NamedTuple):
    """One product line; each has a root key of its own.

    Attributes:
        name: as in the names of its ARK and ASK.
        code_names: of its processors, as certificates call them: its own, or that of a variant.
        cpus: family and first and last model, as CPUID gives them.
        tcb: the place of each part's security version in the 8 bytes of TCB_VERSION; the other bytes are zeros.
        struct_version: of the TCB, as certificates state it.
        hwid_bytes: length of the processor's identity in a VCEK; CHIP_ID in the report holds it and then zeros.
    """

    name: str
    code_names: tuple[str, ...]
    cpus: tuple[tuple[int, int, int], ...]
    tcb: dict[str, int]
    struct_version: int
    hwid_bytes: int

    def has_cpu(self, family: int, model: int) -> bool:
        """Whether a processor with this CPUID belongs to this line."""
        return any(family == of and first <= model <= last for of, first, last in self.cpus)

    def versions(self, tcb: bytes) -> dict[str, int] | None:
        """The parts' security versions by name, from the 8 bytes of a TCB_VERSION; None if reserved bytes are set."""
        if any(tcb[at] for at in range(TCB_BYTES) if at not in self.tcb.values()):
            return None
        return {part: tcb[at] for part, at in self.tcb.items()}


_TCB = {"boot_loader": 0, "tee": 1, "snp": 6, "microcode": 7}
_TCB_OF_FAMILY_1A = {"fmc": 0, "boot_loader": 1, "tee": 2, "snp": 3, "microcode": 7}

MILAN = Product("Milan", ("Milan",), ((0x19, 0x00, 0x0F),), _TCB, 0, 64)
GENOA = Product("Genoa", ("Genoa", "Bergamo", "Siena"), ((0x19, 0x10, 0x1F), (0x19, 0xA0, 0xAF)), _TCB, 0, 64)
TURIN = Product("Turin", ("Turin",), ((0x1A, 0x00, 0x1F),), _TCB_OF_FAMILY_1A, 1, 8)

PRODUCTS = {product.name: product for product in (MILAN, GENOA, TURIN)}
