"""Writes a policy as a manifest.toml that explains itself to whoever opens it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from blindai.attestation.anchors import Vendor
from blindai.attestation.policy.amd import PRODUCT_PARTS
from blindai.attestation.policy.reference_values import REGISTER_BYTES

if TYPE_CHECKING:
    from blindai.attestation.policy import Policy
    from blindai.attestation.policy.reference_values import HardwareReference


def write(policy: Policy) -> str:
    """The manifest of `policy`: every setting, defaults included, with a comment on what it decides."""
    return "\n".join(_lines(policy)) + "\n"


def _lines(policy: Policy) -> Iterator[str]:
    yield "# What an enclave must prove before anything is sent to it. Whatever is not listed here is refused."
    yield "version = 1"
    yield ""
    yield "# The kinds of TEE that may answer; each needs [[code]] below."
    yield f"accepted_tees = {_list(policy.accepted_tees)}"
    yield "# A TEE in debug mode can be read by its host. No manifest can allow it; the line is here to say so."
    yield "allow_debug = false"
    yield "# A simulated platform protects nothing: it shows the same steps without the hardware."
    yield f"allow_simulated = {'true' if policy.allow_simulated else 'false'}"
    yield ""
    if policy.simulated_roots:
        yield "# The simulated platforms that are accepted, by the SHA-256 of their root's public key."
        yield "[simulated_roots]"
        for vendor in Vendor:
            if vendor in policy.simulated_roots:
                yield f"{vendor} = {_string(policy.simulated_roots[vendor])}"
        yield ""
    yield "# The releases that may run, one [[code]] each. Remove one to stop trusting it."
    for code in policy.code:
        yield from _reference("code", code)
    if policy.hardware:
        yield "# The virtual machine shapes and firmware that may carry them."
    else:
        yield "# No [[hardware]] is listed: the shape of the virtual machine and its firmware are not checked."
        yield ""
    for hardware in policy.hardware:
        yield from _reference("hardware", hardware)
    yield from _tcb(policy)
    yield from _amd(policy)
    if policy.tpm.roots:
        yield "# The makers of TPMs that may vouch for one, by the SHA-256 of their root's public key."
        yield "[tpm]"
        yield f"roots = {_list(policy.tpm.roots)}"
        yield ""
    if policy.gpus is not None:
        yield from policy.gpus.to_toml()
    yield "# Properties of the processor and the TEE that are tolerated; any other is refused."
    yield "[attributes]"
    yield f"allowed = {_list(policy.allowed_attributes)}"
    yield ""
    yield "# The processors that may answer, by their identity in hex. An empty list allows every genuine one."
    yield "[chips]"
    yield f"allowed = {_list(policy.chips)}"
    yield ""
    yield "# SHA-256 of the enclave's measured configuration. An empty list allows every one."
    yield "[config]"
    yield f"digests = {_list(policy.config_digests)}"
    yield ""
    yield "# How long new connections may rely on keys that an earlier quote vouched for; 0 asks for a quote on each."
    yield "[resume]"
    yield f"max_age_seconds = {policy.max_age_seconds}"


def _tcb(policy: Policy) -> Iterator[str]:
    yield "# Firmware and microcode of Intel's platforms, in Intel's words. OutOfDate needs grace_days, counted from"
    yield "# the date of the TCB level that the platform has reached. Only the advisories that are listed are refused."
    yield "[tcb]"
    yield f"statuses = {_list(policy.tcb.statuses)}"
    yield f"grace_days = {policy.tcb.grace_days}"
    yield f"minimum_evaluation_data_number = {policy.tcb.minimum_evaluation_data_number}"
    yield f"denied_advisories = {_list(policy.tcb.denied_advisories)}"
    yield ""


def _amd(policy: Policy) -> Iterator[str]:
    yield "# AMD's processors: product lines, kinds of signing key (vcek belongs to one chip, vlek to a cloud), and"
    yield "# whether AMD's revocation list must travel with the evidence."
    yield "[amd]"
    yield f"products = {_list(policy.amd.products)}"
    yield f"keys = {_list(policy.amd.keys)}"
    yield f"require_crl = {'true' if policy.amd.require_crl else 'false'}"
    yield ""
    if policy.amd.minimum_tcb:
        yield "# The lowest security version of each part of the firmware."
    for product, parts in PRODUCT_PARTS.items():
        if product in policy.amd.minimum_tcb:
            floor = policy.amd.minimum_tcb[product]
            yield f"[amd.minimum_tcb.{product}]"
            yield from (f"{part} = {floor[part]}" for part in parts if part in floor)
            yield ""


def _reference(key: str, reference: HardwareReference) -> Iterator[str]:
    yield f"[[{key}]]"
    yield f"name = {_string(reference.name)}"
    yield f"tee = {_string(reference.tee)}"
    for register in REGISTER_BYTES[reference.tee]:
        if register in reference.measurements:
            yield f"{register} = {_string(reference.measurements[register])}"
    for name, number in reference.numbers().items():
        yield f"{name} = {number}"
    yield ""


def _list(values: Iterable[str]) -> str:
    return f"[{', '.join(map(_string, values))}]"


def _string(value: str) -> str:
    # Policies hold printable strings only, in which TOML escapes just these two (TOML 1.0, "String").
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
