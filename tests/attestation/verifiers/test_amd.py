from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from tests.attestation import simulation, snp
from tests.attestation.snp import NOW, REPORT_DATA, accepted, good, healthy, platform, refused, resigned, step_and_code

from blindai.attestation.anchors import AMD_ROOTS
from blindai.attestation.claims import FLAGS, PROTECTIVE_FLAGS
from blindai.attestation.evidence import TEE
from blindai.attestation.result import Checklist
from blindai.attestation.verifiers import amd, verify
from blindai.attestation.verifiers.amd_report import PLATFORM_BITS, POLICY_BITS, TCBS

SECOND = timedelta(seconds=1)
TCB = {"boot_loader": 4, "tee": 0, "snp": 23, "microcode": 213}


@pytest.mark.parametrize("kind", snp.KINDS, ids=str)
def test_every_kind_of_platform_is_accepted(kind: tuple[Any, ...]) -> None:
    product, _, key = kind
    claims = accepted(good(*kind))
    assert (claims.tee, claims.product, claims.signing_key) == (TEE.AMD_SEV_SNP, product, key)
    assert (claims.simulated, claims.anchor, claims.crl_checked) == (True, "SIMULATED ARK", True)
    assert claims.report_data == REPORT_DATA
    assert claims.tcb == TCB | ({"fmc": 1} if product == "Turin" else {})
    assert claims.svns["guest_svn"] == 0
    assert len(bytes.fromhex(claims.chip_id)) == 64
    assert (claims.vmpl, claims.debug) == (0, False)


def test_the_dispatch_and_the_function_for_one_report_agree() -> None:
    evidence, checks = good(), Checklist()
    claims = amd.verify_report(
        evidence.quote,
        evidence.amd,
        tee=TEE.AZURE_SEV_SNP,
        anchors=(snp.anchor(),),
        now=NOW,
        checks=checks,
        of="azure.hcl_report",
    )
    assert claims.tee is TEE.AZURE_SEV_SNP
    assert {location.of for location in claims.locations.values()} == {"azure.hcl_report"}
    assert claims.measurements == accepted(evidence).measurements
    assert "azure.hcl_report" in {used.of for check in checks.checks for used in check.ranges}


def test_every_byte_that_is_hashed_or_compared_is_shown() -> None:
    evidence, checks = good(), Checklist()
    claims = verify(evidence, anchors=(snp.anchor(),), now=NOW, checks=checks)
    ranges = {(used.of, used.start, used.end): used for check in checks.checks for used in check.ranges}
    assert ranges["quote", 0, 0x2A0].use == "SHA-384, signed by the VCEK (ECDSA P-384)"
    assert ranges["quote", 0x1A0, 0x1E0].value == claims.chip_id
    assert {of for of, *_ in ranges} == {"quote", "amd.root", "amd.authority", "amd.certificate", "amd.crl"}
    endorsements = snp.endorsements_of(evidence)
    for name in ("root", "authority", "certificate", "crl"):
        der = getattr(endorsements, name)
        (found,) = (used for (of, *_), used in ranges.items() if of == f"amd.{name}")
        assert found.start == 4
        assert der[found.end : found.end + 2] == b"\x30\x41"  # the algorithm follows what is signed
    shown = claims.locations["report_data"]
    assert evidence.quote[shown.start : shown.end] == REPORT_DATA
    for register, value in claims.measurements.items():
        at = claims.locations[register]
        assert evidence.quote[at.start : at.end].hex() == value


def test_version_2_does_not_say_which_processor_it_is() -> None:
    assert "product" not in accepted(good("Milan", 2)).locations
    assert accepted(good("Milan", 3)).locations["product"].start == 0x188


def test_evidence_without_certificates_is_refused() -> None:
    evidence = platform(without_endorsements=True).attest(REPORT_DATA)
    assert step_and_code(evidence) == ("endorsements", "endorsements.missing")


def test_a_missing_revocation_list_is_left_to_the_policy() -> None:
    assert not accepted(platform(without_crl=True).attest(REPORT_DATA)).crl_checked


def test_another_root_is_refused() -> None:
    error = refused(good(), anchors=AMD_ROOTS)
    assert (error.step, error.code) == ("endorsements", "endorsements.anchor")
    assert "simulated" in error.likely
    assert refused(good(), anchors=()).expected == "no root at all"


def test_the_right_root_under_another_vendors_name_is_refused() -> None:
    intel = simulation.anchor()
    impostor = type(intel)(intel.name, intel.vendor, snp.anchor().spki_sha256, simulated=True)
    assert refused(good(), anchors=(impostor,)).code == "endorsements.anchor"


def test_a_policy_that_takes_a_simulated_root_for_a_real_one_cannot_hide_it() -> None:
    anchor = snp.anchor()
    real = type(anchor)("ARK-Milan", anchor.vendor, anchor.spki_sha256)
    assert simulation.accepted(good(), anchors=(real,), now=NOW).simulated


def test_now_must_have_a_time_zone_and_may_have_any() -> None:
    with pytest.raises(ValueError, match="time zone"):
        verify(good(), anchors=(snp.anchor(),), now=NOW.replace(tzinfo=None), checks=Checklist())
    elsewhere = NOW.astimezone(timezone(timedelta(hours=9))).replace(microsecond=999999)
    assert accepted(good(), now=elsewhere) == accepted(good())


# --- Time


def windows() -> dict[str, tuple[datetime, datetime]]:
    day = timedelta(days=1)
    start = NOW - day
    return {
        "certificate": (start, start + timedelta(days=7 * 365)),
        "crl": (start, start + timedelta(days=30) - SECOND),
    }


def test_evidence_is_accepted_from_the_first_second_to_the_last() -> None:
    first, last = windows()["crl"]
    for now in (first, last):
        assert accepted(good(), now=now).not_after == last
    source = platform(without_crl=True).attest(REPORT_DATA)
    first, last = windows()["certificate"]
    for now in (first, last):
        assert accepted(source, now=now).not_after == last


@pytest.mark.parametrize(("kind", "without_crl"), [("certificate", True), ("crl", False)])
def test_one_second_outside_it_is_refused(kind: str, without_crl: bool) -> None:
    shift = {"signer_shift" if kind == "crl" else "crl_shift": -timedelta(days=9)}
    evidence = platform(without_crl=without_crl, **shift).attest(REPORT_DATA)
    first, last = windows()[kind]
    if kind == "certificate":
        assert step_and_code(evidence, now=first - SECOND) == ("endorsements", "endorsements.certificate.not_yet_valid")
    assert step_and_code(evidence, now=last + SECOND) == ("endorsements", f"endorsements.{kind}.expired")


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"signer_shift": timedelta(days=-8 * 365)}, "certificate.expired"),
        ({"signer_shift": timedelta(days=2)}, "certificate.not_yet_valid"),
        ({"crl_shift": timedelta(days=-60)}, "crl.expired"),
        ({"crl_shift": timedelta(days=2)}, "crl.not_yet_valid"),
    ],
)
def test_what_is_not_valid_now_is_refused(fault: dict[str, timedelta], code: str) -> None:
    assert step_and_code(platform(**fault).attest(REPORT_DATA)) == ("endorsements", f"endorsements.{code}")


def test_time_is_compared_anew_although_the_chain_is_remembered() -> None:
    evidence = platform().attest(REPORT_DATA)
    accepted(evidence)
    late = NOW + timedelta(days=40)
    assert step_and_code(evidence, now=late) == ("endorsements", "endorsements.crl.expired")
    accepted(evidence)


# --- Certificates for something else


@pytest.mark.parametrize("product", snp.PRODUCTS)
@pytest.mark.parametrize("key", ["vcek", "vlek"])
def test_a_certificate_for_other_firmware_is_refused(product: str, key: str) -> None:
    for part in accepted(good(product, 3, key)).tcb:
        source = platform(product=product, signing_key=key, certificate_tcb={part: 99})
        assert step_and_code(source.attest(REPORT_DATA)) == ("endorsements", "endorsements.tcb")


@pytest.mark.parametrize("product", snp.PRODUCTS)
def test_a_certificate_for_another_chip_is_refused(product: str) -> None:
    source = platform(product=product, other_chip=True)
    assert step_and_code(source.attest(REPORT_DATA)) == ("endorsements", "endorsements.chip")


def test_a_turin_chip_id_with_more_than_its_identity_is_refused() -> None:
    changed = resigned(healthy("Turin"), {0x1DF: b"\x01"})
    assert step_and_code(changed) == ("endorsements", "endorsements.chip")


@pytest.mark.parametrize("product", snp.PRODUCTS)
@pytest.mark.parametrize("key", ["vcek", "vlek"])
def test_a_masked_chip_is_accepted_and_has_no_name(product: str, key: str) -> None:
    claims = accepted(platform(product=product, signing_key=key, masked_chip=True).attest(REPORT_DATA))
    assert claims.chip_id == ""


@pytest.mark.parametrize("key", ["vcek", "vlek"])
def test_a_report_that_names_the_other_key_is_refused(key: str) -> None:
    error = refused(platform(signing_key=key, other_signing_key=True).attest(REPORT_DATA))
    assert (error.step, error.code) == ("endorsements", "endorsements.signing_key")
    assert error.got == key.upper()


@pytest.mark.parametrize(("product", "cpu"), [(a, b) for a in snp.PRODUCTS for b in snp.PRODUCTS if a != b])
@pytest.mark.parametrize("version", [3, 5])
def test_a_processor_of_another_product_line_is_refused(product: str, cpu: str, version: int) -> None:
    source = platform(product=product, cpu=cpu, report_version=version)
    assert step_and_code(source.attest(REPORT_DATA)) == ("endorsements", "endorsements.product")


@pytest.mark.parametrize(
    ("product", "family", "model"),
    [
        *(("Milan", 0x19, model) for model in (0x00, 0x0F)),
        *(("Genoa", 0x19, model) for model in (0x10, 0x1F, 0xA0, 0xAF)),
        *(("Turin", 0x1A, model) for model in (0x00, 0x11, 0x1F)),
    ],
)
def test_the_processors_of_a_product_line_are_those_of_the_specification(product: str, family: int, model: int) -> None:
    accepted(resigned(healthy(product), {0x188: bytes([family, model, 0])}))


@pytest.mark.parametrize(
    ("product", "family", "model"),
    [
        ("Milan", 0x19, 0x10),
        ("Milan", 0x17, 0x01),
        ("Genoa", 0x19, 0x0F),
        ("Genoa", 0x19, 0x20),
        ("Genoa", 0x19, 0x9F),
        ("Genoa", 0x19, 0xB0),
        ("Turin", 0x1A, 0x20),
        ("Turin", 0x19, 0x00),
        ("Turin", 0, 0),
    ],
)
def test_their_neighbours_are_not(product: str, family: int, model: int) -> None:
    changed = resigned(healthy(product), {0x188: bytes([family, model, 0])})
    assert step_and_code(changed) == ("endorsements", "endorsements.product")


@pytest.mark.parametrize("place", [0x180, 0x1E0, 0x38, 0x1F0], ids=["reported", "committed", "current", "launch"])
@pytest.mark.parametrize(("product", "reserved"), [("Milan", (2, 3, 4, 5)), ("Genoa", (2, 5)), ("Turin", (4, 5, 6))])
def test_reserved_bytes_of_a_tcb_are_refused(product: str, reserved: tuple[int, ...], place: int) -> None:
    for byte in reserved:
        changed = resigned(healthy(product, 2), {place + byte: b"\x01"})
        assert step_and_code(changed) == ("endorsements", "endorsements.tcb")


# --- Signature


def test_a_report_that_was_changed_is_refused() -> None:
    report = bytearray(good().quote)
    report[0x90] ^= 1
    assert step_and_code(snp.with_report(good(), bytes(report))) == ("quote", "quote.signature")


@pytest.mark.parametrize("at", [0x2A0, 0x2E8])
@pytest.mark.parametrize("value", [bytes(48), b"\xff" * 48, b"\x01" + bytes(47)], ids=["zero", "too large", "one"])
def test_a_signature_with_a_degenerate_number_is_refused(at: int, value: bytes) -> None:
    report = bytearray(good().quote)
    report[at : at + 48] = value
    assert step_and_code(snp.with_report(good(), bytes(report))) == ("quote", "quote.signature")


def test_a_report_of_another_platform_of_the_same_chip_is_refused() -> None:
    """Its certificate has another key."""
    other = platform().attest(REPORT_DATA)
    assert step_and_code(snp.with_report(good(), other.quote)) == ("quote", "quote.signature")


# --- What is left to the policy


@pytest.mark.parametrize("vmpl", [0, 1, 2, 3])
def test_the_privilege_level_is_left_to_the_policy(vmpl: int) -> None:
    assert accepted(platform(vmpl=vmpl).attest(REPORT_DATA)).vmpl == vmpl


def test_debug_is_left_to_the_policy() -> None:
    assert accepted(platform(policy=frozenset({"debug"})).attest(REPORT_DATA)).debug


@pytest.mark.parametrize("name", ["migratable", "single_socket", "cxl", "mem_aes_256_xts", "page_swap_disabled"])
def test_the_guests_policy_is_in_the_flags(name: str) -> None:
    assert accepted(platform(policy=frozenset({name})).attest(REPORT_DATA)).flags[name]
    assert not accepted(good()).flags[name]


@pytest.mark.parametrize("name", PLATFORM_BITS)
def test_the_platform_is_in_the_flags(name: str) -> None:
    flipped = accepted(platform(platform=frozenset({name})).attest(REPORT_DATA))
    assert flipped.flags[name] is not accepted(good()).flags[name]


def test_every_flag_has_a_meaning_for_the_policy() -> None:
    flags = accepted(good()).flags
    assert set(flags) <= set(FLAGS) | PROTECTIVE_FLAGS
    assert set(flags) | {"debug"} == set(POLICY_BITS) | set(PLATFORM_BITS)
    assert {name for name, is_set in flags.items() if is_set} == {"smt", "ecc", "alias_check"}


def test_smt_says_what_the_platform_does_not_what_the_guest_would_allow() -> None:
    assert not accepted(platform(platform=frozenset({"smt"})).attest(REPORT_DATA)).flags["smt"]


# --- What the firmware would never have let happen


@pytest.mark.parametrize(
    ("name", "contradiction"),
    [("smt", "smt"), ("rapl_disabled", "rapl_disabled"), ("ciphertext_hiding", "ciphertext_hiding")],
)
def test_a_platform_that_is_not_as_its_guest_demands_is_refused(name: str, contradiction: str) -> None:
    error = refused_late(platform(policy=frozenset({name})))
    assert (error.step, error.code) == ("debug", "platform.guest_policy")
    assert error.got.endswith(f"contradiction: {contradiction}")


@pytest.mark.parametrize("name", ["smt", "rapl_disabled", "ciphertext_hiding"])
def test_a_platform_that_is_as_its_guest_demands_is_accepted(name: str) -> None:
    accepted(platform(policy=frozenset({name}), platform=frozenset({name})).attest(REPORT_DATA))


def refused_late(source: Any) -> Any:
    """Refused by a later step than the signature, which is found good before."""
    checks = Checklist()
    error = refused(source.attest(REPORT_DATA))
    with pytest.raises(type(error)):
        verify(source.attest(REPORT_DATA), anchors=(snp.anchor(),), now=NOW, checks=checks)
    *before, last = checks.checks
    assert [check.step for check in before] == ["evidence", "endorsements", "quote"]
    assert last.ranges
    return error


@pytest.mark.parametrize("product", snp.PRODUCTS)
@pytest.mark.parametrize(
    ("older", "newer"),
    [("committed_tcb", "reported_tcb"), ("current_tcb", "committed_tcb"), ("current_tcb", "reported_tcb")],
)
def test_a_rollback_is_refused(product: str, older: str, newer: str) -> None:
    for part in accepted(good(product)).tcb:
        source = platform(product=product, tcbs={newer: {part: 250}})
        if (older, newer) == ("current_tcb", "reported_tcb"):
            source = platform(product=product, tcbs={newer: {part: 250}, "committed_tcb": {part: 250}})
        error = refused_late(source)
        assert (error.step, error.code) == ("tcb", "tcb.rollback")


@pytest.mark.parametrize(
    "tcbs",
    [
        {"current_tcb": {"microcode": 250}},
        {"current_tcb": {"microcode": 250}, "committed_tcb": {"microcode": 220}},
        {"reported_tcb": {"snp": 1}},
        {"launch_tcb": {"snp": 1, "microcode": 250}},
    ],
    ids=["provisional firmware", "committed", "reported behind", "launched elsewhere"],
)
def test_versions_that_may_differ_are_accepted_and_the_lowest_counts(tcbs: dict[str, dict[str, int]]) -> None:
    claims = accepted(platform(tcbs=tcbs).attest(REPORT_DATA))
    for name in TCBS:
        for part, version in (TCB | tcbs.get(name, {})).items():
            assert claims.svns[f"{name.removesuffix('_tcb')}_{part}"] == version
    assert claims.tcb == {part: min((TCB | tcbs.get(name, {}))[part] for name in TCBS) for part in TCB}


def test_the_clock_is_that_of_the_caller() -> None:
    source = snp.platform(clock=lambda: datetime.now(UTC))
    accepted(source.attest(REPORT_DATA), now=datetime.now(UTC))
