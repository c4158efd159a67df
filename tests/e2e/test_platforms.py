"""Each platform from its fake kernel up: found, served on, attested by a client over TLS, used for a prediction.

Endorsements come over HTTP from a fake of each maker's service, as on a real machine.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from blindai import AttestationError, Connection
from blindai.attestation.anchors import Vendor
from blindai.attestation.attesters.attester import Attester
from blindai.attestation.attesters.azure import AzureAttester, InstanceMetadata
from blindai.attestation.attesters.detection import detect
from blindai.attestation.attesters.files import Files
from blindai.attestation.attesters.gramine import FOLDER
from blindai.attestation.attesters.opening import bare, stapled
from blindai.attestation.attesters.tsm import REPORTS
from blindai.attestation.evidence import TEE, Evidence
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.policy import Policy
from blindai.attestation.policy.reference_values import CODE_FORMS, CodeReference
from blindai.attestation.simulated.amd import SimulatedAmd
from blindai.attestation.simulated.amd_root import SimulatedAmdRoot
from blindai.attestation.simulated.azure import SimulatedAzure
from blindai.attestation.simulated.intel import SimulatedIntel
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.attestation.simulated.tpm import SimulatedTpm
from blindai.attestation.simulated.tpm_certificates import SimulatedTpmRoot
from blindai.channel.end import AttestedEnd
from blindai.enclave.config import EnclaveConfig
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.errors import Unavailable
from collateral_services import Service, kds, pccs, serving
from enclave_server import RunningServer, node_model
from fake_gramine import FakeGramine
from fake_machine import FakeMachine
from fake_metadata import fake_metadata
from fake_tsm import FakeTsm, SevGuest, TdxGuest, TsmFaults

ADDER = node_model(onnx.helper.make_node("Add", ["x", "one"], ["y"]), one=np.ones(1, np.float32))
GUESTS = (TEE.INTEL_TDX, TEE.AMD_SEV_SNP)
TEES = (*GUESTS, TEE.INTEL_SGX, TEE.AZURE_SEV_SNP, TEE.AZURE_TDX)


class Watched:
    """An attester that keeps the threads in which it was asked."""

    simulated = False
    quick = False

    def __init__(self, inner: Attester) -> None:
        self.tee = inner.tee
        self.threads: set[int] = set()
        self._inner = inner

    def attest(self, report_data: bytes) -> Evidence:
        self.threads.add(threading.get_ident())
        return self._inner.attest(report_data)


@dataclass(frozen=True)
class Machine:
    """A computer with one platform, and the service that endorses it."""

    attester: Watched
    service: Service
    measurements: Mapping[str, str]
    roots: Mapping[Vendor, str]
    kernel: FakeTsm | None = None

    @property
    def tee(self) -> TEE:
        return self.attester.tee

    def policy(self, measurements: Mapping[str, str] | None = None) -> Policy:
        """What accepts this machine alone, or others like it."""
        return Policy(
            accepted_tees=(self.tee,),
            code=(CodeReference.of("this", self.tee, measurements or self.measurements),),
            allow_simulated=True,
            simulated_roots=self.roots,
        )


@dataclass(frozen=True)
class Roots:
    """The makers."""

    intel: SimulatedRoot
    amd: SimulatedAmdRoot
    tpm: SimulatedTpmRoot


Boot = Callable[[TEE], Machine]
Serve = Callable[..., RunningServer]


@pytest.fixture(scope="module")
def roots() -> Roots:
    return Roots(SimulatedRoot.generate(), SimulatedAmdRoot.generate(), SimulatedTpmRoot.generate())


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def boot(roots: Roots, stack: ExitStack) -> Boot:
    """Starts a machine, which runs until the test has ended."""

    def boot(tee: TEE) -> Machine:
        processor: SimulatedIntel | SimulatedAmd
        if tee in {TEE.AMD_SEV_SNP, TEE.AZURE_SEV_SNP}:
            processor = SimulatedAmd(roots.amd, measurements=measure_package(tee=TEE.AMD_SEV_SNP))
            service = stack.enter_context(serving(kds(processor)))
        else:
            kind = TEE.INTEL_SGX if tee is TEE.INTEL_SGX else TEE.INTEL_TDX
            processor = SimulatedIntel(roots.intel, tee=kind, measurements=measure_package(tee=kind))
            service = stack.enter_context(serving(pccs(processor)))
        anchors = {Vendor.INTEL: roots.intel.anchor.spki_sha256, Vendor.AMD: roots.amd.anchor.spki_sha256}
        if tee in {TEE.AZURE_SEV_SNP, TEE.AZURE_TDX}:
            attester, measurements = azure(processor)
            return Machine(Watched(attester), service, measurements, anchors)
        mounts: dict[str, Files]
        kernel = None
        if isinstance(processor, SimulatedIntel) and tee is TEE.INTEL_SGX:
            mounts = {FOLDER: FakeGramine(processor)}
        else:
            kernel = FakeTsm(TdxGuest(processor) if isinstance(processor, SimulatedIntel) else SevGuest(processor))
            mounts = {REPORTS: kernel}
        files = FakeMachine(mounts=mounts)
        attester = bare(detect(files).platform, files=files)
        return Machine(Watched(attester), service, measure_package(), anchors, kernel)

    def azure(processor: SimulatedIntel | SimulatedAmd) -> tuple[Attester, Mapping[str, str]]:
        tpm = SimulatedTpm(roots.tpm, ak="rsa")
        tpm.boot()
        machine = SimulatedAzure(processor, tpm)
        metadata = stack.enter_context(fake_metadata(machine))
        attester = AzureAttester(machine, InstanceMetadata("127.0.0.1", metadata.port))
        return attester, {f"pcr{index}": tpm.pcrs[index].hex() for index in (4, 9)}

    return boot


@pytest.fixture
def serve(stack: ExitStack, tmp_path: Path) -> Serve:
    """Serves on a machine until the test has ended."""

    def serve(machine: Machine, *, endorsed: bool = True) -> RunningServer:
        attester: Attester = machine.attester
        if endorsed:
            attester = stack.enter_context(stapled(attester, url=machine.service.url, directory=tmp_path))
        config = EnclaveConfig()
        end = AttestedEnd(attester, msgspec.to_builtins(config))
        server = RunningServer(config, OnnxRuntimeEngine(), simulated=attester.simulated, end=end)
        stack.callback(server.stop)
        return server

    return serve


def connect(server: RunningServer, policy: Policy) -> Connection:
    return Connection(f"https://127.0.0.1:{server.port}", policy=policy, progress=False)


@pytest.mark.parametrize("tee", TEES)
def test_a_client_attests_it_and_predicts(tee: TEE, boot: Boot, serve: Serve) -> None:
    machine = boot(tee)
    server = serve(machine)
    before = set(machine.attester.threads)
    with connect(server, machine.policy()) as client:
        client.upload_model(ADDER, model_id="acme/adder")
        prediction = client.predict("acme/adder", np.array([[1, 2]], np.float32))
        np.testing.assert_array_equal(prediction.output[0].as_numpy(), [[2, 3]])
        result = client.attestation
    assert result.claims is not None
    assert result.claims.tee is tee
    asked = machine.attester.threads - before
    assert asked, "the connection got evidence of its own"
    assert server.call(threading.get_ident) not in asked, "the event loop does not wait for hardware"
    if machine.kernel is not None:
        assert machine.kernel.entries == 0


@pytest.mark.parametrize("tee", TEES)
def test_other_code_is_refused(tee: TEE, boot: Boot, serve: Serve) -> None:
    machine = boot(tee)
    server = serve(machine)
    pinned = CODE_FORMS[tee][0].registers
    other = {name: "ab" * (len(machine.measurements[name]) // 2) for name in pinned}
    with pytest.raises(AttestationError) as caught:
        connect(server, machine.policy(other))
    assert (caught.value.code, caught.value.step) == ("code.unknown", "code")


@pytest.mark.parametrize("tee", TEES)
def test_without_endorsements_it_is_refused(tee: TEE, boot: Boot, serve: Serve) -> None:
    machine = boot(tee)
    if tee is TEE.AMD_SEV_SNP:  # its host hands them out
        assert machine.kernel is not None
        machine.kernel._provider._table = b""  # type: ignore[union-attr]  # it is a SevGuest
    with pytest.raises(AttestationError) as caught:
        connect(serve(machine, endorsed=False), machine.policy())
    # Azure's metadata service gives the certificates of an AMD processor, but no revocation list.
    missing = ("tcb.crl", "tcb") if tee is TEE.AZURE_SEV_SNP else ("endorsements.missing", "endorsements")
    assert (caught.value.code, caught.value.step) == missing


@pytest.mark.parametrize("tee", GUESTS)
def test_while_the_kernel_fails_the_gate_stays_shut_and_then_opens_again(tee: TEE, boot: Boot, serve: Serve) -> None:
    machine = boot(tee)
    server = serve(machine)
    assert machine.kernel is not None
    machine.kernel.faults = TsmFaults(read={"outblob": [errno.EIO]})
    with pytest.raises(AttestationError) as caught:
        connect(server, machine.policy())
    assert (caught.value.code, caught.value.step) == ("channel.not_attested", "channel")
    assert "gate.no_evidence" in caught.value.got
    with connect(server, machine.policy()) as client:
        assert client.server().name == "blindai"


@pytest.mark.parametrize("tee", GUESTS)
def test_another_writer_in_the_guest_does_not_get_its_evidence_sent(tee: TEE, boot: Boot, serve: Serve) -> None:
    machine = boot(tee)
    server = serve(machine)
    assert machine.kernel is not None
    machine.kernel.faults = TsmFaults(other_writer=1)
    with connect(server, machine.policy()) as client:
        assert client.server().name == "blindai"
    assert machine.kernel.entries == 0


def test_nothing_is_served_where_evidence_cannot_be_had(boot: Boot, serve: Serve) -> None:
    machine = boot(TEE.INTEL_TDX)
    assert machine.kernel is not None
    machine.kernel.faults = TsmFaults(read={"outblob": [errno.EIO]})
    with pytest.raises(Unavailable) as caught:
        serve(machine)
    assert caught.value.code == "attester.failed"


def test_nothing_is_served_where_endorsements_cannot_be_had(boot: Boot, serve: Serve) -> None:
    machine = boot(TEE.INTEL_SGX)
    machine.service.url += "/elsewhere"
    with pytest.raises(Unavailable) as caught:
        serve(machine)
    assert caught.value.code == "collateral.missing"
