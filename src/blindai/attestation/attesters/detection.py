"""On which platform this process runs, and how one can tell: `--platform auto`."""

from __future__ import annotations

import msgspec

from blindai.attestation.attesters import gramine, tsm
from blindai.attestation.attesters.failures import reporting
from blindai.attestation.attesters.files import Files, HostFiles
from blindai.attestation.attesters.platform import TPM_DEVICE, Platform
from blindai.attestation.evidence import TEE
from blindai.errors import ConfigurationError

# What Azure writes into the SMBIOS table of every virtual machine: "MSFT AZURE VM" in ASCII codes.
AZURE_ASSET_TAG = "7783-7084-3265-9085-8269-3286-77"
ASSET_TAG_FILE = "/sys/class/dmi/id/chassis_asset_tag"

# Guest drivers that are older than configfs-tsm.
GUEST_DEVICES = ("/dev/tdx_guest", "/dev/sev-guest")


class Look(msgspec.Struct, frozen=True):
    """One place that was looked at: the platform it speaks for, if it does, and what was there."""

    at: str
    platform: Platform | None
    why: str


class Finding(msgspec.Struct, frozen=True):
    """The platform that was found, by the last of the looks.

    Attributes:
        platform: never a simulated one.
        looks: everything that was looked at, in order.
    """

    platform: Platform
    looks: tuple[Look, ...]

    @property
    def explanation(self) -> tuple[str, ...]:
        """A line for each place: what it speaks for, or that it speaks for nothing, and why."""
        return tuple(f"{look.platform or 'not ' + look.at}: {look.why}" for look in self.looks)


def detect(files: Files | None = None) -> Finding:
    """Find the platform, from the inside out: Gramine, the kernel, Azure's virtual TPM, any TPM.

    What is further in is asked first: inside an SGX enclave every other file comes from a host that the enclave does
    not trust. A platform that is there but out of order ends the search, because what comes after it protects less.

    Raises:
        ConfigurationError: `attester.none_found`; nothing is there, and a simulated platform is never chosen unasked.
            `attester.missing`, `attester.denied`, `attester.provider`, `attester.attestation_type`: something is there
            but cannot be used.
        Unavailable: `attester.busy`, `attester.failed`; as before, but it may work another time.
    """
    files = HostFiles() if files is None else files
    looks: list[Look] = []
    for look in (_gramine, _tsm, _azure, _tpm):
        looks.append(look(files))
        if (platform := looks[-1].platform) is not None:
            return Finding(platform, tuple(looks))
    raise ConfigurationError(
        "no platform that could attest was found here: " + "; ".join(f"{look.at}: {look.why}" for look in looks),
        code="attester.none_found",
        hint="to try it without a TEE, with nothing protected: blindai serve --platform simulated-tdx",
    )


def _gramine(files: Files) -> Look:
    path = f"{gramine.FOLDER}/attestation_type"
    if not files.exists(path):
        return Look("SGX", None, f"there is no {path}, which Gramine has inside of an enclave")
    gramine.require_dcap(files)
    return Look("SGX", Platform.SGX, f"{path} says {gramine.ATTESTATION_TYPE}: this is an SGX enclave under Gramine")


def _tsm(files: Files) -> Look:
    at = "TDX or SEV-SNP"
    if not files.exists(tsm.REPORTS):
        for device in GUEST_DEVICES:
            if files.exists(device):
                raise ConfigurationError(
                    f"{device} is there, but not {tsm.REPORTS}",
                    code="attester.missing",
                    hint="update the kernel to Linux 6.7 or newer, and have configfs mounted: "
                    "mount -t configfs none /sys/kernel/config",
                )
        return Look(at, None, f"there is no {tsm.REPORTS}, which Linux 6.7 and newer have in such a guest")
    try:
        tee = tsm.provided(files)
    except ConfigurationError as error:
        if error.code != "attester.missing":
            raise
        return Look(at, None, f"nothing stands behind {tsm.REPORTS}: this is no such guest, or its module is missing")
    platform = {TEE.INTEL_TDX: Platform.TDX, TEE.AMD_SEV_SNP: Platform.SEV_SNP}[tee]
    return Look(at, platform, f"the kernel gives evidence of {tee} below {tsm.REPORTS}")


def _azure(files: Files) -> Look:
    if not files.exists(ASSET_TAG_FILE):
        return Look("Azure", None, f"there is no {ASSET_TAG_FILE}")
    with reporting(f"reading {ASSET_TAG_FILE}"):
        tag = files.read(ASSET_TAG_FILE).strip().decode("ascii", "replace")
    if tag != AZURE_ASSET_TAG:
        return Look("Azure", None, f"{ASSET_TAG_FILE} is not the one of Azure")
    if not files.exists(TPM_DEVICE):
        return Look("Azure", None, f"this is a machine of Azure, but one without {TPM_DEVICE}")
    return Look("Azure", Platform.AZURE, f"{ASSET_TAG_FILE} is the one of Azure, and there is {TPM_DEVICE}")


def _tpm(files: Files) -> Look:
    if not files.exists(TPM_DEVICE):
        return Look("TPM", None, f"there is no {TPM_DEVICE}")
    return Look(
        "TPM",
        Platform.TPM,
        f"there is {TPM_DEVICE}; it measures what was booted, and does not keep the machine's owner from the memory",
    )
