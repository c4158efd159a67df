"""Each platform from its fake kernel up: found, served on, attested by a client over TLS, used for a prediction."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec
import numpy as np
import onnx
import pytest

from blindai import AttestationError, Connection
from blindai.attestation.anchors import Vendor
from blindai.attestation.attesters.attester import Attester
from blindai.attestation.attesters.detection import detect
from blindai.attestation.attesters.files import Files
from blindai.attestation.attesters.gramine import FOLDER
from blindai.attestation.attesters.opening import open_attester
from blindai.attestation.attesters.platform import Platform
from blindai.attestation.attesters.tsm import REPORTS
from blindai.attestation.evidence import TEE, Evidence
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.policy import Policy
from blindai.attestation.simulated.amd import SimulatedAmd
from blindai.attestation.simulated.amd_root import SimulatedAmdRoot
from blindai.attestation.simulated.intel import SimulatedIntel
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.channel.end import AttestedEnd
from blindai.enclave.config import EnclaveConfig
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.errors import Unavailable
from enclave_server import RunningServer, node_model
from fake_gramine import FakeGramine
from fake_machine import FakeMachine
from fake_tsm import FakeTsm, SevGuest, TdxGuest, TsmFaults

ADDER = node_model(onnx.helper.make_node("Add", ["x", "one"], ["y"]), one=np.ones(1, np.float32))
TEES = {Platform.TDX: TEE.INTEL_TDX, Platform.SEV_SNP: TEE.AMD_SEV_SNP, Platform.SGX: TEE.INTEL_SGX}


class Stapled:
    """An attester with Intel's collateral beside its quotes. It keeps the threads in which it was asked."""

    simulated = False
    quick = False

    def __init__(self, inner: Attester, processor: SimulatedIntel | SimulatedAmd) -> None:
        self.tee = inner.tee
        self.threads: set[int] = set()
        self._inner = inner
        self._processor = processor

    def attest(self, report_data: bytes) -> Evidence:
        self.threads.add(threading.get_ident())
        evidence = self._inner.attest(report_data)
        if isinstance(self._processor, SimulatedIntel):
            return msgspec.structs.replace(evidence, intel_collateral=self._processor.collateral())
        return evidence


@dataclass(frozen=True)
class Machine:
    """A computer with one platform: its files, its processor, and a server on it."""

    platform: Platform
    files: Files
    processor: SimulatedIntel | SimulatedAmd
    policy: Policy

    def serve(self, *, stapled: bool = True) -> tuple[RunningServer, Attester]:
        attester = open_attester(detect(self.files).platform, files=self.files)
        if stapled:
            attester = Stapled(attester, self.processor)
        config = EnclaveConfig()
        end = AttestedEnd(attester, msgspec.to_builtins(config))
        return RunningServer(config, OnnxRuntimeEngine(), simulated=attester.simulated, end=end), attester

    @property
    def kernel(self) -> FakeTsm:
        assert isinstance(self.files, FakeMachine)
        kernel = self.files.mounted(REPORTS)
        assert isinstance(kernel, FakeTsm)
        return kernel

    def connect(self, server: RunningServer) -> Connection:
        return Connection(f"https://127.0.0.1:{server.port}", policy=self.policy, progress=False)


@pytest.fixture(scope="module")
def roots() -> tuple[SimulatedRoot, SimulatedAmdRoot]:
    return SimulatedRoot.generate(), SimulatedAmdRoot.generate()


@pytest.fixture(params=TEES)
def machine(request: pytest.FixtureRequest, roots: tuple[SimulatedRoot, SimulatedAmdRoot]) -> Machine:
    return machine_of(request.param, roots)


def machine_of(platform: Platform, roots: tuple[SimulatedRoot, SimulatedAmdRoot]) -> Machine:
    intel, amd = roots
    tee = TEES[platform]
    processor: SimulatedIntel | SimulatedAmd
    mounts: dict[str, Files]
    if platform is Platform.SEV_SNP:
        processor = SimulatedAmd(amd, measurements=measure_package(tee=tee))
        mounts = {REPORTS: FakeTsm(SevGuest(processor))}
    else:
        processor = SimulatedIntel(intel, tee=tee, measurements=measure_package(tee=tee))
        mounts = (
            {FOLDER: FakeGramine(processor)} if platform is Platform.SGX else {REPORTS: FakeTsm(TdxGuest(processor))}
        )
    anchors = {Vendor.INTEL: intel.anchor.spki_sha256, Vendor.AMD: amd.anchor.spki_sha256}
    return Machine(platform, FakeMachine(mounts=mounts), processor, Policy.simulated(anchors, measure_package()))


Serve = Callable[..., tuple[RunningServer, Attester]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves on a machine until the test has ended."""
    running: list[RunningServer] = []

    def serve(machine: Machine, *, stapled: bool = True) -> tuple[RunningServer, Attester]:
        server, attester = machine.serve(stapled=stapled)
        running.append(server)
        return server, attester

    yield serve
    for server in running:
        server.stop()


def test_a_client_attests_it_and_predicts(machine: Machine, serve: Serve) -> None:
    server, attester = serve(machine)
    with machine.connect(server) as client:
        client.upload_model(ADDER, model_id="acme/adder")
        prediction = client.predict("acme/adder", np.array([[1, 2]], np.float32))
        np.testing.assert_array_equal(prediction.output[0].as_numpy(), [[2, 3]])
        result = client.attestation
    assert result.claims is not None
    assert result.claims.tee is TEES[machine.platform]
    assert isinstance(attester, Stapled)
    loop = server.call(threading.get_ident)
    assert attester.threads - {loop, threading.get_ident()}, "evidence for a connection is made beside the event loop"
    if machine.platform is not Platform.SGX:
        assert machine.kernel.entries == 0


def test_many_clients_at_once(machine: Machine, serve: Serve) -> None:
    server, _ = serve(machine)

    def attest(_: int) -> TEE:
        with machine.connect(server) as client:
            assert client.attestation.claims is not None
            return client.attestation.claims.tee

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(attest, range(16))) == {TEES[machine.platform]}


@pytest.mark.parametrize("platform", [Platform.TDX, Platform.SGX])
def test_a_quote_alone_is_refused_for_lack_of_collateral(
    platform: Platform, roots: tuple[SimulatedRoot, SimulatedAmdRoot], serve: Serve
) -> None:
    machine = machine_of(platform, roots)
    server, _ = serve(machine, stapled=False)
    with pytest.raises(AttestationError) as caught:
        machine.connect(server)
    assert (caught.value.code, caught.value.step) == ("endorsements.missing", "endorsements")


def test_other_code_is_refused(machine: Machine, roots: tuple[SimulatedRoot, SimulatedAmdRoot], serve: Serve) -> None:
    server, _ = serve(machine)
    registers = {name: "ab" * (len(value) // 2) for name, value in measure_package().items()}
    anchors = {Vendor.INTEL: roots[0].anchor.spki_sha256, Vendor.AMD: roots[1].anchor.spki_sha256}
    with pytest.raises(AttestationError) as caught:
        Connection(f"https://127.0.0.1:{server.port}", policy=Policy.simulated(anchors, registers))
    assert (caught.value.code, caught.value.step) == ("code.unknown", "code")


@pytest.mark.parametrize("platform", [Platform.TDX, Platform.SEV_SNP])
def test_while_the_kernel_fails_the_gate_stays_shut_and_then_opens_again(
    platform: Platform, roots: tuple[SimulatedRoot, SimulatedAmdRoot], serve: Serve
) -> None:
    machine = machine_of(platform, roots)
    server, _ = serve(machine)
    machine.kernel.faults = TsmFaults(read={"outblob": [errno.EIO]})
    with pytest.raises(AttestationError) as caught:
        machine.connect(server)
    assert (caught.value.code, caught.value.step) == ("channel.not_attested", "channel")
    assert "gate.no_evidence" in caught.value.got
    with machine.connect(server) as client:
        assert client.server().name == "blindai"


@pytest.mark.parametrize("platform", [Platform.TDX, Platform.SEV_SNP])
def test_another_writer_in_the_guest_does_not_get_its_evidence_sent(
    platform: Platform, roots: tuple[SimulatedRoot, SimulatedAmdRoot], serve: Serve
) -> None:
    machine = machine_of(platform, roots)
    server, _ = serve(machine)
    machine.kernel.faults = TsmFaults(other_writer=1)
    with machine.connect(server) as client:
        assert client.server().name == "blindai"
    assert machine.kernel.entries == 0


def test_nothing_is_served_where_evidence_cannot_be_had(roots: tuple[SimulatedRoot, SimulatedAmdRoot]) -> None:
    machine = machine_of(Platform.TDX, roots)
    machine.kernel.faults = TsmFaults(read={"outblob": [errno.EIO]})
    with pytest.raises(Unavailable) as caught:
        machine.serve()
    assert caught.value.code == "attester.failed"
