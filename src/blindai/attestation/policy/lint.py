"""Reads a manifest as a reviewer would: what is wrong in it, and what is weaker than it could be. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

import msgspec

from blindai.attestation.anchors import AMD_TEES, INTEL_TEES
from blindai.attestation.claims import FLAGS
from blindai.attestation.evidence import TEE, TPM_TEES
from blindai.attestation.policy.amd import AmdPolicy
from blindai.attestation.policy.manifest import Path
from blindai.attestation.policy.policy import DEFAULT_ATTRIBUTES, Policy
from blindai.attestation.policy.reference_values import HARDWARE_FORMS, HardwareReference
from blindai.attestation.policy.tcb import TcbPolicy
from blindai.errors import ConfigurationError

LONG_GRACE_DAYS = 90  # Intel recovers TCB about four times a year: a longer grace skips a whole round of updates

# What is measured after the boot loader: one of these tells kernels and command lines apart (UAPI group, "Linux TPM PCR
# registry": GRUB and systemd-stub).
KERNEL_PCRS = frozenset({"pcr8", "pcr9", "pcr11", "pcr12"})


class Level(StrEnum):
    """An error makes a manifest unusable; a warning says that it accepts more than it may have to."""

    ERROR = "error"
    WARNING = "warning"


class Finding(msgspec.Struct, frozen=True):
    """One remark on a manifest.

    Attributes:
        code: stable name; of an error, that of the `ConfigurationError`.
        line: counted from 1; None where nothing stands in the text.
    """

    level: Level
    code: str
    message: str
    line: int | None = None


def errors(problems: Sequence[ConfigurationError], source: str) -> tuple[Finding, ...]:
    """What was wrong with the manifest that errors call `source`, as findings in the order of its lines."""
    found = []
    for problem in problems:
        # As `manifest.Origin.error` puts it together.
        number, _, message = problem.message.removeprefix(source).removeprefix(", line ").partition(": ")
        found.append(Finding(Level.ERROR, problem.code, message, int(number) if number else None))
    return tuple(sorted(found, key=lambda finding: finding.line or 0))


def warnings(policy: Policy) -> tuple[Finding, ...]:
    """Where a valid policy accepts more than it may have to, in the order of its lines."""
    found = [finding for rule in _RULES for finding in rule(policy)]
    return tuple(sorted(found, key=lambda finding: finding.line or 0))


def _warning(policy: Policy, code: str, message: str, *path: str | int) -> Finding:
    return Finding(Level.WARNING, f"lint.{code}", message, policy.line(*path))


def _simulation(policy: Policy) -> Iterator[Finding]:
    if policy.allow_simulated:
        message = "simulated platforms are accepted; they protect nothing"
        yield _warning(policy, "simulated", message, "allow_simulated")
    elif policy.simulated_roots:
        message = "[simulated_roots] has no effect while 'allow_simulated' is false"
        yield _warning(policy, "unused", message, "simulated_roots")


def _accepted(policy: Policy) -> Iterator[Finding]:
    for index, tee in enumerate(policy.accepted_tees):
        path: Path = ("accepted_tees", index)
        if tee is TEE.TPM:
            message = "a TPM measures what was started, but keeps no memory from whoever operates the machine"
            yield _warning(policy, "no_isolation", message, *path)
        if tee in HARDWARE_FORMS and not any(reference.tee is tee for reference in policy.hardware):
            message = f"no [[hardware]] is pinned for {tee}: any machine shape and firmware is accepted"
            yield _warning(policy, "hardware_open", message, *path)


def _references(policy: Policy) -> Iterator[Finding]:
    lists: tuple[tuple[str, Sequence[HardwareReference]], ...] = (("code", policy.code), ("hardware", policy.hardware))
    for key, references in lists:
        seen: dict[object, str] = {}
        for index, reference in enumerate(references):
            if reference.tee not in policy.accepted_tees:
                message = f"[[{key}]] {reference.name!r} has no effect: {reference.tee} is not accepted"
                yield _warning(policy, "unused", message, key, index)
            value = (reference.tee, *sorted(reference.measurements.items()), *sorted(reference.numbers().items()))
            if value in seen:
                message = f"[[{key}]] {reference.name!r} has the same values as {seen[value]!r}"
                yield _warning(policy, "duplicate", message, key, index)
            seen.setdefault(value, reference.name)


def _code(policy: Policy) -> Iterator[Finding]:
    for index, code in enumerate(policy.code):
        if "mrsigner" in code.measurements:
            message = f"{code.name!r} is named by its signer: whatever that key signs for the product is accepted"
            yield _warning(policy, "signer_only", message, "code", index, "mrsigner")
        if code.tee in TPM_TEES and not KERNEL_PCRS & code.measurements.keys():
            message = f"{code.name!r} pins the boot loader alone; its kernel and command line are in {_pcrs()}"
            yield _warning(policy, "kernel_open", message, "code", index)


def _tcb(policy: Policy) -> Iterator[Finding]:
    tcb = policy.tcb
    if not INTEL_TEES.intersection(policy.accepted_tees):
        if tcb != TcbPolicy():
            yield _warning(policy, "unused", "[tcb] has no effect: no TEE of Intel is accepted", "tcb")
        return
    for index, status in enumerate(tcb.statuses):
        if status not in TcbPolicy.statuses:
            message = f"{status} is accepted: the platform has a known weakness that an update or a setting closes"
            yield _warning(policy, "tcb_weak", message, "tcb", "statuses", index)
    if tcb.grace_days > LONG_GRACE_DAYS:
        message = (
            f"{tcb.grace_days} days of grace are longer than {LONG_GRACE_DAYS}, so that a platform may skip updates"
        )
        yield _warning(policy, "long_grace", message, "tcb", "grace_days")
    if tcb.denied_advisories and not tcb.minimum_evaluation_data_number:
        message = (
            "advisories are denied, but TCB data that do not know them yet are accepted; "
            "set 'minimum_evaluation_data_number'"
        )
        yield _warning(policy, "advisories_unjudged", message, "tcb", "denied_advisories")


def _amd(policy: Policy) -> Iterator[Finding]:
    amd = policy.amd
    if not AMD_TEES.intersection(policy.accepted_tees):
        if amd != AmdPolicy():
            yield _warning(policy, "unused", "[amd] has no effect: no TEE of AMD is accepted", "amd")
        return
    if not amd.require_crl:
        message = "AMD's revocation list may be left out, so that whoever holds a revoked key can do so"
        yield _warning(policy, "crl_optional", message, "amd", "require_crl")
    unbounded = [product for product in amd.products if not amd.minimum_tcb.get(product)]
    if unbounded:
        message = f"[amd.minimum_tcb] names no versions for {', '.join(unbounded)}: old firmware is accepted"
        yield _warning(policy, "tcb_open", message, "amd", "products")


def _gpus(policy: Policy) -> Iterator[Finding]:
    if policy.gpus is not None and not policy.gpus.golden:
        message = "no [[gpus.golden]] is given: GPUs and switches with any firmware are accepted"
        yield _warning(policy, "devices_open", message, "gpus")


def _tpm(policy: Policy) -> Iterator[Finding]:
    if policy.tpm.roots and TEE.TPM not in policy.accepted_tees:
        yield _warning(policy, "unused", "[tpm] has no effect: tpm is not accepted", "tpm")


def _attributes(policy: Policy) -> Iterator[Finding]:
    for index, name in enumerate(policy.allowed_attributes):
        if name not in DEFAULT_ATTRIBUTES:
            yield _warning(policy, "attribute", f"{name!r} is allowed: {FLAGS[name]}", "attributes", "allowed", index)


def _open_lists(policy: Policy) -> Iterator[Finding]:
    if not policy.chips:
        message = "[chips] lists none: a machine that somebody opened can answer in place of the operator's"
        yield _warning(policy, "chips_open", message, "chips", "allowed")
    if not policy.config_digests:
        message = "[config] lists none: the code may run under any configuration"
        yield _warning(policy, "config_open", message, "config", "digests")


def _pcrs() -> str:
    return "PCRs " + ", ".join(sorted((name.removeprefix("pcr") for name in KERNEL_PCRS), key=int))


_RULES: tuple[Callable[[Policy], Iterator[Finding]], ...] = (
    _simulation,
    _accepted,
    _references,
    _code,
    _tcb,
    _amd,
    _gpus,
    _tpm,
    _attributes,
    _open_lists,
)
