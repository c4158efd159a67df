"""The attester of NVIDIA's GPUs: asks their driver, through NVML, for reports and certificates.

NVSwitches are not asked: their reports come through another library (NSCQ) for which there is no Python package.

The driver is in the trust domain, and is measured with it. That confidential mode is on and the developer mode off is
its word: the GPU's own report does not say so (docs/limitations.md).

Source: NVIDIA Management Library API reference, "Confidential Computing".
"""

from __future__ import annotations

import importlib
import threading
from typing import Any, Protocol, Self, cast

from blindai.attestation.evidence import DeviceEvidence, DeviceKind
from blindai.attestation.verifiers.nvidia_report import NONCE_BYTES
from blindai.errors import ConfigurationError, Unavailable

NVML_MODULE = "pynvml"  # of the package nvidia-ml-py


class Nvml(Protocol):
    """The part of `pynvml` that is used."""

    @property
    def NVMLError(self) -> type[Exception]: ...  # noqa: N802 - NVIDIA's name

    def nvmlInit(self) -> None: ...  # noqa: N802 - NVIDIA's name

    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802 - NVIDIA's name

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object: ...  # noqa: N802 - NVIDIA's name

    def nvmlSystemGetConfComputeState(self) -> Any: ...  # noqa: N802 - NVIDIA's name

    def nvmlSystemGetConfComputeGpusReadyState(self) -> int: ...  # noqa: N802 - NVIDIA's name

    def nvmlDeviceGetConfComputeGpuAttestationReport(  # noqa: N802 - NVIDIA's name
        self, device: object, c_nonce: bytes
    ) -> Any: ...

    def nvmlDeviceGetConfComputeGpuCertificate(self, device: object) -> Any: ...  # noqa: N802 - NVIDIA's name


class NvmlMissing(ConfigurationError):
    """There is no NVIDIA GPU in confidential mode here, or no way to ask it."""

    default_code = "attester.missing"


class NvidiaAttester:
    """Attests all GPUs that the driver shows.

    Args:
        nvml: NVIDIA's library.

    Raises:
        NvmlMissing: no driver, no GPU, or confidential mode is off.
        ConfigurationError: `attester.devtools`, the developer mode is on, in which the host can read the GPU.
    """

    simulated = False
    quick = False

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._one_at_a_time = threading.Lock()  # two requests of one process to one GPU: the second fails
        try:
            nvml.nvmlInit()
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            state = nvml.nvmlSystemGetConfComputeState()
        except nvml.NVMLError as error:
            raise NvmlMissing(f"NVIDIA's driver cannot be asked for attestation: {error}") from error
        if not handles or not state.ccFeature:
            raise NvmlMissing(
                "no GPU is in confidential mode" if handles else "the driver shows no GPU",
                hint="the operator of the host sets the mode, before the virtual machine is started",
            )
        if state.devToolsMode:
            raise ConfigurationError(
                "the GPUs are in developer mode, in which the host can read them", code="attester.devtools"
            )
        self._handles = handles

    @classmethod
    def open(cls) -> Self:
        """With the package nvidia-ml-py.

        Raises:
            NvmlMissing: it is not installed, or as the class.
        """
        try:
            module = importlib.import_module(NVML_MODULE)
        except ImportError as error:
            raise NvmlMissing("nvidia-ml-py is not installed", hint="pip install 'blindai[gpu]'") from error
        return cls(cast("Nvml", module))

    def attest(self, nonce: bytes) -> tuple[DeviceEvidence, ...]:
        """Have `nonce`, 32 bytes, signed by every GPU. See `DeviceAttester.attest`.

        Raises:
            ValueError: `nonce` is not 32 bytes.
            Unavailable: `attester.not_ready`, the GPUs take no work yet; `attester.failed`, one did not answer, or
                with a report for something else.
        """
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"nonce is {NONCE_BYTES} bytes, not {len(nonce)}")
        with self._one_at_a_time:
            try:
                if not self._nvml.nvmlSystemGetConfComputeGpusReadyState():
                    raise Unavailable(
                        "the GPUs do not accept work yet",
                        code="attester.not_ready",
                        hint="nvidia-smi conf-compute -srs 1",
                    )
                return tuple(self._attest(handle, nonce) for handle in self._handles)
            except self._nvml.NVMLError as error:
                raise Unavailable(f"a GPU did not attest itself: {error}", code="attester.failed") from error

    def _attest(self, handle: object, nonce: bytes) -> DeviceEvidence:
        answer = self._nvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce)
        report = bytes(answer.attestationReport[: answer.attestationReportSize])
        certificate = self._nvml.nvmlDeviceGetConfComputeGpuCertificate(handle)
        chain = bytes(certificate.attestationCertChain[: certificate.attestationCertChainSize])
        if nonce not in report:
            raise Unavailable("a GPU answered another request than ours", code="attester.failed")
        return DeviceEvidence(
            kind=DeviceKind.NVIDIA_GPU, report=report, certificates=chain.rstrip(b"\0").decode("ascii", "replace")
        )
