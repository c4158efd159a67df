"""The appraisal policy (RFC 9334, section 8.5): what a relying party requires of an enclave; its file manifest.toml."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path as FilePath

from blindai.attestation import manifest_writer
from blindai.attestation.anchors import NVIDIA_DEVICE_ROOT, VENDOR_ANCHORS, Anchor, Vendor
from blindai.attestation.claims import FLAGS
from blindai.attestation.evidence import TEE
from blindai.attestation.manifest import MAX_MANIFEST_BYTES, Origin, Path, Table, choices
from blindai.attestation.reference_values import (
    CODE_FORMS,
    HARDWARE_FORMS,
    REFERENCE_NUMBERS,
    REGISTER_BYTES,
    CodeReference,
    HardwareReference,
    require_hex,
    require_range,
    require_valid,
)

VERSION = 1

# Intel's names (Intel PCS API v4, "TCB Info", tcbStatus). Revoked is left out: no policy can allow it.
TCB_STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
)
OUT_OF_DATE_STATUSES = frozenset({"OutOfDate", "OutOfDateConfigurationNeeded"})
REVOKED = "Revoked"

# What current cloud machines report. The rest of FLAGS gives away keys of the platform, or lets the host observe or
# move the TEE.
DEFAULT_ATTRIBUTES = ("smt", "dynamic_platform", "cached_keys", "kss", "aex_notify", "cet", "pks", "kl", "console")

MAX_GRACE_DAYS = 1826  # five years: a longer grace would be no limit
MAX_EVALUATION_DATA_NUMBER = 2**31 - 1  # Intel's data are at some twenty; this only refuses what cannot be meant
MAX_AGE_SECONDS = 3600  # a resumed connection learns of no revocation that is younger than its quote
DIGEST_BYTES = 32  # SHA-256
CHIP_ID_BYTES: dict[TEE, int] = {  # Intel: the PPID; AMD: CHIP_ID; a TPM: SHA-256 of its EK
    TEE.INTEL_SGX: 16,
    TEE.INTEL_TDX: 16,
    TEE.AMD_SEV_SNP: 64,
    TEE.AZURE_SEV_SNP: 64,
    TEE.AZURE_TDX: 16,
    TEE.TPM: 32,
}

_HARDWARE_ROOTS = frozenset(
    anchor.spki_sha256 for anchors in (*VENDOR_ANCHORS.values(), (NVIDIA_DEVICE_ROOT,)) for anchor in anchors
)
_ADVISORY = re.compile(r"[A-Z]+-[A-Z]+-[0-9]{4,5}")  # INTEL-SA-00615

_REGISTERS = tuple(dict.fromkeys(register for registers in REGISTER_BYTES.values() for register in registers))

_KEYS = (
    "version", "accepted_tees", "allow_debug", "allow_simulated", "simulated_roots",
    "code", "hardware", "tcb", "attributes", "chips", "config", "resume",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TcbPolicy:
    """What is required of firmware and microcode.

    Attributes:
        statuses: the TCB statuses that are accepted, by Intel's names.
        grace_days: for how long after its date an out-of-date TCB level is accepted, where `statuses` lists it.
        minimum_evaluation_data_number: the oldest edition of Intel's TCB data that may judge the platform.
        denied_advisories: security advisories that must not apply; all others are accepted.
    """

    statuses: tuple[str, ...] = ("UpToDate", "SWHardeningNeeded")
    grace_days: int = 0
    minimum_evaluation_data_number: int = 0
    denied_advisories: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a relying party requires. No policy can leave the code open, or allow debug mode or a revoked platform.

    Attributes:
        accepted_tees: at least one; each needs code.
        code: approved releases; a TEE must run one of them.
        hardware: approved machine shapes; where there is none for a TEE, its hardware registers are not checked.
        tcb: required firmware and microcode.
        allowed_attributes: the names in `claims.FLAGS` that may be raised.
        chips: allowed processors by `Claims.chip_id`; empty allows all.
        config_digests: allowed digests of the enclave's measured configuration; empty allows all.
        allow_simulated: accept the simulated platforms whose roots are `simulated_roots`.
        simulated_roots: by the vendor that is simulated, SHA-256 of the SPKI of the one simulated root to accept.
        max_age_seconds: how long a verified keyset may vouch for new connections without a new quote; 0 is never.
        origin: where this policy came from.
        text: the manifest, where there was one.

    Raises:
        ConfigurationError: any of its parts is wrong; the `policy.*` code says what, the message where.
    """

    accepted_tees: tuple[TEE, ...]
    code: tuple[CodeReference, ...]
    hardware: tuple[HardwareReference, ...] = ()
    tcb: TcbPolicy = TcbPolicy()
    allowed_attributes: tuple[str, ...] = DEFAULT_ATTRIBUTES
    chips: tuple[str, ...] = ()
    config_digests: tuple[str, ...] = ()
    allow_simulated: bool = False
    simulated_roots: Mapping[Vendor, str] = field(default_factory=dict)
    max_age_seconds: int = 600
    origin: Origin = field(default=Origin(source="the policy"), compare=False)
    # Set by `parse` alone: a copy with other settings (dataclasses.replace) must not keep the digest of this text.
    text: str = field(default="", init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._require_code()
        for index, hardware in enumerate(self.hardware):
            require_valid(hardware, HARDWARE_FORMS, self.origin, ("hardware", index))
        self._require_distinct_names("code", self.code)
        self._require_distinct_names("hardware", self.hardware)
        self._require_tcb()
        self._require_known(("attributes", "allowed"), "attribute", self.allowed_attributes, FLAGS)
        chip_sizes = tuple(dict.fromkeys(CHIP_ID_BYTES[tee] for tee in self.accepted_tees))
        for index, chip in enumerate(self.chips):
            require_hex(chip, chip_sizes, "allowed", self.origin, ("chips", "allowed", index))
        for index, digest in enumerate(self.config_digests):
            require_hex(digest, (DIGEST_BYTES,), "digests", self.origin, ("config", "digests", index))
        self._require_simulation()
        path = ("resume", "max_age_seconds")
        require_range(self.max_age_seconds, MAX_AGE_SECONDS, "max_age_seconds", self.origin, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Policy:
        """Read a manifest from a file.

        Raises:
            ConfigurationError: `policy.missing`, `policy.unreadable`, `policy.too_large`, `policy.encoding`, or what
                `parse` raises.
        """
        here = Origin(source=os.fspath(path))
        try:
            with FilePath(path).open("rb") as file:
                data = file.read(MAX_MANIFEST_BYTES + 1)
        except FileNotFoundError as error:
            message = "there is no manifest here, so nothing says which code to trust"
            hint = f"get manifest.toml from whoever built the enclave, or write one: blindai measure > {path}"
            raise here.error((), "missing", message, hint=hint) from error
        except IsADirectoryError as error:
            raise here.error((), "unreadable", "this is a directory, not a manifest") from error
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise here.error((), "unreadable", f"the manifest cannot be read: {error}") from error
        if len(data) > MAX_MANIFEST_BYTES:
            raise here.error((), "too_large", f"a manifest has at most {MAX_MANIFEST_BYTES} bytes, this has more")
        try:
            text = data.decode("utf-8-sig")  # some editors begin a file with a byte order mark
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise here.error((), "encoding", f"line {line} is not UTF-8, so this is not a manifest") from error
        return cls.parse(text, here.source)

    @classmethod
    def parse(cls, text: str, source: str) -> Policy:
        """Read a manifest; `source` is how errors call it.

        Raises:
            ConfigurationError: any key is unknown, missing, of the wrong type or has a wrong value.
        """
        manifest = Table.parse(text, source)
        version = manifest.get("version", int)  # first: another version may have other keys
        if version != VERSION:
            message = f"this is a manifest of version {version}; this release reads version {VERSION}"
            raise manifest.error("version", "version", message)
        manifest.only(_KEYS)
        if manifest.get("allow_debug", bool, default=False):
            message = "a TEE in debug mode can be read by its host; no manifest can allow it"
            raise manifest.error("allow_debug", "debug", message)
        tcb = _section(manifest, "tcb", TcbPolicy.__dataclass_fields__)
        default = TcbPolicy()
        policy = cls(
            accepted_tees=tuple(
                _tee(name, manifest.origin, ("accepted_tees", index))
                for index, name in enumerate(manifest.texts("accepted_tees"))
            ),
            code=tuple(_code(table) for table in manifest.tables("code")),
            hardware=tuple(_hardware(table) for table in manifest.tables("hardware")),
            tcb=TcbPolicy(
                statuses=tcb.texts("statuses", default.statuses),
                grace_days=tcb.get("grace_days", int, default.grace_days),
                minimum_evaluation_data_number=tcb.get("minimum_evaluation_data_number", int, 0),
                denied_advisories=tcb.texts("denied_advisories", ()),
            ),
            allowed_attributes=_section(manifest, "attributes", ["allowed"]).texts("allowed", DEFAULT_ATTRIBUTES),
            chips=_lower(_section(manifest, "chips", ["allowed"]).texts("allowed", ())),
            config_digests=_lower(_section(manifest, "config", ["digests"]).texts("digests", ())),
            allow_simulated=manifest.get("allow_simulated", bool, default=False),
            simulated_roots=_simulated_roots(manifest),
            max_age_seconds=_section(manifest, "resume", ["max_age_seconds"]).get("max_age_seconds", int, 600),
            origin=manifest.origin,
        )
        object.__setattr__(policy, "text", text)
        return policy

    @classmethod
    def simulated(
        cls, roots: Mapping[Vendor, str], measurements: Mapping[str, str], *, name: str = "this package"
    ) -> Policy:
        """The policy of `simulation=True`: the local simulated platform, running the code that was measured here.

        Args:
            roots: the keys of the simulated roots, as in `Anchor`, by the vendor that each simulates.
            measurements: register name to lower-case hex, of as many TEEs as the platform simulates.
            name: how results call the code.

        Raises:
            ConfigurationError: `policy.no_code`: the measurements make up no TEE's code.
        """
        tees = [
            tee
            for tee, forms in CODE_FORMS.items()
            if set(forms[0].registers) <= measurements.keys()
            and any(anchor.vendor in roots for anchor in VENDOR_ANCHORS[tee])
        ]
        return cls(
            accepted_tees=tuple(tees),
            code=tuple(CodeReference.of(f"{name} ({tee})", tee, measurements) for tee in tees),
            allow_simulated=True,
            simulated_roots=dict(roots),
            origin=Origin(source="simulation=True"),
        )

    @property
    def source(self) -> str:
        """The file as the caller named it, or a description of what made this policy."""
        return self.origin.source

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest as lower-case hex; of `to_toml` where the policy came from no text."""
        return hashlib.sha256((self.text or self.to_toml()).encode()).hexdigest()

    def anchors(self) -> tuple[Anchor, ...]:
        """The roots on which evidence may end: of the accepted TEEs' vendors, and the simulated one if allowed."""
        anchors = [anchor for tee in self.accepted_tees for anchor in VENDOR_ANCHORS[tee]]
        if self.allow_simulated:
            anchors += [
                Anchor(f"SIMULATED {vendor} root", vendor, root, simulated=True)
                for vendor, root in self.simulated_roots.items()
            ]
        return tuple(dict.fromkeys(anchors))

    def line(self, *path: str | int) -> int | None:
        """The line of the manifest for a key, such as `("code", 0, "mrtd")`; None where there is none."""
        return self.origin.line(*path)

    def place(self, *path: str | int) -> str:
        """The same in words: `policy ./manifest.toml, line 4`."""
        return f"policy {self.origin.place(*path)}"

    def to_toml(self) -> str:
        """This policy as a manifest that explains itself; `parse` gives the same policy back."""
        return manifest_writer.write(self)

    def _require_code(self) -> None:
        if not self.code:
            raise self.origin.error(
                ("code",), "no_code", "no [[code]] says which code may run, so nothing would be pinned"
            )
        if not self.accepted_tees:
            raise self.origin.error(
                ("accepted_tees",), "missing_key", f"'accepted_tees' is empty; name at least one of {', '.join(TEE)}"
            )
        for index, reference in enumerate(self.code):
            require_valid(reference, CODE_FORMS, self.origin, ("code", index))
        for index, tee in enumerate(self.accepted_tees):
            if not any(reference.tee is tee for reference in self.code):
                message = (
                    f"{tee} is accepted, but no [[code]] says which code may run there, so nothing would be pinned"
                )
                raise self.origin.error(("accepted_tees", index), "no_code", message)

    def _require_distinct_names(self, key: str, references: Iterable[HardwareReference]) -> None:
        seen: dict[str, int] = {}
        for index, reference in enumerate(references):
            if reference.name in seen:
                first = self.origin.place(key, seen[reference.name])
                message = f"the name {reference.name!r} is taken by another [[{key}]] ({first})"
                raise self.origin.error((key, index, "name"), "duplicate", message)
            seen[reference.name] = index

    def _require_tcb(self) -> None:
        path = ("tcb", "statuses")
        if REVOKED in self.tcb.statuses:
            message = "a revoked platform cannot be allowed: its attestation keys may be in anyone's hands"
            raise self.origin.error((*path, self.tcb.statuses.index(REVOKED)), "revoked", message)
        if not self.tcb.statuses:
            raise self.origin.error(path, "missing_key", "'statuses' is empty, so that no platform could be accepted")
        self._require_known(path, "TCB status", self.tcb.statuses, TCB_STATUSES)
        require_range(self.tcb.grace_days, MAX_GRACE_DAYS, "grace_days", self.origin, ("tcb", "grace_days"))
        listed = OUT_OF_DATE_STATUSES.intersection(self.tcb.statuses)
        if listed and not self.tcb.grace_days:
            message = f"{min(listed)} is only accepted for a time; set 'grace_days' as well"
            raise self.origin.error((*path, self.tcb.statuses.index(min(listed))), "grace", message)
        if self.tcb.grace_days and not listed:
            message = f"'grace_days' has no effect unless 'statuses' lists {' or '.join(sorted(OUT_OF_DATE_STATUSES))}"
            raise self.origin.error(("tcb", "grace_days"), "grace", message)
        number, key = self.tcb.minimum_evaluation_data_number, "minimum_evaluation_data_number"
        require_range(number, MAX_EVALUATION_DATA_NUMBER, key, self.origin, ("tcb", key))
        for index, advisory in enumerate(self.tcb.denied_advisories):
            if not _ADVISORY.fullmatch(advisory):
                message = f"{advisory!r} is not the name of an advisory, such as INTEL-SA-00615"
                raise self.origin.error(("tcb", "denied_advisories", index), "unknown_value", message)

    def _require_known(self, path: Path, noun: str, given: Iterable[str], known: Iterable[str]) -> None:
        for index, value in enumerate(given):
            if value not in known:
                message = f"unknown {noun} {value!r}{choices(value, known)}"
                raise self.origin.error((*path, index), "unknown_value", message)

    def _require_simulation(self) -> None:
        if self.allow_simulated and not self.simulated_roots:
            message = "'allow_simulated' needs [simulated_roots], the keys of the simulated platforms to accept"
            raise self.origin.error(("allow_simulated",), "simulated_root", message)
        for vendor, root in self.simulated_roots.items():
            path = ("simulated_roots", vendor)
            require_hex(root, (DIGEST_BYTES,), vendor, self.origin, path)
            if root in _HARDWARE_ROOTS:
                message = f"{vendor!r} is the root of real hardware; no simulated platform has its key"
                raise self.origin.error(path, "simulated_root", message)


def _simulated_roots(manifest: Table) -> dict[Vendor, str]:
    table = _section(manifest, "simulated_roots", tuple(Vendor))
    return {vendor: table.get(vendor, str).lower() for vendor in Vendor if vendor in table}


def _section(manifest: Table, key: str, keys: Iterable[str]) -> Table:
    table = manifest.table(key)
    table.only(keys)
    return table


def _tee(name: str, origin: Origin, path: Path) -> TEE:
    try:
        return TEE(name)
    except ValueError as error:
        raise origin.error(path, "unknown_value", f"unknown TEE {name!r}{choices(name, TEE)}") from error


def _code(table: Table) -> CodeReference:
    return CodeReference(
        name=_name(table, REFERENCE_NUMBERS),
        tee=_tee(table.get("tee", str), table.origin, (*table.path, "tee")),
        measurements=_measurements(table),
        isv_prod_id=_optional_integer(table, "isv_prod_id"),
        minimum_isv_svn=_optional_integer(table, "minimum_isv_svn"),
        minimum_guest_svn=_optional_integer(table, "minimum_guest_svn"),
    )


def _hardware(table: Table) -> HardwareReference:
    return HardwareReference(
        name=_name(table),
        tee=_tee(table.get("tee", str), table.origin, (*table.path, "tee")),
        measurements=_measurements(table),
    )


def _name(table: Table, numbers: Iterable[str] = ()) -> str:
    table.only(["name", "tee", *_REGISTERS, *numbers])
    return table.get("name", str)


def _measurements(table: Table) -> dict[str, str]:
    return {register: table.get(register, str).lower() for register in _REGISTERS if register in table}


def _optional_integer(table: Table, key: str) -> int | None:
    return table.get(key, int) if key in table else None


def _lower(values: Iterable[str]) -> tuple[str, ...]:
    """Hex is compared in lower case, however it was pasted."""
    return tuple(value.lower() for value in values)
