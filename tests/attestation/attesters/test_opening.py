from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from tests.attestation import azure
from tests.attestation.simulation import REPORT_DATA

from blindai.attestation.attesters import opening
from blindai.attestation.attesters.gramine import FOLDER
from blindai.attestation.attesters.opening import SIMULATED_TEES, TpmOptions, bare, stapled
from blindai.attestation.attesters.platform import TPM_TCTI, Platform
from blindai.attestation.attesters.tsm import REPORTS
from blindai.attestation.evidence import TEE
from blindai.attestation.simulated.amd import SimulatedAmd
from blindai.attestation.simulated.azure import SimulatedAzure
from blindai.attestation.simulated.intel import SimulatedIntel
from blindai.errors import AttestationError, BlindAIError, ConfigurationError, Unavailable
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


def test_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def open_tpm(tcti: str) -> SimulatedAzure:
        asked.append(tcti)
        return azure.machine(TEE.AZURE_SEV_SNP)

    monkeypatch.setattr(opening, "TpmDevice", open_tpm)
    attester = bare(Platform.AZURE, tpm=TpmOptions(tcti="swtpm:"))
    assert (attester.tee, attester.simulated) == (TEE.AZURE_SEV_SNP, False)
    bare(Platform.AZURE)
    assert asked == ["swtpm:", TPM_TCTI]


def test_an_ordinary_machine_of_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __init__(self, tcti: str) -> None: ...

        def read_nv(self, index: int) -> bytes:
            raise failure

    monkeypatch.setattr(opening, "TpmDevice", Other)
    failure: BlindAIError
    failures = AttestationError("none", code="evidence.hcl"), ConfigurationError("none", code="attester.missing")
    for failure in failures:  # noqa: B007  # it is read when the TPM is
        with pytest.raises(ConfigurationError, match="confidential VM") as caught:
            bare(Platform.AZURE)
        assert caught.value.code == "attester.missing"
        assert caught.value.hint.endswith("--platform tpm")
    failure = ConfigurationError("may not", code="attester.denied")
    with pytest.raises(ConfigurationError) as caught:
        bare(Platform.AZURE)
    assert caught.value is failure


def test_a_tpm(tmp_path: Path) -> None:
    options = TpmOptions(tcti="device:/dev/none", event_log=tmp_path / "log")
    if importlib.util.find_spec("tpm2_pytss") is None:
        with pytest.raises(ConfigurationError) as caught:
            bare(Platform.TPM, tpm=options)
        assert caught.value.code == "attester.tpm_library"
        return
    attester = bare(Platform.TPM, tpm=options)
    assert (attester.tee, attester.simulated) == (TEE.TPM, False)
    with stapled(attester) as endorsed:
        assert endorsed is attester, "the gate has to see that it activates credentials"
    with pytest.raises(ConfigurationError) as caught:
        attester.attest(REPORT_DATA)
    assert caught.value.code == "attester.missing"


@pytest.mark.parametrize(("content", "code"), [(None, "attester.missing"), (b"x", "attester.tpm_certificate")])
def test_certificates_of_a_tpm_that_cannot_be_read(tmp_path: Path, content: bytes | None, code: str) -> None:
    path = tmp_path / "maker.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        bare(Platform.TPM, tpm=TpmOptions(certificates=path))
    assert caught.value.code == code
