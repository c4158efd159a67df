"""A policy in sentences: what it accepts, TEE by TEE, and what it refuses. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from blindai.attestation.anchors import AMD_TEES, VENDORS, Vendor
from blindai.attestation.claims import FLAGS
from blindai.attestation.evidence import TEE
from blindai.attestation.policy.manifest import Path
from blindai.attestation.policy.policy import CHIP_ID_BYTES, Policy
from blindai.attestation.policy.reference_values import HARDWARE_FORMS, HardwareReference
from blindai.attestation.policy.tcb import OUT_OF_DATE_STATUSES

TEE_NAMES: dict[TEE, str] = {
    TEE.INTEL_SGX: "Intel SGX enclaves",
    TEE.INTEL_TDX: "Intel TDX trust domains",
    TEE.AMD_SEV_SNP: "AMD SEV-SNP guests",
    TEE.AZURE_SEV_SNP: "Azure confidential VMs on AMD SEV-SNP",
    TEE.AZURE_TDX: "Azure confidential VMs on Intel TDX",
    TEE.TPM: "machines with a TPM 2.0",
}


class Statement(msgspec.Struct, frozen=True):
    """One sentence about a policy; `line` is where the manifest says so, None where it is a default."""

    text: str
    line: int | None = None


class Section(msgspec.Struct, frozen=True):
    """Statements under one title."""

    title: str
    statements: tuple[Statement, ...]


def summary(policy: Policy) -> tuple[Section, ...]:
    """What `policy` accepts, one section for each TEE, then what holds for all, and what it refuses."""
    return (
        *(Section(f"{TEE_NAMES[tee]} ({tee})", tuple(_of_tee(policy, tee))) for tee in policy.accepted_tees),
        Section("On all of them", tuple(_common(policy))),
        Section("Refused, whatever else holds", tuple(_refused(policy))),
    )


def _statement(policy: Policy, text: str, *path: str | int) -> Statement:
    return Statement(text, policy.line(*path))


def _of_tee(policy: Policy, tee: TEE) -> Iterator[Statement]:
    anchors = [anchor for anchor in policy.anchors() if anchor.vendor is VENDORS[tee]]
    yield _statement(policy, f"vouched for by {_or([anchor.name for anchor in anchors])}", *_roots_path(tee))
    yield from _references(policy, tee, "code", "runs", policy.code)
    if tee not in HARDWARE_FORMS:
        yield _statement(policy, "machine shape and firmware: not measured apart from the code")
    elif not any(reference.tee is tee for reference in policy.hardware):
        yield _statement(policy, "machine shape and firmware: any")
    else:
        yield from _references(policy, tee, "hardware", "machine shape and firmware:", policy.hardware)
    if VENDORS[tee] is Vendor.INTEL:
        yield from _intel(policy)
    elif tee in AMD_TEES:
        yield from _amd(policy)
    else:
        yield _statement(policy, "firmware and microcode: not checked, a TPM does not report their state")
    digits = 2 * CHIP_ID_BYTES[tee]
    chips = [(index, chip) for index, chip in enumerate(policy.chips) if len(chip) == digits]
    noun = "TPM" if tee is TEE.TPM else "processor"
    if not policy.chips:
        yield _statement(policy, f"{noun}: every genuine one", "chips", "allowed")
    elif not chips:
        yield _statement(policy, f"{noun}: none, [chips] lists only those of other TEEs", "chips", "allowed")
    for index, chip in chips:
        yield _statement(policy, f"{noun}: {chip}", "chips", "allowed", index)


def _references(
    policy: Policy, tee: TEE, key: str, verb: str, references: Sequence[HardwareReference]
) -> Iterator[Statement]:
    for index, reference in enumerate(references):
        if reference.tee is tee:
            values = [f"{name} {value}" for name, value in reference.measurements.items()]
            values += [f"{name} {number}" for name, number in reference.numbers().items()]
            yield _statement(policy, f"{verb} {reference.name}: {', '.join(values)}", key, index)


def _intel(policy: Policy) -> Iterator[Statement]:
    tcb = policy.tcb
    yield _statement(policy, f"firmware and microcode: {_or(tcb.statuses)}", "tcb", "statuses")
    late = [status for status in tcb.statuses if status in OUT_OF_DATE_STATUSES]
    if late:
        text = f"{_or(late)} for {tcb.grace_days} days after the date of the TCB level"
        yield _statement(policy, text, "tcb", "grace_days")
    if tcb.minimum_evaluation_data_number:
        text = f"judged by TCB data of edition {tcb.minimum_evaluation_data_number} or later"
        yield _statement(policy, text, "tcb", "minimum_evaluation_data_number")
    if tcb.denied_advisories:
        text = f"none of these advisories: {', '.join(tcb.denied_advisories)}"
        yield _statement(policy, text, "tcb", "denied_advisories")


def _amd(policy: Policy) -> Iterator[Statement]:
    amd = policy.amd
    yield _statement(policy, f"product line: {_or(amd.products)}", "amd", "products")
    yield _statement(policy, f"report signed by the {_or([key.upper() for key in amd.keys])}", "amd", "keys")
    crl = "must travel with the evidence" if amd.require_crl else "may be left out"
    yield _statement(policy, f"AMD's revocation list {crl}", "amd", "require_crl")
    for product in amd.products:
        path: Path = ("amd", "minimum_tcb", product)
        floor = amd.minimum_tcb.get(product, {})
        versions = ", ".join(f"{part} at least {version}" for part, version in floor.items())
        if versions:
            yield _statement(policy, f"firmware and microcode of {product}: {versions}", *path)
        else:
            yield _statement(policy, f"firmware and microcode of {product}: any version")


def _common(policy: Policy) -> Iterator[Statement]:
    if policy.allow_simulated:
        yield _statement(policy, "simulated platforms are accepted, which protect nothing", "allow_simulated")
    attributes = ", ".join(policy.allowed_attributes) or "none"
    yield _statement(policy, f"attributes that may be raised: {attributes}", "attributes", "allowed")
    yield from _devices(policy)
    if not policy.config_digests:
        yield _statement(policy, "measured configuration: any", "config", "digests")
    for index, digest in enumerate(policy.config_digests):
        yield _statement(policy, f"measured configuration: {digest}", "config", "digests", index)
    age = policy.max_age_seconds
    text = f"keys vouch for new connections for {age} seconds" if age else "a new quote for every connection"
    yield _statement(policy, text, "resume", "max_age_seconds")


def _devices(policy: Policy) -> Iterator[Statement]:
    gpus = policy.gpus
    if gpus is None:
        yield _statement(policy, "GPUs and switches: none")
        return
    number = f"exactly {gpus.count}" if gpus.count is not None else f"at least {gpus.minimum}"
    text = f"GPUs: {number}, {_or(gpus.architectures)}, beside exactly {gpus.switches} switches"
    yield _statement(policy, text, "gpus")
    for key, noun, given in (
        ("drivers", "driver", gpus.drivers),
        ("vbios", "VBIOS", gpus.vbios),
        ("modes", "mode", gpus.modes),
    ):
        yield _statement(policy, f"{noun} of GPUs: {_or(given) or 'any'}", "gpus", key)
    for index, golden in enumerate(gpus.golden):
        release = f"VBIOS {golden.vbios}" + (f", driver {golden.driver}" if golden.driver else "")
        text = f"measured firmware: {golden.architecture}, {release}, {len(golden.measurements)} measurements"
        yield _statement(policy, text, "gpus", "golden", index)
    if not gpus.golden:
        yield _statement(policy, "measured firmware of GPUs and switches: any", "gpus")


def _refused(policy: Policy) -> Iterator[Statement]:
    others = [tee for tee in TEE if tee not in policy.accepted_tees]
    if others:
        yield _statement(policy, f"other TEEs: {', '.join(others)}", "accepted_tees")
    yield _statement(policy, "a TEE in debug mode, or one whose certificates are revoked", "allow_debug")
    if not policy.allow_simulated:
        yield _statement(policy, "simulated platforms", "allow_simulated")
    names = [name for name in FLAGS if name not in policy.allowed_attributes]
    if names:
        yield _statement(policy, f"attributes: {', '.join(names)}", "attributes", "allowed")


def _roots_path(tee: TEE) -> Path:
    return ("tpm", "roots") if tee is TEE.TPM else ("accepted_tees",)


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)
