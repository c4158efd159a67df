from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.attestation.simulation import REPORT_DATA

from blindai.attestation.attesters.gramine import FOLDER
from blindai.attestation.attesters.opening import SIMULATED_TEES, bare, stapled
from blindai.attestation.attesters.platform import Platform
from blindai.attestation.attesters.tsm import REPORTS
from blindai.attestation.evidence import TEE
from blindai.attestation.simulated.amd import SimulatedAmd
from blindai.attestation.simulated.intel import SimulatedIntel
from blindai.errors import ConfigurationError, Unavailable
from fake_gramine import FakeGramine
from fake_machine import FakeMachine
from fake_tsm import FakeTsm, SevGuest, TdxGuest


def test_hardware(sgx: SimulatedIntel, tdx: SimulatedIntel, milan: SimulatedAmd) -> None:
    for platform, mounts, tee in (
        (Platform.SGX, {FOLDER: FakeGramine(sgx)}, TEE.INTEL_SGX),
        (Platform.TDX, {REPORTS: FakeTsm(TdxGuest(tdx))}, TEE.INTEL_TDX),
        (Platform.SEV_SNP, {REPORTS: FakeTsm(SevGuest(milan))}, TEE.AMD_SEV_SNP),
    ):
        attester = bare(platform, files=FakeMachine(mounts=mounts))
        assert (attester.tee, attester.simulated) == (tee, False)
        assert REPORT_DATA in attester.attest(REPORT_DATA).quote


@pytest.mark.parametrize(("platform", "tee"), SIMULATED_TEES.items())
def test_simulated_platforms(platform: Platform, tee: TEE) -> None:
    attester = bare(platform)
    assert (attester.tee, attester.simulated) == (tee, True)
    assert REPORT_DATA in attester.attest(REPORT_DATA).quote


def test_every_name_that_says_simulated_is_simulated_and_no_other() -> None:
    assert set(SIMULATED_TEES) == {platform for platform in Platform if platform.startswith("simulated-")}


def test_which_platform_auto_is_has_to_be_found_first() -> None:
    with pytest.raises(ValueError, match="detect"):
        bare(Platform.AUTO)


def test_simulated_platforms_bring_their_own_endorsements() -> None:
    attester = bare(Platform.SIMULATED_TDX)
    with stapled(attester) as endorsed:
        assert endorsed is attester


@pytest.mark.parametrize("option", [{"url": "https://pccs.example"}, {"directory": Path("endorsements")}])
def test_collateral_for_a_platform_that_needs_none(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught, stapled(bare(Platform.SIMULATED_TDX), **option):
        pass
    assert caught.value.code == "collateral.url"


def test_hardware_without_endorsements_is_not_served(tdx: SimulatedIntel, tmp_path: Path) -> None:
    files = FakeMachine(mounts={REPORTS: FakeTsm(TdxGuest(tdx))})
    with pytest.raises(Unavailable) as caught, stapled(bare(Platform.TDX, files=files), directory=tmp_path):
        pass
    assert caught.value.code == "collateral.missing"
