"""Gramine's pseudo-files: what comes out of them, and each thing that can go wrong in them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.attestation.simulation import REPORT_DATA

from blindai.attestation.attesters.attester import Attester
from blindai.attestation.attesters.gramine import FOLDER, GramineAttester
from blindai.attestation.evidence import TEE
from blindai.attestation.simulated.intel import SimulatedIntel
from blindai.errors import BlindAIError, ConfigurationError, Unavailable
from fake_gramine import FakeGramine, GramineFaults
from fake_machine import FakeMachine


def refused(files: FakeGramine | FakeMachine, kind: type[BlindAIError], code: str) -> BlindAIError:
    with pytest.raises(BlindAIError) as caught:
        GramineAttester(files=files).attest(REPORT_DATA)
    assert (type(caught.value), caught.value.code) == (kind, code)
    return caught.value


def test_an_sgx_quote_comes_alone(sgx: SimulatedIntel) -> None:
    attester: Attester = GramineAttester(files=FakeGramine(sgx))
    evidence = attester.attest(REPORT_DATA)
    assert evidence.tee is attester.tee is TEE.INTEL_SGX
    assert REPORT_DATA in evidence.quote
    assert evidence.intel_collateral is None
    assert (attester.simulated, attester.quick) == (False, False)


@pytest.mark.parametrize("padding", [1, 3000])
def test_zeros_after_the_quote_are_cut_off(sgx: SimulatedIntel, padding: int) -> None:
    evidence = GramineAttester(files=FakeGramine(sgx, faults=GramineFaults(padding=bytes(padding)))).attest(REPORT_DATA)
    assert len(evidence.quote) == len(sgx.quote(REPORT_DATA))


def test_other_bytes_after_the_quote(sgx: SimulatedIntel) -> None:
    refused(FakeGramine(sgx, faults=GramineFaults(padding=b"x")), Unavailable, "attester.quote")


@pytest.mark.parametrize(
    "faults",
    [GramineFaults(stale=True), GramineFaults(other_writer=True), GramineFaults(short=63), GramineFaults(short=0)],
    ids=["stale", "other writer", "one byte lost", "all bytes lost"],
)
def test_a_quote_over_other_report_data(sgx: SimulatedIntel, faults: GramineFaults) -> None:
    files = FakeGramine(sgx, faults=faults)
    with pytest.raises(Unavailable, match="another request") as caught:
        GramineAttester(files=files).attest(b"\x01" * 64)
    assert caught.value.code == "attester.stale"


def test_a_quote_of_another_tee(sgx: SimulatedIntel, tdx: SimulatedIntel) -> None:
    faults = GramineFaults(quote=tdx.quote(REPORT_DATA))
    refused(FakeGramine(sgx, faults=faults), Unavailable, "attester.quote")


@pytest.mark.parametrize("quote", [b"", b"x", bytes(8192)])
def test_no_quote_in_the_file(sgx: SimulatedIntel, quote: bytes) -> None:
    refused(FakeGramine(sgx, faults=GramineFaults(quote=quote)), Unavailable, "attester.quote")


def test_the_quoting_service_does_not_answer(sgx: SimulatedIntel) -> None:
    error = refused(FakeGramine(sgx, faults=GramineFaults(no_quote=True)), ConfigurationError, "attester.denied")
    assert "quoting service" in error.hint


@pytest.mark.parametrize("kind", ["none", "epid", ""])
def test_another_type_of_attestation(sgx: SimulatedIntel, kind: str) -> None:
    error = refused(FakeGramine(sgx, kind=kind), ConfigurationError, "attester.attestation_type")
    assert 'sgx.remote_attestation = "dcap"' in error.hint


def test_the_machine_has_no_gramine() -> None:
    error = refused(FakeMachine(), ConfigurationError, "attester.missing")
    assert "gramine-sgx" in error.hint


def test_report_data_of_another_size_is_a_mistake_of_the_caller(sgx: SimulatedIntel) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        GramineAttester(files=FakeGramine(sgx)).attest(bytes(65))


def test_threads_wait_for_each_other_even_with_attesters_of_their_own(sgx: SimulatedIntel) -> None:
    files = FakeGramine(sgx)
    asked = [os.urandom(64) for _ in range(40)]
    with ThreadPoolExecutor(8) as threads:
        evidence = list(threads.map(lambda report_data: GramineAttester(files=files).attest(report_data), asked))
    assert all(report_data in given.quote for report_data, given in zip(asked, evidence, strict=True))
    assert files.overlaps == 0


def test_the_fake_keeps_report_data_as_gramine_does(sgx: SimulatedIntel) -> None:
    files = FakeGramine(sgx)
    assert files.listdir(FOLDER)[0] == "attestation_type"
    files.write(f"{FOLDER}/user_report_data", b"\x01\x02")
    assert b"\x01\x02" + bytes(62) in files.read(f"{FOLDER}/quote")
    files.write(f"{FOLDER}/user_report_data", b"\x03" * 100)
    assert b"\x03" * 64 + files.read(f"{FOLDER}/user_report_data") in files.read(f"{FOLDER}/quote")
    with pytest.raises(PermissionError):
        files.write(f"{FOLDER}/quote", b"")
