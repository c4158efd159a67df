"""Policy units: hand-made claims against a policy. Real evidence goes through `test_appraisal`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.attestation.steps import REPORT_DATA, FixedBinding, changed, refusal, walk

from blindai.attestation.appraisal.requirements import Requirements
from blindai.attestation.claims import FLAGS, PROTECTIVE_FLAGS, Claims
from blindai.attestation.evidence import TEE
from blindai.attestation.policy.policy import DEFAULT_ATTRIBUTES, Policy
from blindai.attestation.policy.tcb import TCB_STATUSES
from blindai.attestation.result import Outcome

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
CONFIG = "c0" * 32
CHIP = "5a" * 16

TDX_REGISTERS = {"mrtd": "11" * 48, **{f"rtmr{index}": f"a{index}" * 48 for index in range(4)}, "xfam": "e7" * 8}
SGX_REGISTERS = {"mrenclave": "22" * 32, "mrsigner": "33" * 32}

MANIFEST = f"""\
version = 1
accepted_tees = ["intel-tdx", "intel-sgx"]

[[code]]
name = "other"
tee = "intel-tdx"
mrtd = "{"77" * 48}"
rtmr1 = "{"77" * 48}"
rtmr2 = "{"77" * 48}"

[[code]]
name = "td 1.0"
tee = "intel-tdx"
mrtd = "{TDX_REGISTERS["mrtd"]}"
rtmr1 = "{TDX_REGISTERS["rtmr1"]}"
rtmr2 = "{TDX_REGISTERS["rtmr2"]}"

[[code]]
name = "enclave 2.x"
tee = "intel-sgx"
mrsigner = "{SGX_REGISTERS["mrsigner"]}"
isv_prod_id = 7
minimum_isv_svn = 2

[[hardware]]
name = "8 vCPU"
tee = "intel-tdx"
mrtd = "{TDX_REGISTERS["mrtd"]}"
rtmr0 = "{TDX_REGISTERS["rtmr0"]}"
xfam = "{TDX_REGISTERS["xfam"]}"

[tcb]
statuses = ["UpToDate", "OutOfDate"]
grace_days = 30
minimum_evaluation_data_number = 17
denied_advisories = ["INTEL-SA-00615", "INTEL-SA-00700"]

[chips]
allowed = ["{CHIP}"]

[config]
digests = ["{CONFIG}"]
"""
POLICY = Policy.parse(MANIFEST, "./manifest.toml")

TDX = Claims(
    tee=TEE.INTEL_TDX,
    simulated=False,
    anchor="Intel SGX Root CA",
    report_data=REPORT_DATA,
    measurements=TDX_REGISTERS,
    debug=False,
    not_after=NOW + timedelta(days=20),
    flags={"sept_ve_disable": True, "smt": True, "debug": False, "migratable": False},
    tcb_status="UpToDate",
    tcb_date=NOW - timedelta(days=10),
    tcb_evaluation_data_number=17,
    advisories=("INTEL-SA-00001",),
    chip_id=CHIP,
)
SGX = msgspec.structs.replace(
    TDX,
    tee=TEE.INTEL_SGX,
    measurements=SGX_REGISTERS,
    svns={"isv_prod_id": 7, "isv_svn": 2},
    flags={"init": True, "mode64": True, "kss": True},
)


def with_register(claims: Claims, register: str, value: str) -> Claims:
    return changed(claims, measurements={**claims.measurements, register: value})


def policy_with(old: str, new: str) -> Policy:
    assert old in MANIFEST
    return Policy.parse(MANIFEST.replace(old, new), "./manifest.toml")


def requirements(
    claims: Claims,
    *,
    policy: Policy = POLICY,
    config_digest: str = CONFIG,
    now: datetime = NOW,
    not_after: datetime = NOW + timedelta(days=1),
) -> Requirements:
    return Requirements(claims, policy, FixedBinding(), config_digest, now, not_after)


@pytest.mark.parametrize("claims", [TDX, SGX], ids=["tdx", "sgx"])
def test_claims_that_meet_the_policy(claims: Claims) -> None:
    refusals, checks = walk(requirements(claims))
    assert refusals == []
    assert list(checks) == ["binding", "platform", "debug", "tcb", "code", "hardware", "config"]
    skipped = [step for step, check in checks.items() if check.outcome is Outcome.SKIP]
    assert skipped == (["hardware"] if claims is SGX else [])


def test_what_was_seen_is_noted_on_a_pass() -> None:
    _, checks = walk(requirements(TDX))
    assert checks["binding"].got == REPORT_DATA.hex()
    assert checks["platform"].got == "intel-tdx, Intel SGX Root CA"
    assert checks["debug"].got == "debug off; smt"
    assert checks["tcb"].expected == "UpToDate or OutOfDate"
    assert checks["tcb"].got == "UpToDate of 2026-10-22, evaluation data 17, INTEL-SA-00001"
    assert checks["code"].expected == "td 1.0 (policy ./manifest.toml, line 11)"
    assert checks["code"].got == ", ".join(f"{name} {TDX_REGISTERS[name]}" for name in ("mrtd", "rtmr1", "rtmr2"))
    assert checks["hardware"].expected == "8 vCPU (policy ./manifest.toml, line 25)"
    assert checks["config"].got == CONFIG
    _, checks = walk(requirements(SGX))
    assert checks["code"].got == f"mrsigner {SGX_REGISTERS['mrsigner']}, isv_prod_id 7, isv_svn 2"
    assert checks["hardware"].got == "intel-sgx measures no hardware"


def test_nothing_is_required_where_the_policy_pins_nothing() -> None:
    start, end = MANIFEST.index("[[hardware]]"), MANIFEST.index("[tcb]")
    policy = Policy.parse(MANIFEST.replace(MANIFEST[start:end], "").replace(f'["{CONFIG}"]', "[]"), "m")
    refusals, checks = walk(requirements(TDX, policy=policy))
    assert refusals == []
    assert checks["hardware"].outcome is checks["config"].outcome is Outcome.SKIP
    assert checks["hardware"].got == "the policy pins no hardware"
    assert checks["config"].got == f"{CONFIG}: the policy pins no configuration"


# binding


def test_report_data_of_another_connection() -> None:
    error = refusal(requirements(changed(TDX, report_data=bytes(64))), "binding", "binding.report_data")
    assert error.message == "not for this connection"


def test_a_keyset_that_has_run_out() -> None:
    error = refusal(requirements(TDX, not_after=NOW), "binding", "binding.keyset_expired")
    assert error.expected == "a time before 2026-11-01T12:00:00Z"
    assert "clock" in error.likely


def test_evidence_that_has_run_out() -> None:
    error = refusal(requirements(changed(TDX, not_after=NOW)), "binding", "binding.evidence_expired")
    assert error.got == "2026-11-01T12:00:00Z"
    assert "clock" in error.likely


# platform


def test_a_tee_that_is_not_accepted() -> None:
    policy = policy_with('["intel-tdx", "intel-sgx"]', '["intel-tdx"]')
    error = refusal(requirements(SGX, policy=policy), "platform", "platform.tee")
    assert error.expected == "intel-tdx (policy ./manifest.toml, line 2)"
    assert error.got == "intel-sgx"


def test_a_simulated_platform_without_leave() -> None:
    error = refusal(requirements(changed(TDX, simulated=True)), "platform", "platform.simulated")
    assert "no hardware vouches" in error.message
    assert "simulation=True" in error.hint


def test_a_simulated_platform_with_leave_says_so() -> None:
    policy = policy_with("version = 1", f'version = 1\nallow_simulated = true\nsimulated_roots.intel = "{"99" * 32}"')
    refusals, checks = walk(requirements(changed(TDX, simulated=True), policy=policy))
    assert refusals == []
    assert "(simulated)" in checks["platform"].got


def test_a_processor_that_is_not_listed() -> None:
    error = refusal(requirements(changed(TDX, chip_id="00" * 16)), "platform", "chip.unknown")
    assert error.expected == "one of 1 processors (policy ./manifest.toml, line 39)"
    assert error.got == "00" * 16


def test_a_processor_that_hides_its_identity() -> None:
    refusal(requirements(changed(TDX, chip_id="")), "platform", "chip.masked")


def test_any_processor_where_none_is_listed() -> None:
    assert walk(requirements(changed(TDX, chip_id=""), policy=policy_with(f'["{CHIP}"]', "[]")))[0] == []


# debug


def test_debug_mode() -> None:
    error = refusal(requirements(changed(TDX, debug=True)), "debug", "platform.debug")
    assert "its host can read it" in error.message


OWN_CODES = {"migratable": "platform.migratable", "smt": "platform.smt"}


@pytest.mark.parametrize("name", [*sorted(set(FLAGS) - set(DEFAULT_ATTRIBUTES)), "debug", "attribute_of_next_year"])
def test_an_attribute_that_is_not_allowed(name: str) -> None:
    code = OWN_CODES.get(name, "platform.attributes")
    error = refusal(requirements(changed(TDX, flags={**TDX.flags, name: True})), "debug", code)
    assert error.got == name
    assert error.likely == FLAGS.get(name, "")


def test_an_attribute_that_the_policy_allows() -> None:
    policy = policy_with("[chips]", '[attributes]\nallowed = ["provisioning_key"]\n[chips]')
    claims = changed(TDX, flags={"provisioning_key": True})
    assert walk(requirements(claims, policy=policy))[0] == []
    error = refusal(requirements(TDX, policy=policy), "debug", "platform.smt")
    assert error.expected == "provisioning_key (policy ./manifest.toml, line 39)"
    assert error.got == "smt"


def test_a_policy_that_allows_no_attribute() -> None:
    policy = policy_with("[chips]", "[attributes]\nallowed = []\n[chips]")
    claims = changed(TDX, flags=dict.fromkeys(PROTECTIVE_FLAGS, True))
    refusals, checks = walk(requirements(claims, policy=policy))
    assert refusals == []
    assert checks["debug"].got == "debug off; nothing else"
    assert refusal(requirements(TDX, policy=policy), "debug", "platform.smt").expected.startswith("none (")


def test_of_several_attributes_the_one_with_its_own_code_is_named_first() -> None:
    flags = {"kl": True, "perfmon": True, "migratable": True, "smt": True}
    policy = policy_with("[chips]", "[attributes]\nallowed = []\n[chips]")
    error = refusal(requirements(changed(TDX, flags=flags), policy=policy), "debug", "platform.migratable")
    assert error.got == "migratable, smt, kl, perfmon"


# tcb


@pytest.mark.parametrize(
    "status", [*sorted(set(TCB_STATUSES) - {"UpToDate", "OutOfDate"}), "NewWord", "uptodate", "OK"]
)
def test_a_tcb_status_that_is_not_listed(status: str) -> None:
    error = refusal(requirements(changed(TDX, tcb_status=status)), "tcb", "tcb.status")
    assert error.expected == "UpToDate or OutOfDate (policy ./manifest.toml, line 33)"
    assert error.got == status
    assert error.likely
    assert error.hint.endswith(f"list {status} under [tcb] statuses")


def test_a_platform_that_reports_no_tcb_status() -> None:
    error = refusal(requirements(changed(TDX, tcb_status="")), "tcb", "tcb.status")
    assert error.got == "not reported"
    assert error.hint == ""


def test_a_revoked_platform() -> None:
    refusal(requirements(changed(TDX, tcb_status="Revoked")), "tcb", "tcb.revoked")


def test_an_out_of_date_platform_in_its_grace() -> None:
    date = NOW - timedelta(days=30) + timedelta(seconds=1)
    required = requirements(changed(TDX, tcb_status="OutOfDate", tcb_date=date))
    assert walk(required)[0] == []
    assert min(required.ends()) == NOW + timedelta(seconds=1)


def test_an_out_of_date_platform_after_its_grace() -> None:
    date = NOW - timedelta(days=30)
    error = refusal(requirements(changed(TDX, tcb_status="OutOfDate", tcb_date=date)), "tcb", "tcb.grace")
    assert error.expected == "a TCB level of the last 30 days (policy ./manifest.toml, line 34)"
    assert error.got == "a TCB level of 2026-10-02"


def test_an_out_of_date_platform_of_unknown_date() -> None:
    required = requirements(changed(TDX, tcb_status="OutOfDate", tcb_date=None))
    assert refusal(required, "tcb", "tcb.grace").got == "a TCB level of unknown date"
    assert walk(required)[1]["tcb"].expected


def test_tcb_data_that_are_too_old() -> None:
    error = refusal(requirements(changed(TDX, tcb_evaluation_data_number=16)), "tcb", "tcb.evaluation_number")
    assert error.expected == "at least 17 (policy ./manifest.toml, line 35)"
    assert error.got == "16"


def test_a_denied_advisory() -> None:
    advisories = ("INTEL-SA-00001", "INTEL-SA-00700")
    error = refusal(requirements(changed(TDX, advisories=advisories)), "tcb", "tcb.advisory")
    assert error.got == "INTEL-SA-00700"
    assert error.expected.endswith("(policy ./manifest.toml, line 36)")


# code and hardware


@pytest.mark.parametrize(("register", "line"), [("mrtd", 14), ("rtmr1", 15), ("rtmr2", 16)])
def test_other_code_in_a_trust_domain(register: str, line: int) -> None:
    # MRTD is pinned by code and by hardware alike; a policy without hardware shows its part in the code alone.
    start, end = MANIFEST.index("[[hardware]]"), MANIFEST.index("[tcb]")
    policy = Policy.parse(MANIFEST.replace(MANIFEST[start:end], ""), "./manifest.toml")
    claims = with_register(TDX, register, "ff" * 48)
    error = refusal(requirements(claims, policy=policy), "code", "code.unknown")
    assert error.message == "the enclave is genuine, but runs code you have not approved"
    assert error.check == f"code measurement ({register.upper()})"
    assert error.expected == f"{TDX_REGISTERS[register]} (policy ./manifest.toml, line {line}); 1 more in the policy"
    assert error.got == "ff" * 48
    assert error.likely == "the operator upgraded; this code is not in your policy"


def test_a_changed_mrtd_is_refused_as_code_and_as_hardware() -> None:
    refusals, _ = walk(requirements(with_register(TDX, "mrtd", "ff" * 48)))
    assert [(error.step, error.code) for error in refusals] == [
        ("code", "code.unknown"),
        ("hardware", "hardware.unknown"),
    ]


def test_a_register_that_is_not_reported_matches_nothing() -> None:
    measurements = {name: value for name, value in TDX_REGISTERS.items() if name != "rtmr2"}
    error = refusal(requirements(changed(TDX, measurements=measurements)), "code", "code.unknown")
    assert error.got == "not reported"


def test_registers_of_two_references_do_not_add_up() -> None:
    claims = changed(TDX, measurements={**TDX_REGISTERS, "rtmr1": "77" * 48})
    refusal(requirements(claims), "code", "code.unknown")


def test_other_code_in_a_simulated_enclave_is_not_called_genuine() -> None:
    policy = policy_with("version = 1", f'version = 1\nallow_simulated = true\nsimulated_roots.intel = "{"99" * 32}"')
    claims = changed(with_register(TDX, "rtmr1", "ff" * 48), simulated=True)
    error = refusal(requirements(claims, policy=policy), "code", "code.unknown")
    assert "genuine" not in error.message
    assert "another version of BlindAI" in error.likely


def test_another_signer() -> None:
    error = refusal(requirements(with_register(SGX, "mrsigner", "ff" * 32)), "code", "code.unknown")
    assert error.check == "code measurement (MRSIGNER)"


@pytest.mark.parametrize("svns", [{"isv_prod_id": 8, "isv_svn": 2}, {"isv_svn": 2}])
def test_another_product_of_the_same_signer(svns: dict[str, int]) -> None:
    error = refusal(requirements(changed(SGX, svns=svns)), "code", "code.unknown")
    assert error.check == "code measurement (ISV PROD ID)"
    assert error.expected == "7 (policy ./manifest.toml, line 22)"


@pytest.mark.parametrize("svns", [{"isv_prod_id": 7, "isv_svn": 1}, {"isv_prod_id": 7}])
def test_an_older_version_of_the_product(svns: dict[str, int]) -> None:
    error = refusal(requirements(changed(SGX, svns=svns)), "code", "code.outdated")
    assert error.check == "code measurement (ISV SVN)"
    assert error.expected == "at least 2 (policy ./manifest.toml, line 23)"
    assert error.got == str(svns.get("isv_svn", "not reported"))


def test_a_newer_version_of_the_product() -> None:
    assert walk(requirements(changed(SGX, svns={"isv_prod_id": 7, "isv_svn": 3})))[0] == []


@pytest.mark.parametrize("register", ["rtmr0", "xfam"])
def test_an_unknown_machine_shape(register: str) -> None:
    error = refusal(requirements(with_register(TDX, register, "ff" * 8)), "hardware", "hardware.unknown")
    assert error.check == f"hardware measurement ({register.upper()})"


def test_a_tee_for_which_no_code_is_known() -> None:
    sgx = MANIFEST.index('[[code]]\nname = "enclave 2.x"')
    policy = Policy.parse(MANIFEST[:sgx].replace(', "intel-sgx"', "") + MANIFEST[MANIFEST.index("[[hardware]]") :], "m")
    refusals, checks = walk(requirements(SGX, policy=policy))
    assert [error.code for error in refusals] == ["platform.tee", "code.unknown"]
    assert checks["code"].expected == "[[code]] for intel-sgx"
    assert checks["code"].got == "none (policy m, line 4)"


# config


@pytest.mark.parametrize("digest", ["00" * 32, ""])
def test_another_configuration(digest: str) -> None:
    error = refusal(requirements(TDX, config_digest=digest), "config", "config.unknown")
    assert error.expected == f"{CONFIG} (policy ./manifest.toml, line 42)"
    assert error.got == (digest or "none")


# Any single deviation, whatever its value, is refused by its own step and code.

PAST = st.datetimes(max_value=NOW.replace(tzinfo=None), timezones=st.just(UTC))
ADVISORIES = st.lists(st.sampled_from(["INTEL-SA-00615", "INTEL-SA-00700"]), min_size=1).map(tuple)
DIGESTS = st.binary(min_size=48, max_size=48).map(bytes.hex)
DEVIATIONS: dict[str, tuple[st.SearchStrategy[Any], str, set[str]]] = {
    "report_data": (st.binary(max_size=80), "binding", {"binding.report_data"}),
    "not_after": (PAST, "binding", {"binding.evidence_expired"}),
    "simulated": (st.just(True), "platform", {"platform.simulated"}),
    "chip_id": (st.binary(max_size=64).map(bytes.hex), "platform", {"chip.unknown", "chip.masked"}),
    "debug": (st.just(True), "debug", {"platform.debug"}),
    "flags": (st.text().map(lambda name: {name: True}), "debug", {"platform.attributes", *OWN_CODES.values()}),
    "tcb_status": (st.text(), "tcb", {"tcb.status", "tcb.revoked"}),
    "tcb_evaluation_data_number": (st.integers(0, 16), "tcb", {"tcb.evaluation_number"}),
    "advisories": (ADVISORIES, "tcb", {"tcb.advisory"}),
    "rtmr0": (DIGESTS, "hardware", {"hardware.unknown"}),
    "rtmr1": (DIGESTS, "code", {"code.unknown"}),
    "rtmr2": (DIGESTS, "code", {"code.unknown"}),
}  # fmt: skip


@given(st.data(), st.sampled_from(sorted(DEVIATIONS)))
def test_every_single_deviation_is_refused_by_its_own_step_and_code(data: st.DataObject, field: str) -> None:
    values, step, codes = DEVIATIONS[field]
    value = data.draw(values)
    claims = with_register(TDX, field, value) if field in TDX_REGISTERS else changed(TDX, **{field: value})
    harmless = (
        claims == TDX
        or (field == "flags" and set(value) <= {*DEFAULT_ATTRIBUTES, *PROTECTIVE_FLAGS})
        or (field == "tcb_status" and value in {"UpToDate", "OutOfDate"})
    )
    refusals, _ = walk(requirements(claims))
    if harmless:
        assert refusals == []
        return
    assert [error.step for error in refusals] == [step]
    assert refusals[0].code in codes


def test_a_result_lasts_until_the_first_thing_runs_out() -> None:
    assert min(requirements(TDX).ends()) == NOW + timedelta(days=1)
    assert min(requirements(TDX, not_after=NOW + timedelta(days=90)).ends()) == TDX.not_after
    up_to_date = changed(TDX, tcb_date=NOW - timedelta(days=900))
    assert min(requirements(up_to_date).ends()) == NOW + timedelta(days=1)
    unknown_date = changed(TDX, tcb_status="OutOfDate", tcb_date=None)
    assert min(requirements(unknown_date).ends()) == NOW + timedelta(days=1)
