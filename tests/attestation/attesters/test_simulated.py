from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.attestation import simulation
from tests.attestation.simulation import REPORT_DATA, accepted, refused

from blindai.attestation.attesters.attester import Attester
from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.evidence import TEE
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.simulated.intel import Faults
from blindai.attestation.simulated.root import SimulatedRoot


def now() -> datetime:
    return datetime.now(UTC)


@pytest.mark.parametrize(("tee", "version"), [(TEE.INTEL_SGX, 3), (TEE.INTEL_TDX, 4), (TEE.INTEL_TDX, 5)])
def test_it_attests_the_package_that_runs(tee: TEE, version: int) -> None:
    attester = SimulatedAttester(tee=tee, quote_version=version, root=SimulatedRoot.generate())
    claims = accepted(attester.attest(REPORT_DATA), anchors=(attester.anchor,), now=now())
    assert claims.tee is attester.tee is tee
    assert claims.simulated
    assert attester.simulated
    assert claims.report_data == REPORT_DATA
    assert measure_package(tee=tee).items() <= claims.measurements.items()


def test_it_is_an_attester() -> None:
    attester: Attester = SimulatedAttester(root=simulation.root())
    assert attester.tee is TEE.INTEL_TDX
    assert attester.simulated


def test_it_keeps_this_installations_root(tmp_path: Path) -> None:
    one, two = SimulatedAttester(directory=tmp_path), SimulatedAttester(directory=tmp_path)
    assert one.anchor == two.anchor
    assert one.anchor.simulated


def test_it_can_play_other_code() -> None:
    attester = SimulatedAttester(root=SimulatedRoot.generate(), measurements={"mrtd": "ab" * 48})
    claims = accepted(attester.attest(REPORT_DATA), anchors=(attester.anchor,), now=now())
    assert claims.measurements["mrtd"] == "ab" * 48
    assert claims.measurements["rtmr1"] == "00" * 48


def test_it_can_play_a_debug_enclave() -> None:
    attester = SimulatedAttester(root=SimulatedRoot.generate(), faults=Faults(attributes=frozenset({"debug"})))
    error = refused(attester.attest(REPORT_DATA), anchors=(attester.anchor,), now=now())
    assert (error.step, error.code) == ("debug", "platform.debug")


def test_report_data_of_another_size_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        SimulatedAttester(root=simulation.root()).attest(b"short")
