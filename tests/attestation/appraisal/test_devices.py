"""What no policy of ours can lead to, and is refused nevertheless."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from blindai.attestation.anchors import Anchor, Vendor
from blindai.attestation.appraisal.devices import appraise_devices
from blindai.attestation.attesters.devices import SimulatedDeviceAttester
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.policy import Policy
from blindai.attestation.policy.gpus import GpuPolicy
from blindai.attestation.result import Checklist
from blindai.attestation.simulated.nvidia import SimulatedNvidiaRoot
from blindai.errors import AttestationError


def test_simulated_devices_on_a_root_that_is_trusted_as_hardware() -> None:
    root = SimulatedNvidiaRoot.generate()

    class Careless(Policy):
        def anchors(self) -> tuple[Anchor, ...]:
            return (root.anchor,)

    simulated = Policy.simulated({Vendor.INTEL: "ab" * 32}, measure_package())
    policy = Careless(accepted_tees=simulated.accepted_tees, code=simulated.code, gpus=GpuPolicy(count=1))
    refusals: list[AttestationError] = []
    nonce = bytes(32)
    devices = appraise_devices(
        SimulatedDeviceAttester(root=root).attest(nonce),
        policy=policy,
        nonce=nonce,
        now=datetime.now(UTC),
        checks=Checklist(),
        refusals=refusals,
    )
    assert [(error.step, error.code) for error in refusals] == [("devices", "devices.simulated")]
    assert devices[0].simulated


def test_ranges_name_the_device() -> None:
    root = SimulatedNvidiaRoot.generate()
    simulated = Policy.simulated({Vendor.INTEL: "ab" * 32, Vendor.NVIDIA: root.anchor.spki_sha256}, measure_package())
    checks = Checklist()
    appraise_devices(
        SimulatedDeviceAttester(root=root, count=2).attest(bytes(32)),
        policy=replace(simulated, gpus=GpuPolicy(count=2)),
        nonce=bytes(32),
        now=datetime.now(UTC),
        checks=checks,
        refusals=[],
    )
    assert [{item.of for item in check.ranges} for check in checks.checks] == [
        set(),
        {"devices.0.report"},
        {"devices.1.report"},
    ]
