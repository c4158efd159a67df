"""The appraisal policy (RFC 9334, section 8.5): what a relying party requires of an enclave; its file manifest.toml."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field
from functools import cached_property, partial
from pathlib import Path as FilePath
from typing import Any

from blindai.attestation.anchors import NVIDIA_DEVICE_ROOT, VENDOR_ANCHORS, VENDORS, Anchor, Vendor
from blindai.attestation.claims import FLAGS
from blindai.attestation.evidence import TEE
from blindai.attestation.policy import writer
from blindai.attestation.policy.amd import AmdPolicy
from blindai.attestation.policy.gpus import GpuPolicy
from blindai.attestation.policy.manifest import (
    MAX_MANIFEST_BYTES,
    Origin,
    Table,
    read_tee,
    require_hex,
    require_known,
    require_range,
)
from blindai.attestation.policy.reference_values import CODE_FORMS, HARDWARE_FORMS, CodeReference, HardwareReference
from blindai.attestation.policy.reference_values import require_valid as require_valid_reference
from blindai.attestation.policy.tcb import TcbPolicy
from blindai.attestation.policy.tpm import DIGEST_BYTES, TpmPolicy
from blindai.errors import ConfigurationError

VERSION = 1

# What current cloud machines report. The rest of FLAGS gives away keys of the platform, or lets the host observe or
# move the TEE.
DEFAULT_ATTRIBUTES = ("smt", "dynamic_platform", "cached_keys", "kss", "aex_notify", "cet", "pks", "kl", "console")

MAX_AGE_SECONDS = 3600  # a resumed connection learns of no revocation that is younger than its quote
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
_KEYS = (
    "version", "accepted_tees", "allow_debug", "allow_simulated", "simulated_roots",
    "code", "hardware", "tcb", "amd", "tpm", "attributes", "chips", "gpus", "config", "resume",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a relying party requires. No policy can leave the code open, or allow debug mode or a revoked platform.

    Attributes:
        accepted_tees: at least one; each needs code.
        code: approved releases; a TEE must run one of them.
        hardware: approved machine shapes; where there is none for a TEE, its hardware registers are not checked.
        tcb: required firmware and microcode of Intel's platforms.
        amd: required processors and firmware of AMD's.
        tpm: the TPMs whose keys are believed.
        gpus: required GPUs and switches; None accepts no evidence that has any.
        allowed_attributes: the names in `claims.FLAGS` that may be raised.
        chips: allowed processors by `Claims.chip_id`; empty allows all.
        config_digests: allowed digests of the enclave's measured configuration; empty allows all.
        allow_simulated: accept the simulated platforms whose roots are `simulated_roots`.
        simulated_roots: by the vendor that is simulated, SHA-256 of the SPKI of the one simulated root to accept.
        max_age_seconds: how long a verified keyset may vouch for new connections without a new quote; 0 is never.
        origin: where this policy came from.
        problems: not kept: where everything that is wrong is noted, in place of only the first of it.
        text: the manifest, where there was one.

    Raises:
        ConfigurationError: any of its parts is wrong; the `policy.*` code says what, the message where.
    """

    accepted_tees: tuple[TEE, ...]
    code: tuple[CodeReference, ...]
    hardware: tuple[HardwareReference, ...] = ()
    tcb: TcbPolicy = field(default_factory=TcbPolicy)
    amd: AmdPolicy = field(default_factory=AmdPolicy)
    tpm: TpmPolicy = field(default_factory=TpmPolicy)
    gpus: GpuPolicy | None = None
    allowed_attributes: tuple[str, ...] = DEFAULT_ATTRIBUTES
    chips: tuple[str, ...] = ()
    config_digests: tuple[str, ...] = ()
    allow_simulated: bool = False
    simulated_roots: Mapping[Vendor, str] = field(default_factory=dict)
    max_age_seconds: int = 600
    origin: Origin = field(default=Origin(source="the policy"), compare=False)
    problems: InitVar[list[ConfigurationError] | None] = None
    # Set by `parse` alone: a copy with other settings (dataclasses.replace) must not keep the digest of this text.
    text: str = field(default="", init=False, compare=False, repr=False)

    def __post_init__(self, problems: list[ConfigurationError] | None) -> None:
        found = [] if problems is None else problems
        for require in self._parts():
            with _noted(found):
                require()
        if found:
            raise found[0]

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, problems: list[ConfigurationError] | None = None) -> Policy:
        """Read a manifest from a file; `problems` as in `parse`.

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
        return cls.parse(text, here.source, problems=problems)

    @classmethod
    def parse(cls, text: str, source: str, *, problems: list[ConfigurationError] | None = None) -> Policy:
        """Read a manifest.

        Args:
            text: the manifest.
            source: how errors call it.
            problems: where everything that is wrong is noted, one error for each part of the manifest.

        Raises:
            ConfigurationError: any key is unknown, missing, of the wrong type or has a wrong value.
        """
        found = [] if problems is None else problems
        settings: dict[str, Any] = {}
        with _noted(found):
            manifest = Table.parse(text, source)
            version = manifest.get("version", int)  # first: another version may have other keys
            if version != VERSION:
                message = f"this is a manifest of version {version}; this release reads version {VERSION}"
                raise manifest.error("version", "version", message)
        if found:
            raise found[0]
        for name, read in _SETTINGS.items():
            with _noted(found):
                settings[name] = read(manifest)
        with _noted(found):
            manifest.only(_KEYS)
        with _noted(found):
            _refuse_debug(manifest)
        if found:
            raise found[0]
        policy = cls(**settings, origin=manifest.origin, problems=found)
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
            if set(forms[0].registers) <= measurements.keys() and VENDORS[tee] in roots
        ]
        return cls(
            accepted_tees=tuple(tees),
            code=tuple(CodeReference.of(f"{name} ({tee})", tee, measurements) for tee in tees),
            gpus=GpuPolicy(minimum=0) if Vendor.NVIDIA in roots else None,
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
        if TEE.TPM in self.accepted_tees:
            anchors += self.tpm.anchors()
        if self.gpus is not None:
            anchors.append(NVIDIA_DEVICE_ROOT)
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
        return writer.write(self)

    def _parts(self) -> Iterator[Callable[[], None]]:
        """What must hold, each apart from the others."""
        yield self._require_tees
        for key, forms, references in (
            ("code", CODE_FORMS, self.code),
            ("hardware", HARDWARE_FORMS, self.hardware),
        ):
            for index, reference in enumerate(references):
                yield partial(require_valid_reference, reference, forms, self.origin, (key, index))
            yield partial(self._require_distinct_names, key, references)
        yield self._require_code
        yield partial(self.tcb.require_valid, self.origin)
        yield partial(self.amd.require_valid, self.origin)
        yield partial(self.tpm.require_valid, self.origin)
        if self.gpus is not None:
            yield partial(self.gpus.require_valid, self.origin)
        yield partial(
            require_known, self.allowed_attributes, FLAGS, "attribute", self.origin, ("attributes", "allowed")
        )
        yield self._require_hex
        yield self._require_simulation
        yield self._require_tpm_roots
        path = ("resume", "max_age_seconds")
        yield partial(require_range, self.max_age_seconds, MAX_AGE_SECONDS, path[-1], self.origin, path)

    def _require_tees(self) -> None:
        if not self.code:
            message = "no [[code]] says which code may run, so nothing would be pinned"
            raise self.origin.error(("code",), "no_code", message)
        if not self.accepted_tees:
            message = f"'accepted_tees' is empty; name at least one of {', '.join(TEE)}"
            raise self.origin.error(("accepted_tees",), "missing_key", message)

    def _require_code(self) -> None:
        for index, tee in enumerate(self.accepted_tees if self.code else ()):
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

    def _require_hex(self) -> None:
        sizes = tuple(dict.fromkeys(CHIP_ID_BYTES[tee] for tee in self.accepted_tees))
        for index, chip in enumerate(self.chips):
            require_hex(chip, sizes, "allowed", self.origin, ("chips", "allowed", index))
        for index, digest in enumerate(self.config_digests):
            require_hex(digest, (DIGEST_BYTES,), "digests", self.origin, ("config", "digests", index))

    def _require_simulation(self) -> None:
        if self.allow_simulated and not self.simulated_roots:
            message = "'allow_simulated' needs [simulated_roots], the keys of the simulated platforms to accept"
            raise self.origin.error(("allow_simulated",), "simulated_root", message)
        for vendor, root in self.simulated_roots.items():
            path = ("simulated_roots", vendor)
            require_hex(root, (DIGEST_BYTES,), vendor, self.origin, path)
            if root in _HARDWARE_ROOTS or root in self.tpm.roots:
                message = f"{vendor!r} is the root of real hardware; no simulated platform has its key"
                raise self.origin.error(path, "simulated_root", message)

    def _require_tpm_roots(self) -> None:
        simulated = self.allow_simulated and Vendor.TPM in self.simulated_roots
        if TEE.TPM in self.accepted_tees and not self.tpm.roots and not simulated:
            message = "tpm is accepted, but [tpm] 'roots' names no maker of TPMs, so that none could be believed"
            raise self.origin.error(("tpm", "roots"), "missing_key", message)


@contextmanager
def _noted(found: list[ConfigurationError]) -> Iterator[None]:
    try:
        yield
    except ConfigurationError as error:
        found.append(error)


def _refuse_debug(manifest: Table) -> None:
    if manifest.get("allow_debug", bool, default=False):
        message = "a TEE in debug mode can be read by its host; no manifest can allow it"
        raise manifest.error("allow_debug", "debug", message)


def _accepted_tees(manifest: Table) -> tuple[TEE, ...]:
    names = manifest.texts("accepted_tees")
    return tuple(read_tee(name, manifest.origin, ("accepted_tees", index)) for index, name in enumerate(names))


def _simulated_roots(manifest: Table) -> dict[Vendor, str]:
    table = manifest.section("simulated_roots", tuple(Vendor))
    return {vendor: table.get(vendor, str).lower() for vendor in Vendor if vendor in table}


def _lower(values: Iterable[str]) -> tuple[str, ...]:
    """Hex is compared in lower case, however it was pasted."""
    return tuple(value.lower() for value in values)


# Each setting of a policy by its name there, and how it is read.
_SETTINGS: dict[str, Callable[[Table], Any]] = {
    "accepted_tees": _accepted_tees,
    "code": lambda manifest: tuple(map(CodeReference.read, manifest.tables("code"))),
    "hardware": lambda manifest: tuple(map(HardwareReference.read, manifest.tables("hardware"))),
    "tcb": TcbPolicy.read,
    "amd": AmdPolicy.read,
    "tpm": TpmPolicy.read,
    "gpus": GpuPolicy.read,
    "allowed_attributes": lambda manifest: manifest.section("attributes", ["allowed"]).texts(
        "allowed", DEFAULT_ATTRIBUTES
    ),
    "chips": lambda manifest: _lower(manifest.section("chips", ["allowed"]).texts("allowed", ())),
    "config_digests": lambda manifest: _lower(manifest.section("config", ["digests"]).texts("digests", ())),
    "allow_simulated": lambda manifest: manifest.get("allow_simulated", bool, default=False),
    "simulated_roots": _simulated_roots,
    "max_age_seconds": lambda manifest: manifest.section("resume", ["max_age_seconds"]).get(
        "max_age_seconds", int, 600
    ),
}
