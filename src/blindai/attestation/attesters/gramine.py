"""The attester of SGX enclaves under Gramine: its pseudo-files in /dev/attestation.

Source: Gramine, Documentation/attestation.rst, "Low-level /dev/attestation interface". `user_report_data` keeps what
was last written for the whole process, padded with zeros or cut; `quote` is made when it is opened.
"""

from __future__ import annotations

import threading

from blindai.attestation.attesters.failures import reporting
from blindai.attestation.attesters.files import Files, HostFiles
from blindai.attestation.attesters.freshness import intel_quote_over
from blindai.attestation.evidence import TEE, Evidence, require_report_data
from blindai.errors import ConfigurationError

FOLDER = "/dev/attestation"

# EPID, the older type, ended with Intel's service for it in 2025; "none" leaves the enclave without quotes.
ATTESTATION_TYPE = "dcap"

# The files belong to the process, so this does too.
_lock = threading.Lock()

_HINT = 'it takes gramine-sgx and `sgx.remote_attestation = "dcap"` in the enclave\'s manifest'


class GramineAttester:
    """Attests an SGX enclave through Gramine. Calls from several threads wait for each other.

    The quote comes without collateral.

    Args:
        files: where Gramine's files are.
    """

    tee = TEE.INTEL_SGX
    simulated = False
    quick = False

    def __init__(self, *, files: Files | None = None) -> None:
        self._files = HostFiles() if files is None else files

    def attest(self, report_data: bytes) -> Evidence:
        """Have `report_data`, 64 bytes, signed. See `Attester.attest`.

        Raises:
            ConfigurationError: `attester.missing`, `attester.attestation_type`; `attester.denied`, which is also what
                Gramine says when the quoting service gives no quote.
            Unavailable: `attester.busy`, `attester.failed`, `attester.quote`, `attester.stale`.
        """
        require_report_data(report_data)
        with _lock:
            require_dcap(self._files)
            with reporting("writing report_data to Gramine", hint=_HINT):
                self._files.write(f"{FOLDER}/user_report_data", report_data)
            with reporting("reading a quote from Gramine", hint="is the quoting service (AESM or in-process) set up?"):
                blob = self._files.read(f"{FOLDER}/quote")
        return Evidence(tee=self.tee, quote=intel_quote_over(report_data, blob, tee=self.tee))


def require_dcap(files: Files) -> None:
    """Refuse an enclave that Gramine gives no DCAP quotes.

    Raises:
        ConfigurationError: `attester.missing`, `attester.denied`, `attester.attestation_type`.
        Unavailable: `attester.busy`, `attester.failed`.
    """
    with reporting("reading the attestation type of Gramine", hint=_HINT):
        kind = files.read(f"{FOLDER}/attestation_type").strip().decode("ascii", "replace")
    if kind != ATTESTATION_TYPE:
        raise ConfigurationError(
            f"Gramine's attestation type is {kind!r}, not {ATTESTATION_TYPE!r}",
            code="attester.attestation_type",
            hint=_HINT,
        )
