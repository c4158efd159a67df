"""What a boot leaves in the registers: predicted from the images that it loads, or replayed from the log that it wrote.

A log is as believable as the machine it was taken from: take it from one that you launched, or compare the registers
with a verified quote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from blindai.attestation.eventlog import parse, parse_boot_log, replay
from blindai.attestation.measure.pcr import DIRECT_KERNEL_VERSION, enter, inner_kernel, pcr4, pcr11, stub_version
from blindai.attestation.measure.pe import PeImage
from blindai.errors import AttestationError, ConfigurationError


class InnerKernel(StrEnum):
    """Whether firmware measures the kernel inside a UKI as an image of its own; `AUTO`: by the stub's version."""

    AUTO = "auto"
    MEASURED = "measured"
    UNMEASURED = "unmeasured"


def predict(images: Sequence[PeImage], inner: InnerKernel, phases: Sequence[str]) -> dict[str, dict[str, str]]:
    """PCR 4 and 11 after a boot that loads `images`, the last of which is a UKI.

    Returns:
        `pcr4` and `pcr11`, by what tells the possible boots apart: there are two where it depends on the firmware
        whether the kernel in the UKI is measured again. Both run the same kernel with the same command line.

    Raises:
        ConfigurationError: `measure.uki`, `measure.pe`, `measure.option`.
    """
    uki = images[-1]
    version = stub_version(uki)
    eleven = pcr11(uki, phases)
    once = {"pcr4": pcr4(images), "pcr11": eleven}
    direct = version is not None and version >= DIRECT_KERNEL_VERSION
    if inner is InnerKernel.UNMEASURED or (inner is InnerKernel.AUTO and direct):
        return {"": once}
    twice = {"pcr4": pcr4([*images, inner_kernel(uki)]), "pcr11": eleven}
    if inner is InnerKernel.MEASURED:
        return {"": twice}
    return {", kernel measured in the UKI": once, ", kernel measured twice": twice}


def confirmed(predicted: Mapping[str, dict[str, str]], logged: Mapping[str, str]) -> dict[str, str]:
    """The one prediction that the log of a boot confirms.

    Raises:
        ConfigurationError: `measure.mismatch`; it confirms none.
    """
    for pcrs in predicted.values():
        if all(logged.get(register) == value for register, value in pcrs.items()):
            return pcrs
    registers = next(iter(predicted.values()))
    differing = [name for name in registers if all(logged.get(name) != pcrs[name] for pcrs in predicted.values())]
    raise ConfigurationError(
        f"the event log gives another {' and '.join(differing)} than these images would",
        code="measure.mismatch",
        hint="give every image that is loaded, in order, and the log of a boot of this very UKI",
    )


def replayed_rtmrs(log: bytes) -> dict[str, str]:
    """The RTMRs after the boot that an event log of a trust domain (CCEL) records: `rtmr0` to `rtmr3`.

    Raises:
        ConfigurationError: `measure.event_log`.
    """
    try:
        return replay(parse(log))
    except AttestationError as error:
        raise ConfigurationError(error.message, code="measure.event_log") from error


def replayed_pcrs(log: bytes, phases: Sequence[str]) -> dict[str, str]:
    """The PCRs after the boot that an event log of a TPM records, once its system has entered the last of `phases`.

    The phases are extended after the firmware's log has ended, and only where the log has a PCR 11.

    Raises:
        ConfigurationError: `measure.event_log`, `measure.option`.
    """
    try:
        pcrs = {f"pcr{number}": value.hex() for number, value in parse_boot_log(log).replay().items()}
    except AttestationError as error:
        raise ConfigurationError(error.message, code="measure.event_log") from error
    if "pcr11" in pcrs:
        pcrs["pcr11"] = enter(pcrs["pcr11"], phases)
    return pcrs
