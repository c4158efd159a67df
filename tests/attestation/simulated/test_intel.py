from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import dcap_qvl
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.attestation import simulation
from tests.attestation.simulation import KINDS, NOW, REPORT_DATA, accepted, collateral_of, good, healthy, platform

from blindai.attestation.evidence import TEE, Evidence
from blindai.attestation.simulated.collateral import COLLATERAL_LIFETIME
from blindai.attestation.simulated.intel import RENEWAL_MARGIN, Faults, SimulatedIntel
from blindai.attestation.simulated.root import SimulatedRoot


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.mark.parametrize("kind", KINDS)
def test_the_library_alone_accepts_what_the_platform_emits(kind: str) -> None:
    evidence = good(kind)
    fields = {name: getattr(collateral_of(evidence), name) for name in collateral_of(evidence).__struct_fields__}
    collateral = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(fields))
    verifier = dcap_qvl.QuoteVerifier(simulation.root().certificate.public_bytes(Encoding.DER))
    seconds = int(NOW.timestamp())
    claims = verifier.verify_with_policy(
        evidence.quote, collateral, seconds, dcap_qvl.QuotePolicy.strict(seconds).allow_smt(True)
        .allow_dynamic_platform(True).allow_cached_keys(True)
    )  # fmt: skip
    found = json.loads(claims.to_json())
    assert found["tcb"]["status"] == "UpToDate"
    assert found["header"]["version"] == KINDS[kind][1]


@pytest.mark.parametrize("kind", KINDS)
def test_intels_own_root_does_not_accept_it(kind: str) -> None:
    evidence = good(kind)
    fields = {name: getattr(collateral_of(evidence), name) for name in collateral_of(evidence).__struct_fields__}
    collateral = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(fields))
    seconds = int(NOW.timestamp())
    with pytest.raises(ValueError, match="Verification failed"):
        dcap_qvl.QuoteVerifier(None).verify_with_policy(
            evidence.quote, collateral, seconds, dcap_qvl.QuotePolicy.claims_only(seconds)
        )


def test_every_certificate_says_simulated_in_its_names() -> None:
    pki = healthy().pki
    for holder in (pki.root, pki.pck_ca, pki.pck, pki.tcb_signer):
        for name in (holder.certificate.subject, holder.certificate.issuer):
            assert all("SIMULATED" in str(attribute.value) for attribute in name)


def test_evidence_survives_its_way_over_the_wire() -> None:
    evidence = good()
    assert Evidence.decode(evidence.encode()) == evidence


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_of_another_size_is_a_mistake_of_the_caller(size: int) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        healthy().attest(bytes(size))


@pytest.mark.parametrize(
    ("tee", "version"), [(TEE.INTEL_SGX, 4), (TEE.INTEL_SGX, 5), (TEE.INTEL_TDX, 3), (TEE.INTEL_TDX, 6)]
)
def test_a_quote_version_that_does_not_exist_is_a_mistake_of_the_caller(tee: TEE, version: int) -> None:
    with pytest.raises(ValueError, match="no quote version"):
        SimulatedIntel(simulation.root(), tee=tee, quote_version=version)


@pytest.mark.parametrize(
    ("kind", "measurements", "message"),
    [
        ("tdx-v4", {"mrenclave": "00" * 32}, "no register mrenclave"),
        ("sgx-v3", {"mrtd": "00" * 48}, "no register mrtd"),
        ("tdx-v4", {"mrtd": "00" * 32}, "mrtd is 48 bytes, not 32"),
        ("sgx-v3", {"mrsigner": "00" * 48}, "mrsigner is 32 bytes, not 48"),
    ],
)
def test_a_register_that_does_not_exist_is_a_mistake_of_the_caller(
    kind: str, measurements: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        platform(kind, measurements=measurements)


def test_the_processor_stays_the_same_and_the_keys_do_not() -> None:
    one, two = platform(), platform()
    assert accepted(one.attest(REPORT_DATA)).chip_id == accepted(two.attest(REPORT_DATA)).chip_id
    assert one.pki.pck.certificate != two.pki.pck.certificate


def test_another_installation_is_another_processor() -> None:
    other = SimulatedIntel(SimulatedRoot.generate(NOW), clock=lambda: NOW)
    claims = accepted(other.attest(REPORT_DATA), anchors=(other.anchor,))
    assert claims.chip_id != accepted(good()).chip_id


def test_collateral_is_renewed_before_it_expires() -> None:
    clock = Clock()
    source = SimulatedIntel(simulation.root(), clock=clock)
    first = source.collateral()
    clock.now += timedelta(days=10)
    assert source.collateral() is first
    for _ in range(20):
        clock.now += timedelta(days=9)
        claims = accepted(source.attest(REPORT_DATA), now=clock.now)
        assert claims.not_after - clock.now >= RENEWAL_MARGIN - timedelta(days=1)
    assert source.collateral() != first


def test_a_client_whose_clock_is_an_hour_off_accepts_fresh_collateral() -> None:
    for minutes in (-60, 60):
        accepted(good(), now=NOW + timedelta(minutes=minutes))


def test_collateral_lives_as_long_as_intels() -> None:
    info = json.loads(collateral_of(good()).tcb_info)
    issued, ends = (datetime.fromisoformat(info[name]) for name in ("issueDate", "nextUpdate"))
    assert ends - issued == COLLATERAL_LIFETIME


def test_the_clock_is_the_real_one_by_default() -> None:
    source = SimulatedIntel(SimulatedRoot.generate())
    accepted(source.attest(REPORT_DATA), anchors=(source.anchor,), now=datetime.now(UTC))


def test_several_threads_may_ask_at_once() -> None:
    source = platform()
    with ThreadPoolExecutor(4) as pool:
        wanted = [index.to_bytes(64) for index in range(64)]
        for report_data, evidence in zip(wanted, pool.map(source.attest, wanted), strict=True):
            assert accepted(evidence).report_data == report_data


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        (Faults(attributes=frozenset({"debug"})), "platform.debug"),
        (Faults(attributes=frozenset({"sept_ve_disable"})), "platform.sept_ve_disable"),
        (Faults(tcb_status="Revoked"), "tcb.revoked"),
        (Faults(qe_tcb_status="Revoked"), "tcb.revoked"),
        (Faults(collateral_shift=timedelta(days=-60)), "endorsements.tcb_info.expired"),
        (Faults(collateral_shift=timedelta(days=2)), "endorsements.tcb_info.not_yet_valid"),
        (Faults(revoked=frozenset({"pck"})), "endorsements.revoked"),
        (Faults(revoked=frozenset({"pck_ca", "tcb_signer"})), "endorsements.revoked"),
        (Faults(tcb_info_signed_by_pck=True), "endorsements.role"),
        (Faults(without_collateral=True), "endorsements.missing"),
    ],
)
def test_each_fault_is_found(faults: Faults, code: str) -> None:
    assert simulation.refused(platform(faults=faults).attest(REPORT_DATA)).code == code


def test_a_faulty_platform_is_not_healed_by_renewal() -> None:
    clock = Clock()
    source = SimulatedIntel(simulation.root(), clock=clock, faults=Faults(collateral_shift=timedelta(days=-60)))
    clock.now += timedelta(days=25)
    error: Any = simulation.refused(source.attest(REPORT_DATA), now=clock.now)
    assert error.code == "endorsements.tcb_info.expired"
