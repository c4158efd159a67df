"""Evidence of real processors, each file judged as its folder's README says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from tests.attestation.simulation import accepted, refused, step_and_code

from blindai.attestation import eventlog
from blindai.attestation.anchors import INTEL_SGX_ROOT
from blindai.attestation.evidence import TEE, Evidence, IntelCollateral
from blindai.attestation.verifiers.intel_quote import parse, require_no_trailing_data, require_strict_attributes
from blindai.errors import AttestationError

INTEL = (INTEL_SGX_ROOT,)
SECOND = timedelta(seconds=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


GENUINE = {
    "sgx_v3": (TEE.INTEL_SGX, at("2025-06-19T10:56:11"), at("2025-07-19T10:01:18")),
    "tdx_v4": (TEE.INTEL_TDX, at("2025-06-19T10:32:27"), at("2025-07-19T10:00:34")),
}


def load(vectors: Path, name: str) -> Evidence:
    tee = TEE.INTEL_SGX if name.startswith("sgx") else TEE.INTEL_TDX
    collateral = vectors / "intel" / f"{name}_collateral.json"
    return Evidence(
        tee,
        (vectors / "intel" / f"{name}_quote.bin").read_bytes(),
        msgspec.json.decode(collateral.read_bytes(), type=IntelCollateral) if collateral.exists() else None,
    )


@pytest.mark.parametrize("name", GENUINE)
@pytest.mark.parametrize("end", [0, 1], ids=["first second", "last second"])
def test_genuine_evidence_is_accepted_for_as_long_as_its_collateral_holds(vectors: Path, name: str, end: int) -> None:
    tee, *validity = GENUINE[name]
    claims = accepted(load(vectors, name), anchors=INTEL, now=validity[end])
    assert (claims.tee, claims.simulated, claims.anchor) == (tee, False, "Intel SGX Root CA")
    assert claims.not_after == validity[1]


@pytest.mark.parametrize("name", GENUINE)
def test_one_second_outside_its_time_genuine_evidence_is_refused(vectors: Path, name: str) -> None:
    _, start, end = GENUINE[name]
    early = {"sgx_v3": "endorsements.tcb_info.not_yet_valid", "tdx_v4": "endorsements.qe_identity.not_yet_valid"}
    late = {"sgx_v3": "endorsements.qe_identity.expired", "tdx_v4": "endorsements.crl.expired"}
    evidence = load(vectors, name)
    assert step_and_code(evidence, anchors=INTEL, now=start - SECOND) == ("endorsements", early[name])
    assert step_and_code(evidence, anchors=INTEL, now=end + SECOND) == ("endorsements", late[name])


def test_the_sgx_quote_says_what_its_readme_says(vectors: Path) -> None:
    claims = accepted(load(vectors, "sgx_v3"), anchors=INTEL, now=at("2025-07-01T00:00:00"))
    assert claims.tcb_status == "ConfigurationAndSWHardeningNeeded"
    assert claims.tcb_date == at("2024-03-13T00:00:00")
    assert claims.tcb_evaluation_data_number == 17
    assert claims.advisories == ("INTEL-SA-00289", "INTEL-SA-00615")
    assert claims.report_data == b"Hello, world!".ljust(64, b"\0")
    assert claims.measurements["mrenclave"] == "33d8736db756ed4997e04ba358d27833188f1932ff7b1d156904d3f560452fbb"
    assert claims.measurements["mrsigner"] == "815f42f11cf64430c30bab7816ba596a1da0130c3b028b673133a66cf9a3e0e6"
    assert claims.svns == {"isv_prod_id": 0, "isv_svn": 0, "config_svn": 0, "pce_svn": 13, "qe_svn": 10}
    assert claims.chip_id == "d04ec06d4e6d92dc90d0ad3cf5ee2ddf"
    assert not claims.debug
    assert {name for name, is_set in claims.flags.items() if is_set} == {"init", "mode64"}
    assert not {"smt", "dynamic_platform", "cached_keys"} & set(claims.flags)  # this processor does not say


def test_the_tdx_quote_says_what_its_readme_says(vectors: Path) -> None:
    claims = accepted(load(vectors, "tdx_v4"), anchors=INTEL, now=at("2025-07-01T00:00:00"))
    assert (claims.tcb_status, claims.advisories) == ("UpToDate", ())
    assert {name for name, is_set in claims.flags.items() if is_set} == {
        "sept_ve_disable",
        "smt",
        "dynamic_platform",
        "cached_keys",
    }
    assert claims.measurements["mrtd"].startswith("91eb2b44d141d4ec")
    assert claims.measurements["rtmr0"].startswith("44c0197b39157fdd")
    assert claims.measurements["xfam"] == "e702060000000000"
    assert claims.svns == {"tdx_module_svn": 6, "tdx_module_version": 1, "pce_svn": 11, "qe_svn": 6}


@pytest.mark.parametrize("name", GENUINE)
def test_genuine_evidence_under_another_anchor_is_refused(vectors: Path, name: str) -> None:
    error = refused(load(vectors, name), now=GENUINE[name][1])
    assert (error.step, error.code) == ("endorsements", "endorsements.anchor")


def test_a_quote_without_sept_ve_disable_parses_and_its_attributes_are_refused(vectors: Path) -> None:
    quote = parse((vectors / "intel" / "tdx_v4_spr_e4_quote.bin").read_bytes())
    assert not quote.flags["sept_ve_disable"]
    with pytest.raises(AttestationError) as caught:
        require_strict_attributes(quote)
    assert (caught.value.step, caught.value.code) == ("debug", "platform.sept_ve_disable")


def test_the_same_quote_is_refused_for_the_text_that_follows_it(vectors: Path) -> None:
    evidence = load(vectors, "tdx_v4_spr_e4")
    assert step_and_code(evidence, anchors=INTEL) == ("evidence", "evidence.trailing_data")


def test_a_genuine_quote_without_collateral_is_refused(vectors: Path) -> None:
    evidence = load(vectors, "tdx_v4_other")
    quote = parse(evidence.quote)
    require_strict_attributes(quote)
    require_no_trailing_data(quote)
    assert step_and_code(evidence, anchors=INTEL) == ("endorsements", "endorsements.missing")


def test_the_event_log_replays_to_the_registers_in_the_quote(vectors: Path) -> None:
    folder = vectors / "intel"
    quote = parse((folder / "ccel_tdx_v4_quote.bin").read_bytes())
    events = eventlog.parse((folder / "ccel_data.bin").read_bytes())
    assert len(events) == 43
    registers = eventlog.replay(events)
    assert registers == {name: quote.measurements[name] for name in ("rtmr0", "rtmr1", "rtmr2", "rtmr3")}
    assert quote.report_data == (folder / "ccel_nonce.bin").read_bytes()
    assert (folder / "ccel_table.bin").read_bytes().startswith(b"CCEL")
