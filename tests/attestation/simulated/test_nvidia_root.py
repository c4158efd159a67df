"""The root of simulated NVIDIA devices, and what asks too much of a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from blindai.attestation.anchors import Vendor
from blindai.attestation.attesters.devices import SimulatedDeviceAttester
from blindai.attestation.measure.local import local_policy
from blindai.attestation.policy.gpus import GpuPolicy
from blindai.attestation.simulated.nvidia import SimulatedDevice, SimulatedNvidiaRoot


def test_kept(tmp_path: Path) -> None:
    assert SimulatedNvidiaRoot.load(tmp_path) is None
    attester = SimulatedDeviceAttester(directory=tmp_path)
    kept = SimulatedNvidiaRoot.load(tmp_path)
    assert kept is not None
    assert kept.anchor == attester.anchor
    assert (tmp_path / "nvidia-root.pem").stat().st_mode & 0o777 == 0o600


def test_keys_of_two_roots() -> None:
    one, other = SimulatedNvidiaRoot.generate(), SimulatedNvidiaRoot.generate()
    mixed = SimulatedNvidiaRoot(one.key, other.certificate).to_pem()
    with pytest.raises(ValueError, match="belong together"):
        SimulatedNvidiaRoot.from_pem(mixed)


def test_local_policy_accepts_the_devices_once_there_are_any(tmp_path: Path) -> None:
    assert local_policy(tmp_path).gpus is None
    anchor = SimulatedDeviceAttester(directory=tmp_path).anchor
    policy = local_policy(tmp_path)
    assert policy.gpus == GpuPolicy(minimum=0)
    assert policy.simulated_roots[Vendor.NVIDIA] == anchor.spki_sha256


def test_nonce_of_another_length() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SimulatedDevice(SimulatedNvidiaRoot.generate()).attest(b"short")
