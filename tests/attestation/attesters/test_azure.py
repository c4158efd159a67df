from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from tests.attestation import azure

from blindai.attestation.attesters.azure import AzureAttester, InstanceMetadata
from blindai.attestation.evidence import TEE, TpmQuote, committed
from blindai.attestation.result import Checklist
from blindai.attestation.simulated.azure import SimulatedAzure
from blindai.attestation.verifiers import verify
from blindai.errors import AttestationError, Unavailable
from fake_metadata import FakeMetadata, fake_metadata


@pytest.fixture(params=azure.TEES)
def machine(request: pytest.FixtureRequest) -> SimulatedAzure:
    return azure.machine(request.param)


@pytest.fixture
def metadata(machine: SimulatedAzure) -> Iterator[FakeMetadata]:
    with fake_metadata(machine) as server:
        yield server


@pytest.fixture
def attester(machine: SimulatedAzure, metadata: FakeMetadata) -> AzureAttester:
    return AzureAttester(machine, InstanceMetadata("127.0.0.1", metadata.port))


def test_its_evidence_verifies(attester: AzureAttester, machine: SimulatedAzure) -> None:
    evidence = attester.attest(azure.REPORT_DATA)
    assert evidence.tee is attester.tee is machine.tee
    if machine.tee is TEE.AZURE_TDX:
        evidence = replace(evidence, intel_collateral=azure.collateral())
    claims = verify(evidence, anchors=azure.anchors(), now=azure.NOW, checks=Checklist())
    assert claims.report_data == committed(machine.tee, azure.REPORT_DATA)


def test_the_metadata_service_is_asked_once_for_each_report(attester: AzureAttester, metadata: FakeMetadata) -> None:
    first, second = (attester.attest(bytes([number]) * 64) for number in range(2))
    assert first.quote != second.quote
    assert (first.azure, first.amd) == (second.azure, second.amd)
    assert metadata.asked == 1


def test_another_report_is_endorsed_anew(machine: SimulatedAzure, metadata: FakeMetadata) -> None:
    class Rebooting:
        report = machine

        def read_nv(self, index: int) -> bytes:
            return self.report.read_nv(index)

        def quote_with(self, key: int, extra_data: bytes) -> tuple[bytes, TpmQuote]:
            return self.report.quote_with(key, extra_data)

    tpm = Rebooting()
    attester = AzureAttester(tpm, InstanceMetadata("127.0.0.1", metadata.port))
    attester.attest(azure.REPORT_DATA)
    tpm.report = azure.machine(machine.tee, console=False)
    attester.attest(azure.REPORT_DATA)
    assert metadata.asked == 2


@pytest.mark.parametrize("fault", ["status", "words", "empty", "large"])
def test_a_metadata_service_that_fails(attester: AzureAttester, metadata: FakeMetadata, fault: str) -> None:
    metadata.fault = fault
    with pytest.raises(Unavailable) as caught:
        attester.attest(azure.REPORT_DATA)
    assert caught.value.code == "attester.metadata"
    metadata.fault = ""
    attester.attest(azure.REPORT_DATA)


def test_no_metadata_service(machine: SimulatedAzure) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    attester = AzureAttester(machine, InstanceMetadata("127.0.0.1", port))
    with pytest.raises(Unavailable) as caught:
        attester.attest(azure.REPORT_DATA)
    assert caught.value.code == "attester.metadata"
    assert "169.254.169.254" in caught.value.hint


def test_a_tpm_without_a_report_of_azure() -> None:
    class Other:
        def read_nv(self, index: int) -> bytes:
            return bytes(2600)

        def quote_with(self, key: int, extra_data: bytes) -> tuple[bytes, TpmQuote]:
            raise NotImplementedError

    with pytest.raises(AttestationError) as caught:
        AzureAttester(Other(), InstanceMetadata())
    assert caught.value.code == "evidence.hcl"


def test_report_data_of_another_size_is_a_mistake_of_the_caller(attester: AzureAttester) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        attester.attest(bytes(32))
