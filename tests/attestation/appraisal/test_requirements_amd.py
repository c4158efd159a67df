"""What a policy requires of AMD's processors and of TPMs: hand-made claims against a policy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from tests.attestation import steps
from tests.attestation.steps import REPORT_DATA, FixedBinding, changed

from blindai.attestation.appraisal.requirements import Requirements
from blindai.attestation.claims import Claims, Location
from blindai.attestation.evidence import TEE, committed
from blindai.attestation.policy import Policy
from blindai.attestation.result import Check, Outcome
from blindai.errors import AttestationError

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
DIGEST = "11" * 48
CHIP = "5a" * 64

MANIFEST = f"""\
version = 1
accepted_tees = ["amd-sev-snp", "azure-sev-snp", "azure-tdx", "tpm"]

[[code]]
name = "guest 1.0"
tee = "amd-sev-snp"
launch_digest = "{DIGEST}"
minimum_guest_svn = 3

[[code]]
name = "azure 1.0"
tee = "azure-sev-snp"
pcr4 = "{"44" * 32}"

[[code]]
name = "azure td 1.0"
tee = "azure-tdx"
pcr4 = "{"44" * 32}"

[[code]]
name = "machine 1.0"
tee = "tpm"
pcr4 = "{"44" * 32}"
pcr11 = "{"bb" * 32}"

[[hardware]]
name = "firmware"
tee = "azure-sev-snp"
launch_digest = "{DIGEST}"

[amd]
products = ["Milan", "Turin"]
keys = ["vcek"]

[amd.minimum_tcb.Milan]
boot_loader = 3
microcode = 200

[amd.minimum_tcb.Turin]
fmc = 1

[tpm]
roots = ["{"99" * 32}"]

[attributes]
allowed = []

[chips]
allowed = ["{CHIP}", "{"5a" * 32}", "{"5a" * 16}"]
"""
POLICY = Policy.parse(MANIFEST, "m")

SNP = Claims(
    tee=TEE.AMD_SEV_SNP,
    simulated=False,
    anchor="ARK-Milan",
    report_data=REPORT_DATA,
    measurements={"launch_digest": DIGEST},
    svns={"guest_svn": 3},
    debug=False,
    not_after=NOW + timedelta(days=20),
    flags={"tsme": True, "migratable": False, "smt": False},
    chip_id=CHIP,
    product="Milan",
    signing_key="vcek",
    tcb={"boot_loader": 3, "tee": 0, "snp": 8, "microcode": 209},
    vmpl=0,
    locations={"vmpl": Location("report", 0x30, 0x34), "tcb": Location("report", 0x180, 0x188)},
)
TPM = Claims(
    tee=TEE.TPM,
    simulated=False,
    anchor="TPM root 99999999",
    report_data=committed(TEE.TPM, REPORT_DATA),
    measurements={"pcr4": "44" * 32, "pcr11": "bb" * 32},
    debug=False,
    not_after=NOW + timedelta(days=20),
    chip_id="5a" * 32,
)
AZURE_SNP = msgspec.structs.replace(
    SNP,
    tee=TEE.AZURE_SEV_SNP,
    report_data=committed(TEE.AZURE_SEV_SNP, REPORT_DATA),
    measurements={"launch_digest": DIGEST, "pcr4": "44" * 32},
)
AZURE_TDX = msgspec.structs.replace(
    TPM,
    tee=TEE.AZURE_TDX,
    measurements={"mrtd": DIGEST, "pcr4": "44" * 32},
    chip_id="5a" * 16,
    tcb_status="UpToDate",
    tcb_date=NOW,
)


def required(claims: Claims, policy: Policy) -> Requirements:
    return Requirements(claims, policy, FixedBinding(), "", NOW, NOW + timedelta(days=1))


def walk(claims: Claims, policy: Policy = POLICY) -> tuple[list[AttestationError], dict[str, Check]]:
    return steps.walk(required(claims, policy))


def refusal(claims: Claims, step: str, code: str, policy: Policy = POLICY) -> AttestationError:
    return steps.refusal(required(claims, policy), step, code)


def policy_with(old: str, new: str) -> Policy:
    assert old in MANIFEST
    return Policy.parse(MANIFEST.replace(old, new, 1), "m")


@pytest.mark.parametrize("claims", [SNP, TPM, AZURE_SNP, AZURE_TDX], ids=["snp", "tpm", "azure-snp", "azure-tdx"])
def test_claims_that_meet_the_policy(claims: Claims) -> None:
    assert walk(claims)[0] == []


@pytest.mark.parametrize("claims", [TPM, AZURE_SNP, AZURE_TDX], ids=["tpm", "azure-snp", "azure-tdx"])
def test_a_quote_of_a_tpm_over_all_64_bytes_is_not_for_this_connection(claims: Claims) -> None:
    refusal(changed(claims, report_data=REPORT_DATA), "binding", "binding.report_data")


def test_what_was_seen_is_noted_on_a_pass() -> None:
    _, checks = walk(SNP)
    assert checks["platform"].got == "amd-sev-snp, ARK-Milan, Milan, VCEK, VMPL 0"
    assert checks["tcb"].expected == "revocation list; boot_loader>=3 microcode>=200 (policy m, line 35)"
    assert checks["tcb"].got == "revocation list; boot_loader 3 tee 0 snp 8 microcode 209"
    assert [(used.start, used.end) for used in checks["tcb"].ranges] == [(0x180, 0x188)]
    assert (0x30, 0x34) in [(used.start, used.end) for used in checks["platform"].ranges]
    assert checks["code"].got == f"launch_digest {DIGEST}, guest_svn 3"
    assert checks["hardware"].got == "amd-sev-snp measures no hardware"


# platform


@pytest.mark.parametrize(("product", "got"), [("Genoa", "Genoa"), ("", "not reported")])
def test_a_product_line_that_is_not_accepted(product: str, got: str) -> None:
    error = refusal(changed(SNP, product=product), "platform", "platform.product")
    assert error.expected == "Milan or Turin (policy m, line 32)"
    assert error.got == got


@pytest.mark.parametrize(("key", "got"), [("vlek", "vlek"), ("", "not reported")])
def test_a_kind_of_key_that_is_not_accepted(key: str, got: str) -> None:
    error = refusal(changed(SNP, signing_key=key), "platform", "platform.key")
    assert error.expected == "vcek (policy m, line 33)"
    assert error.got == got


@pytest.mark.parametrize(("vmpl", "got"), [(1, "VMPL 1"), (2, "VMPL 2"), (3, "VMPL 3"), (None, "not reported")])
def test_a_report_that_was_requested_from_a_lower_privilege_level(vmpl: int | None, got: str) -> None:
    assert refusal(changed(SNP, vmpl=vmpl), "platform", "platform.vmpl").got == got
    assert refusal(changed(AZURE_SNP, vmpl=vmpl), "platform", "platform.vmpl").got == got


def test_a_chip_that_is_masked_where_chips_are_listed() -> None:
    refusal(changed(SNP, chip_id=""), "platform", "chip.masked")


def test_a_chip_that_is_not_listed() -> None:
    refusal(changed(SNP, chip_id="00" * 64), "platform", "chip.unknown")
    refusal(changed(TPM, chip_id="00" * 32), "platform", "chip.unknown")


# debug


@pytest.mark.parametrize(
    ("flag", "code"),
    [
        ("smt", "platform.smt"),
        ("migratable", "platform.migratable"),
        ("cxl", "platform.attributes"),
        ("bit_of_next_year", "platform.attributes"),
    ],
)
def test_an_attribute_that_the_policy_forbids(flag: str, code: str) -> None:
    assert refusal(changed(SNP, flags={flag: True}), "debug", code).got == flag


def test_debug_mode() -> None:
    refusal(changed(SNP, debug=True), "debug", "platform.debug")


# tcb


def test_a_revocation_list_that_is_required_and_missing() -> None:
    error = refusal(changed(SNP, crl_checked=False), "tcb", "tcb.crl")
    assert error.expected == "AMD's revocation list beside the certificates (policy m, line 31)"


def test_a_revocation_list_that_is_not_required() -> None:
    _, checks = walk(changed(SNP, crl_checked=False), policy_with("[amd]", "[amd]\nrequire_crl = false"))
    assert checks["tcb"].outcome is Outcome.PASS
    assert checks["tcb"].got.startswith("no revocation list; ")
    assert checks["tcb"].expected.startswith("boot_loader>=3")


@pytest.mark.parametrize(
    ("part", "version", "line"), [("boot_loader", 2, 36), ("microcode", 199, 37), ("microcode", 0, 37)]
)
def test_firmware_below_the_floor(part: str, version: int, line: int) -> None:
    error = refusal(changed(SNP, tcb={**SNP.tcb, part: version}), "tcb", "tcb.floor")
    least = {"boot_loader": 3, "microcode": 200}[part]
    assert error.expected == f"{part} at least {least} (policy m, line {line})"
    assert error.got == f"{part} {version}"


def test_firmware_that_is_not_reported() -> None:
    error = refusal(changed(SNP, product="Turin"), "tcb", "tcb.floor")
    assert error.got == "fmc not reported"


def test_a_product_line_without_a_floor() -> None:
    policy = policy_with('"Milan", "Turin"', '"Milan", "Genoa", "Turin"')
    _, checks = walk(changed(SNP, product="Genoa"), policy)
    assert (checks["tcb"].outcome, checks["tcb"].expected) == (Outcome.PASS, "revocation list")
    assert checks["tcb"].ranges == ()


def test_nothing_is_required_of_firmware_without_a_floor_and_a_list() -> None:
    policy = policy_with('["Milan", "Turin"]', '["Milan", "Genoa", "Turin"]\nrequire_crl = false')
    _, checks = walk(changed(SNP, product="Genoa", crl_checked=False, tcb={}), policy)
    assert checks["tcb"].outcome is Outcome.SKIP
    assert checks["tcb"].got == "not reported: the policy asks for no versions of Genoa's firmware"


def test_a_tpm_reports_no_tcb_status() -> None:
    _, checks = walk(TPM)
    assert (checks["tcb"].outcome, checks["tcb"].got) == (Outcome.SKIP, "a TPM reports no TCB status")


@pytest.mark.parametrize("status", ["", "OutOfDate", "ConfigurationNeeded"])
def test_azures_trust_domains_are_judged_by_intels_status(status: str) -> None:
    refusal(changed(AZURE_TDX, tcb_status=status), "tcb", "tcb.status")


# code and hardware


@pytest.mark.parametrize(
    ("claims", "register"), [(SNP, "launch_digest"), (AZURE_SNP, "pcr4"), (AZURE_TDX, "pcr4"), (TPM, "pcr11")]
)
def test_other_code(claims: Claims, register: str) -> None:
    other = {**claims.measurements, register: "ff" * (len(claims.measurements[register]) // 2)}
    error = refusal(changed(claims, measurements=other), "code", "code.unknown")
    assert error.check == f"code measurement ({register.replace('_', ' ').upper()})"


def test_an_older_guest() -> None:
    error = refusal(changed(SNP, svns={"guest_svn": 2}), "code", "code.outdated")
    assert error.check == "code measurement (GUEST SVN)"


def test_other_firmware_below_the_virtual_tpm() -> None:
    other = {**AZURE_SNP.measurements, "launch_digest": "ff" * 48}
    refusal(changed(AZURE_SNP, measurements=other), "hardware", "hardware.unknown")
