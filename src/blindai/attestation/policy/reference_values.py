"""Reference values (RFC 9334, section 8.3): the measurements that a policy approves, one set per release or machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from blindai.attestation.claims import Claims
from blindai.attestation.evidence import TEE
from blindai.attestation.policy.manifest import Origin, Path, Table, choices, read_tee, require_hex, require_range

MAX_NAME_LENGTH = 128  # a name goes on one line of a terminal
NOT_REPORTED = "not reported"
MAX_UINT16 = 0xFFFF  # ISVPRODID and ISVSVN are 16 bits wide (Intel SDM volume 3D, table 35-21)
MAX_UINT32 = 0xFFFFFFFF  # GUEST_SVN has 32 bits (AMD SEV-SNP firmware ABI, table 23)

PCRS = {f"pcr{number}": 32 for number in range(24)}  # the SHA-256 bank (TCG PC Client platform TPM profile, 4.6.1)

# Every register that a reference value may pin, and its size in bytes.
REGISTER_BYTES: dict[TEE, dict[str, int]] = {
    TEE.INTEL_SGX: {"mrenclave": 32, "mrsigner": 32},
    TEE.INTEL_TDX: {
        "mrtd": 48,
        "rtmr0": 48,
        "rtmr1": 48,
        "rtmr2": 48,
        "rtmr3": 48,
        "mrconfigid": 48,
        "mrowner": 48,
        "mrownerconfig": 48,
        "xfam": 8,
    },
    TEE.AMD_SEV_SNP: {
        "launch_digest": 48,
        "host_data": 32,
        "id_key_digest": 48,
        "author_key_digest": 48,
        "family_id": 16,
        "image_id": 16,
    },
    TEE.AZURE_SEV_SNP: {"launch_digest": 48, **PCRS},
    TEE.AZURE_TDX: {"mrtd": 48, **PCRS},
    TEE.TPM: PCRS,
}
REGISTERS = tuple(dict.fromkeys(register for registers in REGISTER_BYTES.values() for register in registers))


class Form(NamedTuple):
    """One complete way to name approved code or hardware: what must be given, and what may."""

    registers: tuple[str, ...]
    optional: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    optional_numbers: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        return self.registers + self.optional + self.numbers + self.optional_numbers

    def __str__(self) -> str:
        return " + ".join(self.registers + self.numbers)


# PCR 4 measures the boot loader or the unified kernel image; 8 to 15 what it loads (TCG PC Client platform firmware
# profile, 3.3.4; UAPI group, "Linux TPM PCR registry"). 0 to 3 measure the firmware, 7 the Secure Boot policy.
_PCR_CODE = Form(registers=("pcr4",), optional=tuple(pcr for pcr in PCRS if pcr not in {"pcr4", "pcr0", "pcr2"}))
_PCR_FIRMWARE = ("pcr0", "pcr1", "pcr2", "pcr3", "pcr5", "pcr6", "pcr7")

# RTMR0 measures what the host's firmware sets up, so it belongs to the hardware; RTMR1 and RTMR2 hold the boot loader,
# kernel, command line and root file system; RTMR3 is free for the running system (Intel TDX Virtual Firmware Design
# Guide, section 8). What is optional is set by whoever launches the TD, and only binds where the code relies on it.
CODE_FORMS: dict[TEE, tuple[Form, ...]] = {
    TEE.INTEL_SGX: (
        Form(registers=("mrenclave",)),
        Form(registers=("mrsigner",), numbers=("isv_prod_id", "minimum_isv_svn")),
    ),
    TEE.INTEL_TDX: (
        Form(registers=("mrtd", "rtmr1", "rtmr2"), optional=("rtmr3", "mrconfigid", "mrowner", "mrownerconfig")),
    ),
    TEE.AMD_SEV_SNP: (
        Form(
            registers=("launch_digest",),
            optional=("host_data", "id_key_digest", "author_key_digest", "family_id", "image_id"),
            optional_numbers=("minimum_guest_svn",),
        ),
    ),
    TEE.AZURE_SEV_SNP: (_PCR_CODE,),
    TEE.AZURE_TDX: (_PCR_CODE,),
    TEE.TPM: (_PCR_CODE,),
}
HARDWARE_FORMS: dict[TEE, tuple[Form, ...]] = {
    TEE.INTEL_TDX: (Form(registers=("mrtd", "rtmr0"), optional=("xfam",)),),
    TEE.AZURE_SEV_SNP: (Form(registers=("launch_digest",), optional=_PCR_FIRMWARE),),
    TEE.AZURE_TDX: (Form(registers=("mrtd",), optional=_PCR_FIRMWARE),),
    TEE.TPM: (Form(registers=("pcr0",), optional=_PCR_FIRMWARE[1:]),),
}

REFERENCE_NUMBERS = ("isv_prod_id", "minimum_isv_svn", "minimum_guest_svn")
_NUMBER_LIMITS = {"isv_prod_id": MAX_UINT16, "minimum_isv_svn": MAX_UINT16, "minimum_guest_svn": MAX_UINT32}


class Deviation(NamedTuple):
    """One register or number, by its manifest key, in which claims differ from a reference value."""

    key: str
    expected: str
    got: str
    outdated: bool = False


@dataclass(frozen=True, kw_only=True)
class HardwareReference:
    """An approved machine shape: the registers that firmware and virtual hardware determine.

    Attributes:
        name: for people, unique in its list.
        tee: which TEE reports these registers.
        measurements: register name to lower-case hex.
    """

    name: str
    tee: TEE
    measurements: Mapping[str, str]

    @classmethod
    def read(cls, table: Table) -> Self:
        """One table `[[hardware]]` (in a subclass, `[[code]]`).

        Raises:
            ConfigurationError: `policy.unknown_key`, `policy.missing_key`, `policy.type` or `policy.unknown_value`.
        """
        numbers = [key for key in REFERENCE_NUMBERS if key in cls.__dataclass_fields__]
        table.only(["name", "tee", *REGISTERS, *numbers])
        return cls(
            name=table.get("name", str),
            tee=read_tee(table.get("tee", str), table.origin, (*table.path, "tee")),
            measurements={register: table.get(register, str).lower() for register in REGISTERS if register in table},
            **{key: table.get(key, int) for key in numbers if key in table},
        )

    def numbers(self) -> dict[str, int]:
        """The numbers that are given, by manifest key."""
        return {}

    def deviations(self, claims: Claims) -> list[Deviation]:
        """Where `claims` differ; an empty list is a match. A register that is not reported never matches."""
        return [
            Deviation(register, expected, claims.measurements.get(register, NOT_REPORTED))
            for register, expected in self.measurements.items()
            if claims.measurements.get(register) != expected
        ]


@dataclass(frozen=True, kw_only=True)
class CodeReference(HardwareReference):
    """An approved release: the registers that the code determines, or (SGX) its signer, product and version.

    Attributes:
        isv_prod_id: the signer's product number; only beside `mrsigner`.
        minimum_isv_svn: the lowest security version of the product that is accepted; only beside `mrsigner`.
        minimum_guest_svn: the lowest security version of an SEV-SNP guest, as its ID block states it.
    """

    isv_prod_id: int | None = None
    minimum_isv_svn: int | None = None
    minimum_guest_svn: int | None = None

    @classmethod
    def of(cls, name: str, tee: TEE, measurements: Mapping[str, str]) -> CodeReference:
        """The first form of `tee` (the exact code, not its signer) from all that was measured.

        Raises:
            KeyError: a register is not among `measurements`.
        """
        form = CODE_FORMS[tee][0]
        optional = {register: measurements[register] for register in form.optional if register in measurements}
        return cls(name=name, tee=tee, measurements={key: measurements[key] for key in form.registers} | optional)

    def numbers(self) -> dict[str, int]:
        given = {key: getattr(self, key) for key in REFERENCE_NUMBERS}
        return {key: number for key, number in given.items() if number is not None}

    def deviations(self, claims: Claims) -> list[Deviation]:
        found = super().deviations(claims)
        product = claims.svns.get("isv_prod_id")
        if self.isv_prod_id is not None and product != self.isv_prod_id:
            found.append(Deviation("isv_prod_id", str(self.isv_prod_id), _number(product)))
        for key in ("minimum_isv_svn", "minimum_guest_svn"):
            minimum, version = getattr(self, key), claims.svns.get(key.removeprefix("minimum_"))
            if minimum is not None and (version is None or version < minimum):
                found.append(Deviation(key, f"at least {minimum}", _number(version), outdated=True))
        return found


def require_valid(
    reference: HardwareReference, forms: Mapping[TEE, tuple[Form, ...]], origin: Origin, path: Path
) -> None:
    """Refuse a reference value that is incomplete, ambiguous or not made of registers of its TEE.

    Raises:
        ConfigurationError: `policy.name`, `policy.unknown_value`, `policy.code_form`, `policy.missing_key`,
            `policy.hex`, `policy.length` or `policy.range`, at `path` in `origin`.
    """
    name = reference.name
    if not name.isprintable() or name != name.strip() or not 0 < len(name) <= MAX_NAME_LENGTH:
        message = f"a name has 1 to {MAX_NAME_LENGTH} printable characters, none of them a space at either end"
        raise origin.error((*path, "name"), "name", message)
    if reference.tee not in forms:
        message = f"{reference.tee} measures no hardware that a policy could pin"
        raise origin.error((*path, "tee"), "unknown_value", message + choices(reference.tee, forms))

    form = _form(reference, forms[reference.tee], origin, path)
    for register in form.registers:
        if register not in reference.measurements:
            raise origin.error((*path, register), "missing_key", f"{register!r} is missing in {name!r}; give {form}")
    for register, value in reference.measurements.items():
        require_hex(value, (REGISTER_BYTES[reference.tee][register],), register, origin, (*path, register))
    numbers = reference.numbers()
    for key in form.numbers:
        if key not in numbers:
            raise origin.error((*path, key), "missing_key", f"{key!r} is missing in {name!r}; give {form}")
    for key, number in numbers.items():
        require_range(number, _NUMBER_LIMITS[key], key, origin, (*path, key))


def _form(reference: HardwareReference, forms: tuple[Form, ...], origin: Origin, path: Path) -> Form:
    """The one form that all given keys belong to."""
    given = [*reference.measurements, *reference.numbers()]
    known = {key for form in forms for key in form.keys}
    for key in given:
        if key not in known:
            message = f"{key!r} is not among what a policy can pin here for {reference.tee}"
            raise origin.error((*path, key), "unknown_key", message + choices(key, sorted(known)))
    begun = [form for form in forms if any(register in given for register in form.registers)]
    ways = ", or ".join(map(str, forms))
    if not begun:
        raise origin.error(path, "code_form", f"{reference.name!r} pins nothing; give {ways}")
    form = begun[0]
    stray = next((key for key in given if key not in form.keys), None)
    if len(begun) > 1 or stray is not None:
        raise origin.error(path, "code_form", f"{reference.name!r} mixes two ways to name code; give either {ways}")
    return form


def _number(value: int | None) -> str:
    return NOT_REPORTED if value is None else str(value)
