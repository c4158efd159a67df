"""--platform auto: each machine it may find itself on, and what it says of it."""

from __future__ import annotations

import errno

import pytest

from blindai.attestation.attesters.detection import (
    ASSET_TAG_FILE,
    AZURE_ASSET_TAG,
    GUEST_DEVICES,
    detect,
)
from blindai.attestation.attesters.files import Files
from blindai.attestation.attesters.gramine import FOLDER
from blindai.attestation.attesters.platform import TPM_DEVICE, Platform
from blindai.attestation.attesters.tsm import REPORTS
from blindai.attestation.simulated.amd import SimulatedAmd
from blindai.attestation.simulated.intel import SimulatedIntel
from blindai.errors import BlindAIError, ConfigurationError, Unavailable
from fake_gramine import FakeGramine
from fake_machine import FakeMachine
from fake_tsm import FakeTsm, OtherGuest, SevGuest, TdxGuest, TsmFaults

AZURE = {ASSET_TAG_FILE: AZURE_ASSET_TAG.encode() + b"\n"}
TPM = {TPM_DEVICE: b""}


@pytest.fixture
def mounts(sgx: SimulatedIntel, tdx: SimulatedIntel, milan: SimulatedAmd) -> dict[str, dict[str, Files]]:
    """What can be mounted on a machine, by short names."""
    return {
        "gramine": {FOLDER: FakeGramine(sgx)},
        "gramine without attestation": {FOLDER: FakeGramine(sgx, kind="none")},
        "tdx": {REPORTS: FakeTsm(TdxGuest(tdx))},
        "snp": {REPORTS: FakeTsm(SevGuest(milan))},
        "cca": {REPORTS: FakeTsm(OtherGuest(tdx))},
        "no driver": {REPORTS: FakeTsm(None)},
        "denied": {REPORTS: FakeTsm(TdxGuest(tdx), TsmFaults(mkdir=[errno.EACCES]))},
        "broken": {REPORTS: FakeTsm(TdxGuest(tdx), TsmFaults(mkdir=[errno.EIO]))},
    }


@pytest.mark.parametrize(
    ("files", "mounted", "platform", "why"),
    [
        ({}, ["gramine"], Platform.SGX, "under Gramine"),
        ({}, ["tdx"], Platform.TDX, "the kernel gives evidence of intel-tdx"),
        ({}, ["snp"], Platform.SEV_SNP, "the kernel gives evidence of amd-sev-snp"),
        (AZURE | TPM, [], Platform.AZURE, "is the one of Azure, and there is"),
        (TPM, [], Platform.TPM, "does not keep the machine's owner from the memory"),
        (TPM, ["no driver"], Platform.TPM, "does not keep"),
        ({ASSET_TAG_FILE: b"\n"} | TPM, [], Platform.TPM, "does not keep"),
        # What is further in goes first.
        (AZURE | TPM, ["gramine", "tdx"], Platform.SGX, "under Gramine"),
        (AZURE | TPM, ["tdx"], Platform.TDX, "the kernel"),
        (AZURE | TPM, ["no driver"], Platform.AZURE, "Azure"),
        ({GUEST_DEVICES[0]: b""}, ["tdx"], Platform.TDX, "the kernel"),
    ],
)
def test_what_is_found_and_why(
    mounts: dict[str, dict[str, Files]], files: dict[str, bytes], mounted: list[str], platform: Platform, why: str
) -> None:
    machine = FakeMachine(files, {path: mount for name in mounted for path, mount in mounts[name].items()})
    finding = detect(machine)
    assert finding.platform is platform
    *before, last = finding.explanation
    assert last.startswith(f"{platform}: ")
    assert why in last
    assert all(line.startswith("not ") for line in before)


def test_every_place_before_is_told(mounts: dict[str, dict[str, Files]]) -> None:
    lines = detect(FakeMachine(TPM, mounts["no driver"])).explanation
    assert [line.partition(":")[0] for line in lines] == ["not SGX", "not TDX or SEV-SNP", "not Azure", "tpm"]
    assert "nothing stands behind" in lines[1]


@pytest.mark.parametrize(
    ("files", "mounted"),
    [({}, []), (AZURE, []), ({"/dev/tpm0": b""}, []), ({f"{FOLDER}/keys/default": b""}, []), ({}, ["no driver"])],
    ids=["nothing", "Azure without a TPM", "TPM without a resource manager", "gramine-direct", "no driver"],
)
def test_nothing_is_found(mounts: dict[str, dict[str, Files]], files: dict[str, bytes], mounted: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        detect(FakeMachine(files, {path: mount for name in mounted for path, mount in mounts[name].items()}))
    assert caught.value.code == "attester.none_found"
    assert caught.value.hint.endswith("blindai serve --platform simulated-tdx")
    for place in ("SGX: ", "TDX or SEV-SNP: ", "Azure: ", "TPM: "):
        assert place in caught.value.message


@pytest.mark.parametrize(
    ("files", "mounted", "kind", "code"),
    [
        ({}, "gramine without attestation", ConfigurationError, "attester.attestation_type"),
        ({}, "denied", ConfigurationError, "attester.denied"),
        ({}, "cca", ConfigurationError, "attester.provider"),
        ({}, "broken", Unavailable, "attester.failed"),
        ({GUEST_DEVICES[0]: b""}, "", ConfigurationError, "attester.missing"),
        ({GUEST_DEVICES[1]: b""}, "", ConfigurationError, "attester.missing"),
    ],
)
def test_a_platform_out_of_order_is_not_passed_over_for_a_weaker_one(
    mounts: dict[str, dict[str, Files]],
    files: dict[str, bytes],
    mounted: str,
    kind: type[BlindAIError],
    code: str,
) -> None:
    with pytest.raises(BlindAIError) as caught:
        detect(FakeMachine(files | TPM, mounts.get(mounted)))
    assert (type(caught.value), caught.value.code) == (kind, code)


def test_a_guest_with_an_old_kernel_is_told_what_it_needs() -> None:
    with pytest.raises(ConfigurationError, match="/dev/sev-guest is there") as caught:
        detect(FakeMachine({"/dev/sev-guest": b""}))
    assert "Linux 6.7" in caught.value.hint


def test_an_asset_tag_that_cannot_be_read() -> None:
    with pytest.raises(ConfigurationError) as caught:
        detect(FakeMachine(AZURE, denied=frozenset(AZURE)))
    assert caught.value.code == "attester.denied"


def test_no_request_is_left_in_the_kernel(tdx: SimulatedIntel) -> None:
    kernel = FakeTsm(TdxGuest(tdx))
    detect(FakeMachine(mounts={REPORTS: kernel}))
    assert (kernel.made, kernel.entries) == (1, 0)
