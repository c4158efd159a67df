"""Manifests from what was measured, alone and added to one that exists."""

from __future__ import annotations

import pytest

from blindai.attestation.evidence import TEE
from blindai.attestation.measure.release import manifest, merged, tdx_references, tpm_references
from blindai.attestation.policy import Policy
from blindai.attestation.policy.reference_values import CodeReference
from blindai.errors import ConfigurationError

RTMRS = {f"rtmr{number}": f"{number}" * 96 for number in range(4)}
PCRS = {f"pcr{number}": f"{number:02}" * 32 for number in range(15)}


def snp(name: str, digit: str) -> CodeReference:
    return CodeReference(name=name, tee=TEE.AMD_SEV_SNP, measurements={"launch_digest": digit * 96})


def test_a_trust_domain_gives_code_and_hardware() -> None:
    policy = manifest(*tdx_references("release 1", "a" * 96, RTMRS))
    assert policy.code[0].measurements == {"mrtd": "a" * 96, "rtmr1": "1" * 96, "rtmr2": "2" * 96}
    assert policy.hardware[0].measurements == {"mrtd": "a" * 96, "rtmr0": "0" * 96}
    assert Policy.parse(policy.to_toml(), "again").code == policy.code


def test_a_tpm_gives_only_registers_that_stay_the_same() -> None:
    policy = manifest(*tpm_references("release 1", PCRS), tpm_roots=["ab" * 32])
    assert list(policy.code[0].measurements) == ["pcr4", "pcr11"]
    assert list(policy.hardware[0].measurements) == ["pcr0", "pcr2", "pcr7"]
    assert policy.tpm.roots == ("ab" * 32,)


def test_merging_adds_makers_of_tpms() -> None:
    first = manifest(*tpm_references("1", PCRS), tpm_roots=["ab" * 32])
    both = merged(first, *tpm_references("2", PCRS | {"pcr4": "ff" * 32}), tpm_roots=["ab" * 32, "cd" * 32])
    assert both.tpm.roots == ("ab" * 32, "cd" * 32)


def test_a_log_without_pcr_4_makes_no_manifest() -> None:
    with pytest.raises(ConfigurationError) as refused:
        manifest(*tpm_references("release 1", {"pcr0": "00" * 32}), tpm_roots=["ab" * 32])
    assert refused.value.code == "policy.code_form"


def test_merging_keeps_the_rest() -> None:
    first = Policy(accepted_tees=(TEE.AMD_SEV_SNP,), code=(snp("1", "a"),), chips=("ab" * 64,), max_age_seconds=9)
    code, hardware = tdx_references("2", "a" * 96, RTMRS)
    both = merged(first, code, hardware)
    assert both.accepted_tees == (TEE.AMD_SEV_SNP, TEE.INTEL_TDX)
    assert both.code == (*first.code, *code)
    assert (both.hardware, both.chips, both.max_age_seconds) == (hardware, first.chips, 9)


def test_hardware_that_is_there_already_is_not_added() -> None:
    first = manifest(*tdx_references("1", "a" * 96, RTMRS))
    both = merged(first, *tdx_references("2", "a" * 96, RTMRS | {"rtmr2": "e" * 96}))
    assert [code.name for code in both.code] == ["1", "2"]
    assert both.hardware == first.hardware


def test_code_that_is_there_already_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="as '1'") as refused:
        merged(manifest([snp("1", "a")]), [snp("2", "a")])
    assert refused.value.code == "measure.duplicate"


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ConfigurationError) as refused:
        merged(manifest([snp("1", "a")]), [snp("1", "b")])
    assert refused.value.code == "policy.duplicate"
