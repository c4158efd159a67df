"""Composite evidence: a processor with GPUs and switches, from the server through the gate to the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import msgspec
import pytest

from blindai.attestation.anchors import Vendor
from blindai.attestation.attesters.attester import Attester
from blindai.attestation.attesters.devices import SimulatedDeviceAttester
from blindai.attestation.evidence import DeviceEvidence, DeviceKind, Evidence
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.policy import Policy
from blindai.attestation.policy.gpus import GoldenMeasurements, GpuPolicy
from blindai.attestation.result import Mode, Outcome
from blindai.attestation.simulated.nvidia import DeviceFaults, SimulatedDevice, SimulatedNvidiaRoot
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.channel import end as end_module
from blindai.channel import gate
from blindai.channel.end import AttestedEnd
from blindai.channel.statement import NO_DEVICES, device_nonce, devices_digest
from blindai.errors import AttestationError

REPLAYED = bytes(range(32))


@cache
def gpu_root() -> SimulatedNvidiaRoot:
    return SimulatedNvidiaRoot.generate()


@cache
def gpus(count: int = 2, switches: int = 0) -> SimulatedDeviceAttester:
    return SimulatedDeviceAttester(count=count, switches=switches, root=gpu_root())


class Given:
    """A device attester that answers as it is told."""

    simulated = True

    def __init__(self, answer: Callable[[bytes], tuple[DeviceEvidence, ...]], *, quick: bool = True) -> None:
        self.attest = answer
        self.quick = quick


def of(*devices: SimulatedDevice) -> Given:
    return Given(lambda nonce: tuple(device.attest(nonce) for device in devices))


@pytest.fixture
def policy(root: SimulatedRoot) -> Policy:
    roots = {Vendor.INTEL: root.anchor.spki_sha256, Vendor.NVIDIA: gpu_root().anchor.spki_sha256}
    return replace(Policy.simulated(roots, measure_package()), gpus=GpuPolicy(count=2))


@pytest.fixture
def serve(attester: Attester, run_end: Callable[..., Any]) -> Callable[..., Any]:
    def serve(devices: Any, *, kind: type[AttestedEnd] = AttestedEnd) -> Any:
        return run_end(kind(attester, {"name": "test"}, devices=devices))

    return serve


@pytest.fixture
def refused(victim: Any, serve: Callable[..., Any]) -> Callable[..., AttestationError]:
    def refused(devices: Any, gpu_policy: GpuPolicy | None, **options: Any) -> AttestationError:
        victim._policy = replace(victim._policy, gpus=gpu_policy)
        with pytest.raises(AttestationError) as caught:
            victim.attest(serve(devices, **options).address)
        error = caught.value
        assert error.result is not None
        failed = [check for check in error.result.checks if check.outcome is Outcome.FAIL]
        assert (failed[0].step, failed[0].code) == (error.step, error.code)
        return error

    return refused


class TestAccepted:
    def test_two_gpus(self, victim: Any, serve: Callable[..., Any]) -> None:
        enclave = serve(gpus())
        result = victim.attest(enclave.address)
        assert [device.architecture for device in result.devices] == ["hopper", "hopper"]
        assert len({device.id for device in result.devices}) == 2
        assert result.simulated
        names = [check.name for check in result.checks if check.step == "devices"]
        assert names == ["GPUs and switches", "GPU 1", "GPU 2"]
        assert all(result.expires_at <= device.not_after for device in result.devices)
        assert victim.send(enclave.address) == b"ok"

    def test_resumed_with_the_same_devices(self, victim: Any, serve: Callable[..., Any]) -> None:
        enclave = serve(gpus())
        first = victim.attest(enclave.address)
        again = victim.attest(enclave.address)
        assert again.mode is Mode.RESUMED
        assert again.devices == first.devices

    def test_slow_devices(self, victim: Any, serve: Callable[..., Any]) -> None:
        enclave = serve(Given(gpus().attest, quick=False))
        assert len(victim.attest(enclave.address).devices) == 2

    def test_switches_and_golden_measurements(self, victim: Any, serve: Callable[..., Any]) -> None:
        attester = gpus(1, 1)
        golden = tuple(
            GoldenMeasurements(
                architecture=architecture,
                vbios=device.firmware,
                driver=device.driver,
                measurements={2: ("00" * 48, device.measurements()[2])},
            )
            for device, architecture in zip(attester.devices, ("hopper", "ls10"), strict=True)
        )
        victim._policy = replace(victim._policy, gpus=GpuPolicy(minimum=1, switches=1, golden=golden))
        result = victim.attest(serve(attester).address)
        assert [device.kind for device in result.devices] == [DeviceKind.NVIDIA_GPU, DeviceKind.NVIDIA_SWITCH]
        uses = {item.use for check in result.checks if check.step == "devices" for item in check.ranges}
        assert {"nonce, compared", "measurement 2, compared"} <= uses

    @pytest.mark.parametrize("none_required", [None, GpuPolicy(minimum=0), GpuPolicy(count=0)])
    def test_no_devices_where_none_are_required(
        self, victim: Any, serve: Callable[..., Any], none_required: GpuPolicy | None
    ) -> None:
        victim._policy = replace(victim._policy, gpus=none_required)
        result = victim.attest(serve(None).address)
        (check,) = [check for check in result.checks if check.step == "devices"]
        assert check.outcome is Outcome.SKIP

    def test_the_simulation_takes_any_number(self, root: SimulatedRoot) -> None:
        roots = {Vendor.INTEL: root.anchor.spki_sha256}
        assert Policy.simulated(roots, measure_package()).gpus is None
        roots[Vendor.NVIDIA] = gpu_root().anchor.spki_sha256
        assert Policy.simulated(roots, measure_package()).gpus == GpuPolicy(minimum=0)


class TestCount:
    @pytest.mark.parametrize(
        ("count", "switches", "gpu_policy", "code"),
        [
            (3, 0, GpuPolicy(count=2), "devices.extra"),
            (1, 0, GpuPolicy(count=2), "devices.missing"),
            (1, 0, GpuPolicy(minimum=2), "devices.missing"),
            (1, 1, GpuPolicy(count=1), "devices.extra"),
            (1, 0, GpuPolicy(count=1, switches=1), "devices.missing"),
            (1, 0, None, "devices.unexpected"),
        ],
    )
    def test_refused(self, refused: Any, count: int, switches: int, gpu_policy: GpuPolicy | None, code: str) -> None:
        error = refused(gpus(count, switches), gpu_policy)
        assert (error.step, error.code) == ("devices", code)

    def test_none_where_some_are_required(self, refused: Any) -> None:
        error = refused(None, GpuPolicy(count=2))
        assert (error.step, error.code) == ("devices", "devices.missing")

    def test_more_than_any_machine_has(self, refused: Any) -> None:
        many = Given(lambda nonce: gpus(1).attest(nonce) * 65)
        error = refused(many, GpuPolicy(minimum=1))
        assert (error.step, error.code) == ("devices", "devices.extra")
        assert error.result.devices == ()


class TestEach:
    @pytest.mark.parametrize(
        ("settings", "gpu_policy", "code"),
        [
            ({"chip": "GB100"}, GpuPolicy(count=1, architectures=("hopper",)), "devices.architecture"),
            ({}, GpuPolicy(count=1, drivers=("570.1",)), "devices.driver"),
            ({"driver": ""}, GpuPolicy(count=1, drivers=("570.1",)), "devices.driver"),
            ({}, GpuPolicy(count=1, vbios=("96.00.9F.00.02",)), "devices.vbios"),
            ({"mode": 2}, GpuPolicy(count=1, modes=("single", "multi")), "devices.mode"),
            ({"faults": DeviceFaults(nonce=REPLAYED)}, GpuPolicy(count=1), "devices.nonce"),
            ({"faults": DeviceFaults(unsigned=True)}, GpuPolicy(count=1), "devices.signature"),
        ],
    )
    def test_refused(self, refused: Any, settings: Any, gpu_policy: GpuPolicy, code: str) -> None:
        error = refused(of(SimulatedDevice(gpu_root(), **settings)), gpu_policy)
        assert (error.step, error.code) == ("devices", code)

    def test_one_gpu_twice(self, refused: Any) -> None:
        one = SimulatedDevice(gpu_root())
        error = refused(of(one, one), GpuPolicy(count=2))
        assert (error.step, error.code) == ("devices", "devices.duplicate")

    def test_a_recorded_report(self, refused: Any) -> None:
        recorded = gpus().attest(REPLAYED)
        error = refused(Given(lambda _: recorded), GpuPolicy(count=2))
        assert (error.step, error.code) == ("devices", "devices.nonce")

    @pytest.mark.parametrize(
        "golden",
        [
            GoldenMeasurements(architecture="hopper", vbios="96.00.9F.00.02", measurements={1: ("00" * 48,)}),
            GoldenMeasurements(architecture="hopper", vbios="96.00.9F.00.01", measurements={1: ("00" * 48,)}),
            GoldenMeasurements(architecture="hopper", vbios="96.00.9F.00.01", measurements={99: ("00" * 48,)}),
            GoldenMeasurements(
                architecture="hopper", vbios="96.00.9F.00.01", driver="570.1", measurements={1: ("00" * 48,)}
            ),
        ],
    )
    def test_other_measurements(self, refused: Any, golden: GoldenMeasurements) -> None:
        error = refused(gpus(1), GpuPolicy(count=1, golden=(golden,)))
        assert (error.step, error.code) == ("devices", "devices.measurement")

    def test_simulated_gpus_under_a_real_processor(self, victim: Any, serve: Callable[..., Any]) -> None:
        from blindai.attestation.appraisal.devices import appraise_devices
        from blindai.attestation.result import Checklist

        real = Policy(accepted_tees=victim._policy.accepted_tees, code=victim._policy.code, gpus=GpuPolicy(count=1))
        refusals: list[AttestationError] = []
        checks = Checklist()
        now = victim.party("x").now()
        nonce = bytes(32)
        found = appraise_devices(
            gpus(1).attest(nonce), policy=real, nonce=nonce, now=now, checks=checks, refusals=refusals
        )
        assert [error.code for error in refusals] == ["devices.anchor"]
        assert found == ()

    def test_a_nonce_is_required(self, policy: Policy, victim: Any) -> None:
        from blindai.attestation.appraisal.devices import appraise_devices
        from blindai.attestation.result import Checklist

        refusals: list[AttestationError] = []
        appraise_devices(
            gpus(2).attest(bytes(32)),
            policy=policy,
            nonce=None,
            now=victim.party("x").now(),
            checks=Checklist(),
            refusals=refusals,
        )
        assert {(error.step, error.code) for error in refusals} == {("devices", "devices.nonce")}


class SwappingEnd(AttestedEnd):
    """Lets the processor vouch for two GPUs, and sends the evidence of two others."""

    def _fresh_answer(self, *args: Any, **options: Any) -> bytes:
        answer = msgspec.json.decode(super()._fresh_answer(*args, **options))
        nonce = device_nonce(
            bytes.fromhex(answer["statement"]["nonce"]), bytes.fromhex(answer["statement"]["spki_sha256"])
        )
        evidence = Evidence.decode(msgspec.json.encode(answer["evidence"]))
        others = SimulatedDeviceAttester(count=2, root=gpu_root()).attest(nonce)
        swapped = msgspec.structs.replace(evidence, devices=others)
        return gate.encoder.encode(answer | {"evidence": msgspec.Raw(swapped.encode())})


class TestBinding:
    def test_swapped_evidence(self, refused: Any) -> None:
        error = refused(gpus(), GpuPolicy(count=2), kind=SwappingEnd)
        assert (error.step, error.code) == ("binding", "binding.devices")

    def test_forgotten_devices_are_attested_anew(
        self, victim: Any, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(end_module, "MAX_RESUMABLE", 1)
        enclave = serve(gpus())
        victim.attest(enclave.address)
        victim.attest(enclave.address, resume=False)
        party = victim.party(enclave.address)
        statement = msgspec.structs.replace(party.remembered.transcript.statement, devices_digest="00" * 32)
        transcript = msgspec.structs.replace(party.remembered.transcript, statement=statement)
        party.remembered = msgspec.structs.replace(party.remembered, transcript=transcript)
        assert victim.attest(enclave.address).mode is Mode.FRESH

    def test_digest_covers_every_part(self) -> None:
        (device,) = gpus(1).attest(REPLAYED)
        changed = [
            (),
            (device, device),
            (msgspec.structs.replace(device, kind=DeviceKind.NVIDIA_SWITCH),),
            (msgspec.structs.replace(device, report=device.report + b"\0"),),
            (msgspec.structs.replace(device, certificates=device.certificates + "\n"),),
        ]
        digests = {devices_digest(devices) for devices in [(device,), *changed]}
        assert len(digests) == 6
        assert NO_DEVICES in digests

    def test_nonce_follows_the_connection(self) -> None:
        import hashlib

        assert device_nonce(b"n" * 32, b"k" * 32) == hashlib.sha256(b"gpu" + b"n" * 32 + b"k" * 32).digest()
