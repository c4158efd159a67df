"""A simulated Azure confidential VM: a paravisor's report below a simulated processor, with a simulated virtual TPM.

It stands in for the virtual TPM and the metadata service of `attesters.azure`. It protects nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa

from blindai.attestation.attesters.azure import AK_HANDLE, HCL_REPORT_INDEX
from blindai.attestation.evidence import TEE, AmdEndorsements, TpmQuote
from blindai.attestation.simulated.amd import SimulatedAmd
from blindai.attestation.simulated.intel import SimulatedIntel
from blindai.attestation.simulated.tpm import SimulatedTpm
from blindai.attestation.verifiers.azure_report import AK_NAME, HARDWARE_REPORT_BYTES, SNP_REPORT, TD_REPORT
from blindai.attestation.verifiers.tpm_structures import parse_public

QUOTED_PCRS = range(24)  # Azure's agents ask for all
_NV_BYTES = 2600  # size of the NV index


class AzureFaults(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with the virtual machine. By default nothing is.

    Attributes:
        vmpl: who asked the processor for the report; the paravisor is at 0.
        other_runtime_data: the processor signed a digest of other runtime data.
        console, secure_boot: how the virtual machine is set up.
    """

    vmpl: int = 0
    other_runtime_data: bool = False
    console: bool = True
    secure_boot: bool = True


class SimulatedAzure:
    """One confidential VM; a `VirtualTpm` and a `MetadataService` in one.

    Args:
        processor: the simulated processor below it.
        tpm: its virtual TPM, with an AK of RSA-2048 as Azure's.
        faults: what is wrong with it.
    """

    def __init__(
        self, processor: SimulatedAmd | SimulatedIntel, tpm: SimulatedTpm, faults: AzureFaults | None = None
    ) -> None:
        self.tee = TEE.AZURE_SEV_SNP if isinstance(processor, SimulatedAmd) else TEE.AZURE_TDX
        self.tpm = tpm
        self.faults = faults or AzureFaults()
        self._processor = processor
        runtime_data = self._runtime_data()
        digest = hashlib.sha256(runtime_data + b" " * self.faults.other_runtime_data).digest()
        self._report_data = digest.ljust(64, b"\0")
        self._hcl_report = self._lay_out(runtime_data)

    def read_nv(self, index: int) -> bytes:
        """See `VirtualTpm`.

        Raises:
            ValueError: there is no such index.
        """
        if index != HCL_REPORT_INDEX:
            raise ValueError(f"there is no NV index {index:#x}")
        return self._hcl_report

    def quote_with(self, key: int, extra_data: bytes) -> tuple[bytes, TpmQuote]:
        """See `VirtualTpm`.

        Raises:
            ValueError: there is no such key.
        """
        if key != AK_HANDLE:
            raise ValueError(f"there is no key {key:#x}")
        return self.tpm.quote(extra_data, QUOTED_PCRS)

    def amd_endorsements(self) -> AmdEndorsements:
        """See `MetadataService`.

        Raises:
            ValueError: the processor is not AMD's.
        """
        if not isinstance(self._processor, SimulatedAmd):
            raise ValueError("the processor is Intel's")
        return msgspec.structs.replace(self._processor.endorsements(), crl=None)

    def td_quote(self, td_report: bytes) -> bytes:
        """See `MetadataService`.

        Raises:
            ValueError: the processor is not Intel's.
        """
        del td_report  # the simulated module keeps what it would hold
        if not isinstance(self._processor, SimulatedIntel):
            raise ValueError("the processor is AMD's")
        return self._processor.quote(self._report_data)

    def _runtime_data(self) -> bytes:
        key = parse_public(self.tpm.identity().ak_public, what="the AK").key
        if not isinstance(key, rsa.RSAPublicKey):
            raise ValueError("the AK of an Azure VM is an RSA key")
        numbers = key.public_numbers()
        data = {
            "keys": [
                {
                    "kid": AK_NAME,
                    "key_ops": ["sign"],
                    "kty": "RSA",
                    "e": _base64url(numbers.e),
                    "n": _base64url(numbers.n),
                }
            ],
            "vm-configuration": {
                "console-enabled": self.faults.console,
                "secure-boot": self.faults.secure_boot,
                "tpm-enabled": True,
                "vmUniqueId": "SIMULATED",
            },
            "user-data": "00" * 64,
        }
        return json.dumps(data, separators=(",", ":")).encode()

    def _lay_out(self, runtime_data: bytes) -> bytes:
        if isinstance(self._processor, SimulatedAmd):
            kind, hardware = SNP_REPORT, self._processor.report(self._report_data, self.faults.vmpl)
        else:
            kind, hardware = (
                TD_REPORT,
                bytes(128) + self._report_data,
            )  # REPORTMACSTRUCT.REPORTDATA; no MAC is looked at
        size = 20 + len(runtime_data)
        whole = (
            struct.pack("<4sIIII12x", b"HCLA", 1, 32 + HARDWARE_REPORT_BYTES + size, 2, 0)
            + hardware.ljust(HARDWARE_REPORT_BYTES, b"\0")
            + struct.pack("<IIIII", size, 1, kind, 1, len(runtime_data))
            + runtime_data
        )
        return whole.ljust(_NV_BYTES, b"\0")


def _base64url(number: int) -> str:
    raw = number.to_bytes((number.bit_length() + 7) // 8)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
