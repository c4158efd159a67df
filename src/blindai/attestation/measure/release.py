"""Manifests from reference values: a new one, or entries added to one that exists."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from blindai.attestation.evidence import TEE
from blindai.attestation.policy import Policy
from blindai.attestation.policy.manifest import Origin
from blindai.attestation.policy.reference_values import CodeReference, HardwareReference
from blindai.attestation.policy.tpm import TpmPolicy
from blindai.errors import ConfigurationError

# Registers of the firmware and its settings that stay the same on every boot of one kind of machine. PCR 1, 3, 5 and
# 6 hold serial numbers, boot attempts and the like.
HARDWARE_PCRS = ("pcr0", "pcr2", "pcr7")
CODE_PCRS = ("pcr4", "pcr11")


def tdx_references(
    name: str, mrtd: str, rtmrs: Mapping[str, str]
) -> tuple[tuple[CodeReference, ...], tuple[HardwareReference, ...]]:
    """The code and the hardware entry of a TD, from its firmware's MRTD and the RTMRs of a boot's event log."""
    measured = {"mrtd": mrtd, **rtmrs}
    code = CodeReference(
        name=name,
        tee=TEE.INTEL_TDX,
        measurements={register: measured[register] for register in ("mrtd", "rtmr1", "rtmr2")},
    )
    hardware = HardwareReference(
        name=f"machine of {name}",
        tee=TEE.INTEL_TDX,
        measurements={register: measured[register] for register in ("mrtd", "rtmr0")},
    )
    return (code,), (hardware,)


def tpm_references(
    name: str, pcrs: Mapping[str, str], tee: TEE = TEE.TPM
) -> tuple[tuple[CodeReference, ...], tuple[HardwareReference, ...]]:
    """The code and the hardware entry of a machine with a TPM, from the PCRs of a boot's event log."""
    code = {register: pcrs[register] for register in CODE_PCRS if register in pcrs}
    hardware = {register: pcrs[register] for register in HARDWARE_PCRS if register in pcrs}
    return (
        (CodeReference(name=name, tee=tee, measurements=code),),
        (HardwareReference(name=f"machine of {name}", tee=tee, measurements=hardware),),
    )


def manifest(
    code: Sequence[CodeReference], hardware: Sequence[HardwareReference] = (), *, tpm_roots: Sequence[str] = ()
) -> Policy:
    """A policy that accepts exactly this code on this hardware, with the defaults of `Policy` for the rest.

    Args:
        code: at least one entry.
        hardware: machine shapes; none leaves them open.
        tpm_roots: the makers of TPMs to believe, by the SHA-256 of the SPKI of their roots; needed for `TEE.TPM`.

    Raises:
        ConfigurationError: `policy.*`: a name is empty or given twice, or there are no roots.
    """
    return Policy(
        accepted_tees=tuple(dict.fromkeys(reference.tee for reference in code)),
        code=tuple(code),
        hardware=tuple(hardware),
        tpm=TpmPolicy(roots=tuple(tpm_roots)),
        origin=Origin(source="what was measured"),
    )


def merged(
    policy: Policy,
    code: Sequence[CodeReference],
    hardware: Sequence[HardwareReference] = (),
    *,
    tpm_roots: Sequence[str] = (),
) -> Policy:
    """`policy` with these entries added, and everything else as it was. Hardware that it has already stays as it is.

    Raises:
        ConfigurationError: `measure.duplicate`: it has this code already, under whatever name; `policy.duplicate`:
            another entry has the name.
    """
    for reference in code:
        twin = _twin(reference, policy.code)
        if twin is not None:
            raise ConfigurationError(
                f"{policy.source} has this code already, as {twin.name!r}", code="measure.duplicate"
            )
    tees = dict.fromkeys((*policy.accepted_tees, *(reference.tee for reference in code)))
    return dataclasses.replace(
        policy,
        accepted_tees=tuple(tees),
        code=(*policy.code, *code),
        hardware=(*policy.hardware, *(new for new in hardware if _twin(new, policy.hardware) is None)),
        tpm=dataclasses.replace(policy.tpm, roots=tuple(dict.fromkeys((*policy.tpm.roots, *tpm_roots)))),
        # The lines of the file are no longer the lines of this policy.
        origin=Origin(source=policy.source),
    )


def _twin(reference: HardwareReference, among: Sequence[HardwareReference]) -> HardwareReference | None:
    def pinned(entry: HardwareReference) -> object:
        return entry.tee, dict(entry.measurements), entry.numbers()

    return next((entry for entry in among if pinned(entry) == pinned(reference)), None)
