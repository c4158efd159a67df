"""NVIDIA's GPUs, asked through a fake of NVML with the functions and structures of the real one."""

from __future__ import annotations

import builtins
import ctypes
import importlib
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from blindai.attestation.attesters.devices import SimulatedDeviceAttester, open_devices
from blindai.attestation.attesters.nvidia import NvidiaAttester, NvmlMissing
from blindai.attestation.result import OpenCheck
from blindai.attestation.simulated.nvidia import SimulatedDevice, SimulatedNvidiaRoot
from blindai.attestation.verifiers.nvidia import verify_device
from blindai.errors import BlindAIError, ConfigurationError, Unavailable

NONCE = bytes(range(32))


class NVMLError(Exception):
    """As pynvml's."""


class FakeNvml:
    """What pynvml gives back, including arrays that are longer than what they hold."""

    NVMLError = NVMLError

    def __init__(self, root: SimulatedNvidiaRoot, count: int = 2) -> None:
        self.devices = [SimulatedDevice(root, number=number) for number in range(count)]
        self.state = SimpleNamespace(environment=2, ccFeature=1, devToolsMode=0)
        self.ready = 1
        self.failing = ""
        self.nonce: Callable[[bytes], bytes] = bytes

    def _called(self, name: str) -> None:
        if self.failing == name:
            raise NVMLError("GPU is lost")

    def nvmlInit(self) -> None:  # noqa: N802 - NVIDIA's name
        self._called("init")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - NVIDIA's name
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> SimulatedDevice:  # noqa: N802 - NVIDIA's name
        return self.devices[index]

    def nvmlSystemGetConfComputeState(self) -> Any:  # noqa: N802 - NVIDIA's name
        self._called("state")
        return self.state

    def nvmlSystemGetConfComputeGpusReadyState(self) -> int:  # noqa: N802 - NVIDIA's name
        return self.ready

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, device: Any, c_nonce: bytes) -> Any:  # noqa: N802 - NVIDIA's name
        self._called("report")
        report = device.attest(self.nonce(c_nonce)).report
        return SimpleNamespace(attestationReportSize=len(report), attestationReport=array(report, 0x2000))

    def nvmlDeviceGetConfComputeGpuCertificate(self, device: Any) -> Any:  # noqa: N802 - NVIDIA's name
        chain = device.attest(NONCE).certificates.encode() + b"\0"
        return SimpleNamespace(attestationCertChainSize=len(chain), attestationCertChain=array(chain, 0x1400))


def array(data: bytes, size: int) -> Any:
    return (ctypes.c_uint8 * size)(*data)


@pytest.fixture(scope="module")
def root() -> SimulatedNvidiaRoot:
    return SimulatedNvidiaRoot.generate()


@pytest.fixture
def nvml(root: SimulatedNvidiaRoot) -> FakeNvml:
    return FakeNvml(root)


def test_what_it_collects_verifies(nvml: FakeNvml, root: SimulatedNvidiaRoot) -> None:
    attester = NvidiaAttester(nvml)
    assert (attester.simulated, attester.quick) == (False, False)
    claims = [
        verify_device(device, anchors=[root.anchor], now=datetime.now(UTC), check=OpenCheck(""))
        for device in attester.attest(NONCE)
    ]
    assert [claim.nonce for claim in claims] == [NONCE, NONCE]
    assert len({claim.id for claim in claims}) == 2


def test_nonce_of_another_length(nvml: FakeNvml) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        NvidiaAttester(nvml).attest(b"short")


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"failing": "init"}, "attester.missing"),
        ({"failing": "state"}, "attester.missing"),
        ({"devices": []}, "attester.missing"),
        ({"state": SimpleNamespace(ccFeature=0, devToolsMode=0)}, "attester.missing"),
        ({"state": SimpleNamespace(ccFeature=1, devToolsMode=1)}, "attester.devtools"),
    ],
)
def test_refused_at_the_start(nvml: FakeNvml, wrong: dict[str, Any], code: str) -> None:
    vars(nvml).update(wrong)
    with pytest.raises(ConfigurationError) as caught:
        NvidiaAttester(nvml)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"ready": 0}, "attester.not_ready"),
        ({"failing": "report"}, "attester.failed"),
        ({"nonce": lambda _: bytes(32)}, "attester.failed"),
    ],
)
def test_refused_later(nvml: FakeNvml, wrong: dict[str, Any], code: str) -> None:
    attester = NvidiaAttester(nvml)
    vars(nvml).update(wrong)
    with pytest.raises(Unavailable) as caught:
        attester.attest(NONCE)
    assert caught.value.code == code


class TestOpening:
    @pytest.fixture
    def installed(self, nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
        monkeypatch.setattr(importlib, "import_module", lambda _: nvml)
        return nvml

    @pytest.fixture
    def not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(name: str) -> None:
            raise builtins.ImportError(name)

        monkeypatch.setattr(importlib, "import_module", fail)

    def test_none(self) -> None:
        assert open_devices("none") is None

    @pytest.mark.parametrize("name", ["nvidia", "auto"])
    def test_found(self, installed: FakeNvml, name: str) -> None:
        assert isinstance(open_devices(name), NvidiaAttester)

    @pytest.mark.usefixtures("not_installed")
    def test_not_installed(self) -> None:
        assert open_devices("auto") is None
        with pytest.raises(NvmlMissing) as caught:
            open_devices("nvidia")
        assert caught.value.code == "attester.missing"
        assert "blindai[gpu]" in caught.value.hint

    def test_auto_refuses_the_developer_mode(self, installed: FakeNvml) -> None:
        installed.state.devToolsMode = 1
        with pytest.raises(ConfigurationError) as caught:
            open_devices("auto")
        assert caught.value.code == "attester.devtools"

    @pytest.mark.parametrize(("name", "count"), [("simulated", 1), ("simulated:3", 3)])
    def test_simulated(self, name: str, count: int, root: SimulatedNvidiaRoot, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(SimulatedNvidiaRoot, "load_or_create", lambda _: root)
        attester = open_devices(name)
        assert isinstance(attester, SimulatedDeviceAttester)
        assert attester.anchor == root.anchor
        assert len(attester.attest(NONCE)) == count

    @pytest.mark.parametrize("name", ["", "gpu", "simulated:", "simulated:0", "simulated:65", "simulated:x"])
    def test_unknown(self, name: str) -> None:
        with pytest.raises(BlindAIError) as caught:
            open_devices(name)
        assert caught.value.code == "attester.unknown_devices"
