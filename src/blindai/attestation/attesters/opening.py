"""From the name of a platform to an attester whose evidence can be verified as it stands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from blindai.attestation.attesters.attester import Attester
from blindai.attestation.attesters.azure import AzureAttester, InstanceMetadata
from blindai.attestation.attesters.failures import reporting
from blindai.attestation.attesters.files import Files
from blindai.attestation.attesters.gramine import GramineAttester
from blindai.attestation.attesters.platform import BOOT_LOG_FILE, TPM_TCTI, Platform
from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.attesters.tpm import TpmAttester, load_certificates
from blindai.attestation.attesters.tpm_device import TpmDevice
from blindai.attestation.attesters.tsm import TsmAttester
from blindai.attestation.collateral.cache import Log, log_plainly
from blindai.attestation.collateral.library import Library
from blindai.attestation.collateral.stapling import StaplingAttester
from blindai.attestation.evidence import TEE
from blindai.errors import AttestationError, ConfigurationError

SIMULATED_TEES = {
    Platform.SIMULATED_TDX: TEE.INTEL_TDX,
    Platform.SIMULATED_SGX: TEE.INTEL_SGX,
    Platform.SIMULATED_SNP: TEE.AMD_SEV_SNP,
}


class TpmOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a TPM, and what it does not know itself.

    Attributes:
        tcti: where it is, as `tpm_device.TpmDevice` takes it.
        certificates: a PEM file with certificates of the TPM's maker.
        event_log: the firmware's boot log.
    """

    tcti: str = TPM_TCTI
    certificates: Path | None = None
    event_log: Path = Path(BOOT_LOG_FILE)


def bare(platform: Platform, *, files: Files | None = None, tpm: TpmOptions | None = None) -> Attester:
    """The attester of a platform. Whether the platform is there shows when evidence is first asked of it.

    Args:
        platform: which; `AUTO` is for `detection.detect` to resolve.
        files: the machine's files; by default, those of this one.
        tpm: for `TPM` and `AZURE`.

    Raises:
        ConfigurationError: `simulated.root`; `attester.tpm_library`, `attester.tpm_certificate`; `attester.missing`,
            this is no confidential VM of Azure.
        Unavailable: the TPM cannot be read.
    """
    match platform:
        case Platform.SGX:
            return GramineAttester(files=files)
        case Platform.TDX:
            return TsmAttester(TEE.INTEL_TDX, files=files)
        case Platform.SEV_SNP:
            return TsmAttester(TEE.AMD_SEV_SNP, files=files)
        case Platform.AZURE:
            return _azure((tpm or TpmOptions()).tcti)
        case Platform.TPM:
            return _tpm(tpm or TpmOptions(), files)
        case Platform.SIMULATED_TDX | Platform.SIMULATED_SGX | Platform.SIMULATED_SNP:
            return SimulatedAttester(tee=SIMULATED_TEES[platform])
        case Platform.AUTO:
            raise ValueError("detect() says which platform it is")


def _azure(tcti: str) -> Attester:
    try:
        return AzureAttester(TpmDevice(tcti), InstanceMetadata())
    except (AttestationError, ConfigurationError) as error:
        if error.code not in {"attester.missing", "evidence.hcl"}:
            raise
        raise ConfigurationError(
            f"no report of a confidential VM of Azure can be read from a TPM here: {error.message}",
            code="attester.missing",
            hint="create the VM with security type ConfidentialVM, or serve on its TPM alone: --platform tpm",
        ) from error


def _tpm(options: TpmOptions, files: Files | None) -> Attester:
    certificates: tuple[bytes, ...] = ()
    if options.certificates is not None:
        with reporting(f"reading {options.certificates}"):
            certificates = load_certificates(options.certificates.read_bytes())
    event_log = str(options.event_log.absolute())
    return TpmAttester(options.tcti, certificates=certificates, event_log=event_log, files=files)


@contextmanager
def stapled(
    attester: Attester, *, url: str | None = None, directory: Path | None = None, log: Log = log_plainly
) -> Iterator[Attester]:
    """`attester` with endorsements beside its evidence, kept fresh until the block ends.

    Args:
        attester: whose evidence may come bare.
        url: who is asked for endorsements, in place of Intel or AMD.
        directory: where they are kept; without `url`, all that there is, and nobody is asked.
        log: takes what could not be renewed.

    Raises:
        ConfigurationError: `collateral.url`; this is no address, or there is nothing to ask for. And what `attester`
            raises.
        Unavailable: `collateral.missing`; without endorsements nobody could verify the evidence. And what `attester`
            raises.
    """
    if attester.simulated or attester.tee is TEE.TPM:
        if url is not None or directory is not None:
            raise ConfigurationError(
                f"evidence of this platform ({attester.tee}) needs no collateral from elsewhere",
                code="collateral.url",
                hint="leave --collateral-url and --collateral-dir out",
            )
        yield attester
        return
    library = Library.open(attester.tee, url=url, directory=directory, log=log)
    with StaplingAttester(attester, library, log=log) as endorsed:
        yield endorsed
