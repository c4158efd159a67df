from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from tests.attestation import simulation
from tests.attestation.simulation import KINDS, NOW, REPORT_DATA, accepted, good, platform, refused, resigned

from blindai.attestation.claims import Claims
from blindai.attestation.evidence import TEE
from blindai.attestation.result import Checklist
from blindai.attestation.simulated import quote as layout
from blindai.attestation.simulated.intel import Faults, SimulatedIntel
from blindai.attestation.verifiers import intel, verify
from blindai.attestation.verifiers.intel_quote import parse
from blindai.errors import AttestationError

BODY = {"sgx-v3": 48, "tdx-v4": 48, "tdx-v5": 54}
SIZE = {"sgx-v3": 384, "tdx-v4": 584, "tdx-v5": 648}
AUTHENTICATION = {kind: BODY[kind] + SIZE[kind] + 4 for kind in KINDS}
QE_REPORT = {"sgx-v3": 128, "tdx-v4": 134, "tdx-v5": 134}  # behind the start of the authentication data


def flipped(kind: str, offset: int) -> bytes:
    quote = bytearray(good(kind).quote)
    quote[offset] ^= 1
    return bytes(quote)


def step_and_code(kind: str, quote: bytes) -> tuple[str, str]:
    return simulation.step_and_code(simulation.with_quote(good(kind), quote))


def reattested(source: SimulatedIntel, *, qe: dict[int, bytes]) -> bytes:
    """A quote whose QE report has bytes replaced and is signed anew by the platform's PCK."""
    evidence = source.attest(REPORT_DATA)
    at = AUTHENTICATION["tdx-v4"] + QE_REPORT["tdx-v4"]
    report = bytearray(evidence.quote[at : at + 384])
    for offset, value in qe.items():
        report[offset : offset + len(value)] = value
    signature = layout.sign(source.pki.pck.key, bytes(report))
    return evidence.quote[:at] + bytes(report) + signature + evidence.quote[at + 384 + 64 :]


def signed_again(source: SimulatedIntel, changes: dict[int, bytes]) -> bytes:
    """A quote with bytes of header and body replaced, signed anew by the attestation key."""
    evidence = source.attest(REPORT_DATA)
    quote = parse(evidence.quote)
    signed = bytearray(quote.signed)
    for offset, value in changes.items():
        signed[offset : offset + len(value)] = value
    signature = layout.sign(source._attestation_key, bytes(signed))
    size = struct.pack("<I", len(signature) + len(quote.authentication))
    return bytes(signed) + size + signature + quote.authentication


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_quote_is_accepted(kind: str) -> None:
    claims = accepted(good(kind))
    assert claims.tee is KINDS[kind][0]
    assert claims.report_data == REPORT_DATA
    assert claims.simulated
    assert claims.anchor == "SIMULATED SGX Root CA"
    assert claims.tcb_status == "UpToDate"
    assert claims.tcb_date == datetime(2025, 5, 14, tzinfo=UTC)
    assert claims.tcb_evaluation_data_number == 17
    assert not claims.debug
    assert len(claims.chip_id) == 32
    assert claims.flags["smt"]
    assert "debug" not in claims.flags
    assert claims.not_after > NOW


def test_claims_end_with_what_ends_first() -> None:
    claims = accepted(good())
    next_update = NOW - timedelta(days=1) + timedelta(days=30)
    assert claims.not_after == next_update - timedelta(seconds=1)  # the revocation lists


def test_registers_that_were_asked_for_are_claimed() -> None:
    registers = {name: f"{index:02x}" * 48 for index, name in enumerate(("mrtd", "rtmr0", "rtmr3", "mrconfigid"), 1)}
    claims = accepted(platform("tdx-v4", measurements=registers).attest(REPORT_DATA))
    assert registers.items() <= claims.measurements.items()
    assert claims.measurements["rtmr1"] == "00" * 48


def test_time_without_a_zone_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="time zone"):
        verify(good(), anchors=[simulation.anchor()], now=datetime(2026, 1, 15), checks=Checklist())  # noqa: DTZ001 - that is the mistake


def test_time_in_another_zone_is_the_same_time() -> None:
    zone = datetime.strptime("+0530", "%z").tzinfo
    assert accepted(good(), now=NOW.astimezone(zone)).report_data == REPORT_DATA


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_that_names_another_tee_is_refused(kind: str) -> None:
    other = TEE.INTEL_TDX if kind == "sgx-v3" else TEE.INTEL_SGX
    evidence = msgspec.structs.replace(good(kind), tee=other)
    assert simulation.step_and_code(evidence) == ("evidence", "evidence.tee")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["header user data", "first byte of the body", "report data", "signature"])
def test_a_quote_altered_after_signing_is_refused(kind: str, part: str) -> None:
    report_data = BODY[kind] + {"sgx-v3": 320, "tdx-v4": 520, "tdx-v5": 520}[kind]
    offset = {
        "header user data": 30,
        "first byte of the body": BODY[kind],
        "report data": report_data,
        "signature": AUTHENTICATION[kind] + 5,
    }[part]
    assert step_and_code(kind, flipped(kind, offset)) == ("quote", "quote.signature")


@pytest.mark.parametrize("kind", KINDS)
def test_an_attestation_key_that_the_quoting_enclave_does_not_vouch_for_is_refused(kind: str) -> None:
    source = platform(kind)
    own_key = simulation.healthy(kind)._attestation_key
    quote = parse(source.attest(REPORT_DATA).quote)
    forged = quote.signed + struct.pack("<I", 64 + len(quote.authentication))
    forged += layout.sign(own_key, quote.signed) + layout.public_point(own_key) + quote.authentication[64:]
    evidence = simulation.with_quote(source.attest(REPORT_DATA), forged)
    assert simulation.step_and_code(evidence) == ("quote", "quote.attestation_key")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", [0, 383, 384], ids=["report", "end of report", "signature"])
def test_a_quoting_enclave_report_that_the_pck_did_not_sign_is_refused(kind: str, offset: int) -> None:
    quote = flipped(kind, AUTHENTICATION[kind] + QE_REPORT[kind] + offset)
    assert step_and_code(kind, quote) == ("quote", "quote.qe_report.signature")


@pytest.mark.parametrize(
    ("offset", "value"),
    [(128, bytes(32)), (256, b"\x07\x00"), (16, b"\x01"), (48, b"\x05"), (48, b"\x17"), (258, b"\x00\x00")],
    ids=["MRSIGNER", "ISVPRODID", "MISCSELECT", "ATTRIBUTES", "debug", "ISVSVN"],
)
def test_another_quoting_enclave_than_intels_is_refused(offset: int, value: bytes) -> None:
    source = platform()
    evidence = simulation.with_quote(source.attest(REPORT_DATA), reattested(source, qe={offset: value}))
    assert simulation.step_and_code(evidence) == ("quote", "quote.qe_identity")


def test_the_genuine_quoting_enclave_signed_anew_is_accepted() -> None:
    """Else the test above would prove nothing."""
    source = platform()
    accepted(simulation.with_quote(source.attest(REPORT_DATA), reattested(source, qe={})))


@pytest.mark.parametrize("kind", KINDS)
def test_debug_is_refused_after_the_signatures_were_found_good(kind: str) -> None:
    evidence = platform(kind, faults=Faults(attributes=frozenset({"debug"}))).attest(REPORT_DATA)
    error = refused(evidence)
    assert (error.step, error.code) == ("debug", "platform.debug")


@pytest.mark.parametrize(
    ("kind", "flip", "code"),
    [
        ("tdx-v4", "sept_ve_disable", "platform.sept_ve_disable"),
        ("tdx-v5", "sept_ve_disable", "platform.sept_ve_disable"),
        ("tdx-v4", "migratable", "platform.attributes"),
        ("tdx-v4", "hgs_plus_profiling", "platform.attributes"),
        ("tdx-v4", "perf_profiling", "platform.attributes"),
        ("tdx-v4", "pmt_profiling", "platform.attributes"),
        ("tdx-v4", "servtd_ext", "platform.attributes"),
        ("tdx-v4", "tpa", "platform.attributes"),
        ("sgx-v3", "init", "platform.attributes"),
    ],
)
def test_attributes_that_break_the_tees_promise_are_refused(kind: str, flip: str, code: str) -> None:
    evidence = platform(kind, faults=Faults(attributes=frozenset({flip}))).attest(REPORT_DATA)
    assert simulation.step_and_code(evidence) == ("debug", code)


@pytest.mark.parametrize(
    ("kind", "bit"), [("tdx-v4", 1), ("tdx-v4", 20), ("tdx-v4", 40), ("sgx-v3", 3), ("sgx-v3", 40)]
)
def test_attribute_bits_without_a_name_are_refused(kind: str, bit: int) -> None:
    at = BODY[kind] + {"sgx-v3": 48, "tdx-v4": 120}[kind]
    usual = parse(good(kind).quote).signed[at : at + 8]
    attributes = (int.from_bytes(usual, "little") | 1 << bit).to_bytes(8, "little")
    source = platform(kind)
    evidence = simulation.with_quote(source.attest(REPORT_DATA), signed_again(source, {at: attributes}))
    error = refused(evidence)
    assert (error.step, error.code) == ("debug", "platform.attributes")
    assert f"{1 << bit:#x}" in error.got


@pytest.mark.parametrize(
    ("kind", "flip"),
    [("tdx-v4", "perfmon"), ("tdx-v4", "pks"), ("tdx-v4", "kl"), ("sgx-v3", "provisioning_key"), ("sgx-v3", "kss")],
)
def test_attributes_that_a_policy_decides_on_are_claimed(kind: str, flip: str) -> None:
    claims = accepted(platform(kind, faults=Faults(attributes=frozenset({flip}))).attest(REPORT_DATA))
    assert claims.flags[flip]


def test_a_trust_domain_under_a_service_td_is_refused() -> None:
    evidence = platform("tdx-v5", measurements={"mrservicetd": "01" * 48}).attest(REPORT_DATA)
    assert simulation.step_and_code(evidence) == ("debug", "platform.service_td")


@pytest.mark.parametrize(
    "status",
    [
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_tcb_status_is_claimed_not_judged(kind: str, status: str) -> None:
    faults = Faults(tcb_status=status, advisories=("INTEL-SA-00615",))
    claims = accepted(platform(kind, faults=faults).attest(REPORT_DATA))
    assert (claims.tcb_status, claims.advisories) == (status, ("INTEL-SA-00615",))
    old = datetime(2023, 8, 9, tzinfo=UTC)
    assert claims.tcb_date == (old if status.startswith("OutOfDate") else datetime(2025, 5, 14, tzinfo=UTC))


@pytest.mark.parametrize("kind", KINDS)
def test_a_revoked_tcb_level_is_refused(kind: str) -> None:
    evidence = platform(kind, faults=Faults(tcb_status="Revoked")).attest(REPORT_DATA)
    assert simulation.step_and_code(evidence) == ("tcb", "tcb.revoked")


def test_an_outdated_quoting_enclave_makes_the_platform_out_of_date() -> None:
    claims = accepted(platform(faults=Faults(qe_tcb_status="OutOfDate")).attest(REPORT_DATA))
    assert claims.tcb_status == "OutOfDate"
    assert claims.tcb_date == datetime(2023, 8, 9, tzinfo=UTC)


def test_a_revoked_quoting_enclave_is_refused() -> None:
    evidence = platform(faults=Faults(qe_tcb_status="Revoked")).attest(REPORT_DATA)
    assert simulation.step_and_code(evidence) == ("tcb", "tcb.revoked")


@pytest.mark.parametrize("status", ["ConfigurationNeeded", "OutOfDateConfigurationNeeded"])
def test_a_status_that_no_quoting_enclave_has_is_refused_and_not_merged_away(status: str) -> None:
    """dcap-qvl 0.7 merges both with an up-to-date platform into UpToDate."""
    evidence = platform(faults=Faults(qe_tcb_status=status)).attest(REPORT_DATA)
    assert simulation.step_and_code(evidence) == ("tcb", "tcb.unknown")


def raise_component(tcb_info: dict[str, Any]) -> None:
    tcb_info["tcbLevels"][0]["tcb"]["sgxtcbcomponents"][0]["svn"] = 200


def raise_pce(tcb_info: dict[str, Any]) -> None:
    tcb_info["tcbLevels"][0]["tcb"]["pcesvn"] = 200


@pytest.mark.parametrize("edit", [raise_component, raise_pce])
def test_a_platform_below_every_tcb_level_is_refused(edit: Any) -> None:
    assert simulation.step_and_code(resigned(platform(), tcb_info=edit)) == ("tcb", "tcb.unknown")


def other_module_signer(tcb_info: dict[str, Any]) -> None:
    tcb_info["tdxModuleIdentities"][0]["mrsigner"] = "11" * 48


def other_module_attributes(tcb_info: dict[str, Any]) -> None:
    tcb_info["tdxModuleIdentities"][0]["attributes"] = "01" * 8


def other_module_line(tcb_info: dict[str, Any]) -> None:
    tcb_info["tdxModuleIdentities"][0]["id"] = "TDX_07"


def newer_module(tcb_info: dict[str, Any]) -> None:
    tcb_info["tdxModuleIdentities"][0]["tcbLevels"][0]["tcb"]["isvsvn"] = 200


@pytest.mark.parametrize("edit", [other_module_signer, other_module_attributes, other_module_line, newer_module])
def test_a_tdx_module_that_intel_did_not_publish_is_refused(edit: Any) -> None:
    assert simulation.step_and_code(resigned(platform(), tcb_info=edit)) == ("tcb", "tcb.tdx_module")


def two_levels(tcb_info: dict[str, Any]) -> None:
    """An older level for TDX component 2 below what the platform has at launch."""
    level = tcb_info["tcbLevels"][0]
    older = msgspec.json.decode(msgspec.json.encode(level))
    older["tcb"]["tdxtcbcomponents"][2]["svn"] = 1
    older |= {"tcbDate": "2022-01-01T00:00:00Z", "tcbStatus": "OutOfDate", "advisoryIDs": ["INTEL-SA-1"]}
    tcb_info["tcbLevels"] = [level, older]


TEE_TCB_SVN, TEE_TCB_SVN_2 = 54, 54 + 584
OLDER = bytes([5, 1, 1])


def test_a_module_downgraded_since_launch_counts_with_its_own_level() -> None:
    source = platform("tdx-v5")
    quote = signed_again(source, {TEE_TCB_SVN_2: OLDER})
    claims = accepted(resigned(source, tcb_info=two_levels, quote=quote))
    assert (claims.tcb_status, claims.advisories) == ("OutOfDate", ("INTEL-SA-1",))
    assert claims.tcb_date == datetime(2022, 1, 1, tzinfo=UTC)


def test_a_module_updated_since_launch_is_told_from_one_that_is_out_of_date() -> None:
    source = platform("tdx-v5")
    quote = signed_again(source, {TEE_TCB_SVN: OLDER})
    claims = accepted(resigned(source, tcb_info=two_levels, quote=quote))
    assert claims.tcb_status == "TDRelaunchAdvised"
    assert claims.tcb_date == datetime(2022, 1, 1, tzinfo=UTC)


def test_a_module_that_runs_below_every_level_is_refused() -> None:
    source = platform("tdx-v5")
    quote = signed_again(source, {TEE_TCB_SVN_2: bytes(3)})
    assert simulation.step_and_code(resigned(source, quote=quote)) == ("tcb", "tcb.unknown")


@pytest.mark.parametrize(
    ("faults", "late"),
    [
        (Faults(attributes=frozenset({"debug"})), "platform.debug"),
        (Faults(attributes=frozenset({"sept_ve_disable"})), "platform.sept_ve_disable"),
        (Faults(tcb_status="Revoked"), "tcb.revoked"),
    ],
)
def test_a_refusal_of_a_later_step_means_that_the_signatures_hold(faults: Faults, late: str) -> None:
    """The table relies on the order in which dcap-qvl checks."""
    source = platform(faults=faults)
    evidence = source.attest(REPORT_DATA)
    assert refused(evidence).code == late
    altered = evidence.quote.replace(REPORT_DATA, REPORT_DATA[::-1])
    assert refused(simulation.with_quote(evidence, altered)).code == "quote.signature"
    unsigned = bytearray(evidence.quote)
    unsigned[AUTHENTICATION["tdx-v4"] + QE_REPORT["tdx-v4"] + 384] ^= 1
    assert refused(simulation.with_quote(evidence, bytes(unsigned))).code == "quote.qe_report.signature"


@pytest.mark.parametrize("edit", [raise_component, newer_module])
def test_an_unknown_tcb_level_means_that_the_signatures_hold(edit: Any) -> None:
    source = platform()
    altered = source.attest(REPORT_DATA).quote.replace(REPORT_DATA, REPORT_DATA[::-1])
    assert refused(resigned(source, tcb_info=edit, quote=altered)).code == "quote.signature"


def test_a_status_unknown_here_is_worse_than_any_other() -> None:
    assert intel._badness("Nonsense") > intel._badness("OutOfDateConfigurationNeeded") > intel._badness("UpToDate")


def no_components(tcb_info: dict[str, Any]) -> None:
    tcb_info["tcbLevels"][0]["tcb"]["sgxtcbcomponents"] = []


def test_a_refusal_in_words_that_are_not_in_the_table_is_still_a_refusal() -> None:
    error = refused(resigned(platform(), tcb_info=no_components))
    assert (error.step, error.code) == ("quote", "quote.refused")
    assert "component count" in error.got


@pytest.mark.parametrize("sentence", intel._REFUSALS)
def test_every_sentence_in_the_table_has_its_refusal(sentence: str) -> None:
    error = intel._refusal_of(f"Verification failed: {sentence} and more", parse(good().quote))
    expected = intel._REFUSALS[sentence]
    assert (error.step, error.code) == (expected.step, expected.code)
    assert error.step in {"quote", "tcb", "debug"}


# What was accepted before is remembered: nothing of it may vouch for what was altered since.


def verdicts(claims: Claims) -> tuple[object, ...]:
    return claims.tee, claims.measurements, claims.tcb_status, claims.not_after, claims.flags, claims.chip_id


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_quote_of_a_known_enclave_is_accepted_with_its_own_report_data(kind: str) -> None:
    source = platform(kind)
    first = accepted(source.attest(REPORT_DATA))
    second = accepted(source.attest(REPORT_DATA[::-1]))
    assert second.report_data == REPORT_DATA[::-1]
    assert verdicts(first) == verdicts(second)


@pytest.mark.parametrize("kind", KINDS)
def test_report_data_swapped_on_a_known_enclave_is_refused(kind: str) -> None:
    source = platform(kind)
    evidence = source.attest(REPORT_DATA)
    accepted(evidence)
    assert evidence.quote.count(REPORT_DATA) == 1
    swapped = evidence.quote.replace(REPORT_DATA, REPORT_DATA[::-1])
    assert simulation.step_and_code(simulation.with_quote(evidence, swapped)) == ("quote", "quote.signature")
    accepted(evidence)


def test_a_known_enclave_is_refused_once_its_collateral_has_expired() -> None:
    source = platform()
    end = accepted(source.attest(REPORT_DATA)).not_after
    late = end + timedelta(seconds=1)
    assert simulation.step_and_code(source.attest(REPORT_DATA), now=late) == (
        "endorsements",
        "endorsements.crl.expired",
    )


def test_a_known_enclave_is_refused_without_its_anchor() -> None:
    source = platform()
    accepted(source.attest(REPORT_DATA))
    assert simulation.step_and_code(source.attest(REPORT_DATA), anchors=()) == ("endorsements", "endorsements.anchor")


def test_a_known_enclave_with_other_collateral_is_judged_by_that() -> None:
    source = platform()
    accepted(source.attest(REPORT_DATA))
    older = resigned(source, tcb_info=lambda info: info["tcbLevels"][0].update(tcbStatus="OutOfDate"))
    assert accepted(older).tcb_status == "OutOfDate"
    assert accepted(source.attest(REPORT_DATA)).tcb_status == "UpToDate"


@pytest.mark.parametrize("kind", KINDS)
def test_a_known_enclave_that_turns_to_debug_is_refused(kind: str) -> None:
    source = platform(kind)
    accepted(source.attest(REPORT_DATA))
    at = BODY[kind] + {"sgx-v3": 48, "tdx-v4": 120, "tdx-v5": 120}[kind]
    attributes = int.from_bytes(parse(source.attest(REPORT_DATA).quote).signed[at : at + 8], "little")
    debug = (attributes | {"sgx-v3": 2, "tdx-v4": 1, "tdx-v5": 1}[kind]).to_bytes(8, "little")
    quote = signed_again(source, {at: debug})
    evidence = simulation.with_quote(source.attest(REPORT_DATA), quote)
    assert simulation.step_and_code(evidence) == ("debug", "platform.debug")


def test_a_simulated_root_taken_for_a_real_one_is_still_called_simulated() -> None:
    mistaken = msgspec.structs.replace(simulation.anchor(), name="Corporate root", simulated=False)
    claims = accepted(good(), anchors=(mistaken,))
    assert claims.simulated
    assert claims.anchor == "Corporate root"


def test_every_refusal_explains_itself() -> None:
    error = refused(platform(faults=Faults(attributes=frozenset({"debug"}))).attest(REPORT_DATA))
    assert isinstance(error, AttestationError)
    text = str(error)
    assert "debug" in text
    assert "no prompt, tensor or API key was sent" in text
