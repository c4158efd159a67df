from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from tests.attestation import tpm as made
from tests.attestation.tpm import NOW, REPORT_DATA, accepted, activation, good, healthy, identity_of, quote_of, refused
from tests.attestation.tpm import root as maker

from blindai.attestation.anchors import Anchor, Vendor
from blindai.attestation.evidence import TEE, Evidence, committed
from blindai.attestation.result import Checklist
from blindai.attestation.simulated.tpm import FIRMWARE_VERSION, TpmFaults
from blindai.attestation.simulated.tpm_certificates import SimulatedTpmRoot
from blindai.attestation.verifiers import verify
from blindai.attestation.verifiers.tpm_structures import TPM_GENERATED, Attributes


@pytest.mark.parametrize("ek", ["rsa", "ecc"])
@pytest.mark.parametrize("ak", ["rsa", "ecc"])
def test_what_a_genuine_tpm_proves(ek: str, ak: str) -> None:
    one = made.tpm(ek=ek, ak=ak)
    claims = accepted(one.attest(REPORT_DATA), activated=activation(one))
    assert (claims.tee, claims.simulated, claims.debug) == (TEE.TPM, True, False)
    assert claims.anchor == "SIMULATED TPM Root CA"
    assert claims.report_data == committed(TEE.TPM, REPORT_DATA)
    assert claims.measurements == {f"pcr{index}": one.pcrs[index].hex() for index in range(16)}
    assert claims.svns == {"tpm_firmware_version": FIRMWARE_VERSION, "reset_count": 1, "restart_count": 0}
    assert claims.chip_id == hashlib.sha256(one.ek_public.spki).hexdigest()
    assert not claims.crl_checked
    assert claims.not_after < NOW + timedelta(days=3650)


def test_without_a_boot_log() -> None:
    one = made.tpm(faults=TpmFaults(without_log=True))
    accepted(one.attest(REPORT_DATA), activated=activation(one))


def test_where_the_claims_stand() -> None:
    claims = accepted(good())
    at = claims.locations["report_data"]
    assert (at.of, good().quote[at.start : at.end]) == ("quote", claims.report_data)
    assert claims.locations["pcr4"].of == "tpm.pcrs.4"


def test_every_byte_under_the_signature_is_noted() -> None:
    checks = Checklist()
    verify(good(), anchors=(maker().anchor,), now=NOW, checks=checks, activation=activation())
    signed = checks.checks[-1].ranges[0]
    assert (signed.of, signed.start, signed.end) == ("quote", 0, len(good().quote))


def test_a_time_without_a_zone_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="time zone"):
        verify(good(), anchors=(), now=datetime(2026, 1, 1), checks=Checklist())  # noqa: DTZ001 - the point of this test


# evidence


def test_parts_are_missing() -> None:
    refused(msgspec.structs.replace(good(), tpm=None), "evidence", "evidence.malformed")
    refused(msgspec.structs.replace(good(), tpm_identity=None), "evidence", "evidence.malformed")


@pytest.mark.parametrize("pcrs", [{24: bytes(32)}, {-1: bytes(32)}, {0: bytes(31)}, {0: b""}])
def test_pcr_values_that_no_tpm_has(pcrs: dict[int, bytes]) -> None:
    refused(made.with_quote(good(), pcrs=pcrs), "evidence", "evidence.malformed")


def test_a_boot_log_that_is_none() -> None:
    refused(made.with_quote(good(), event_log=b"log"), "evidence", "evidence.event_log")


def test_bytes_that_the_tpm_did_not_make() -> None:
    """The key of such a TPM would sign anything: what it signs here begins with another magic."""
    one = made.tpm(faults=TpmFaults(magic=TPM_GENERATED ^ 1))
    refused(one.attest(REPORT_DATA), "evidence", "evidence.not_generated", activated=activation(one))


@pytest.mark.parametrize("kind", [0x8017, 0x8014, 0x0018])
def test_another_attestation_than_a_quote(kind: int) -> None:
    one = made.tpm(faults=TpmFaults(kind=kind))
    refused(one.attest(REPORT_DATA), "evidence", "evidence.not_a_quote", activated=activation(one))


# endorsements


@dataclass(frozen=True)
class Faulty:
    faults: TpmFaults
    code: str


@pytest.mark.parametrize(
    "case",
    [
        Faulty(TpmFaults(without_certificates=True), "endorsements.missing"),
        Faulty(TpmFaults(certificate_shift=timedelta(days=-3660)), "endorsements.certificate.expired"),
        Faulty(TpmFaults(certificate_shift=timedelta(days=2)), "endorsements.certificate.not_yet_valid"),
        Faulty(TpmFaults(issuing_ek=True), "endorsements.role"),
        Faulty(TpmFaults(ek_attributes=Attributes.SIGN), "endorsements.endorsement_key"),
        Faulty(TpmFaults(ek_attributes=Attributes.FIXED_TPM), "endorsements.endorsement_key"),
    ],
)
def test_a_tpm_that_its_maker_does_not_vouch_for(case: Faulty) -> None:
    one = made.tpm(faults=case.faults)
    refused(one.attest(REPORT_DATA), "endorsements", case.code, activated=activation(one))


@pytest.mark.parametrize(
    "anchors",
    [
        (),
        (Anchor("other", Vendor.TPM, "ab" * 32),),
        (Anchor("maker of processors", Vendor.AMD, ""),),
    ],
)
def test_a_root_that_the_policy_does_not_name(anchors: tuple[Anchor, ...]) -> None:
    named = tuple(
        msgspec.structs.replace(item, spki_sha256=item.spki_sha256 or maker().anchor.spki_sha256) for item in anchors
    )
    error = refused(good(), "endorsements", "endorsements.anchor", anchors=named)
    assert "simulated" in error.likely


def test_the_certificate_of_another_tpm() -> None:
    other = made.tpm()
    swapped = made.with_identity(good(), ek_certificates=other.identity().ek_certificates)
    refused(swapped, "endorsements", "endorsements.endorsement_key")


def test_a_key_that_is_not_in_the_tpm() -> None:
    forged = made.tpm()
    evidence = msgspec.structs.replace(
        forged.attest(REPORT_DATA),
        tpm_identity=msgspec.structs.replace(healthy().identity(), ak_public=forged.ak_public.raw),
    )
    refused(evidence, "endorsements", "endorsements.activation")


@pytest.mark.parametrize("answer", [b"", bytes(32), b"s" * 31, b"s" * 33])
def test_another_answer_than_the_secret(answer: bytes) -> None:
    wrong = msgspec.structs.replace(activation(), answer=answer)
    refused(good(), "endorsements", "endorsements.activation", activated=wrong)


def test_an_activation_without_a_secret_proves_nothing() -> None:
    empty = msgspec.structs.replace(activation(), secret=b"", answer=b"")
    refused(good(), "endorsements", "endorsements.activation", activated=empty)


def test_an_activation_of_another_tpm() -> None:
    refused(good(), "endorsements", "endorsements.activation", activated=activation(made.tpm()))


def test_evidence_that_nobody_activated() -> None:
    checks = Checklist()
    with pytest.raises(Exception, match="nothing shows") as caught:
        verify(good(), anchors=(maker().anchor,), now=NOW, checks=checks)
    assert (caught.value.step, caught.value.code) == ("endorsements", "endorsements.not_activated")  # type: ignore[attr-defined] # asserted to be ours


# quote


@pytest.mark.parametrize(
    "flipped",
    [
        Attributes.FIXED_TPM,
        Attributes.FIXED_PARENT,
        Attributes.SENSITIVE_DATA_ORIGIN,
        Attributes.RESTRICTED,
        Attributes.SIGN,
        Attributes.DECRYPT,
        Attributes.X509_SIGN,
        Attributes.ENCRYPTED_DUPLICATION,
        Attributes(1 << 31),
        Attributes(1),
    ],
)
def test_a_key_that_may_sign_what_anyone_gives_it(flipped: Attributes) -> None:
    one = made.tpm(faults=TpmFaults(ak_attributes=flipped))
    error = refused(one.attest(REPORT_DATA), "quote", "quote.attestation_key", activated=activation(one))
    assert error.got


@pytest.mark.parametrize("flipped", [Attributes.NO_DA, Attributes.ST_CLEAR, Attributes.USER_WITH_AUTH])
def test_who_may_use_the_key_is_of_no_concern(flipped: Attributes) -> None:
    one = made.tpm(faults=TpmFaults(ak_attributes=flipped))
    accepted(one.attest(REPORT_DATA), activated=activation(one))


def test_a_signature_by_another_key() -> None:
    other = made.tpm()
    refused(made.with_quote(good(), signature=other.sign(good().quote)), "quote", "quote.signature")


def test_values_of_a_pcr_changed() -> None:
    pcrs = quote_of(good()).pcrs | {4: bytes(32)}
    refused(made.with_quote(good(), pcrs=pcrs), "quote", "quote.pcr_digest")


@pytest.mark.parametrize("change", ["missing", "extra", "none", "other"])
def test_values_of_other_pcrs_than_were_quoted(change: str) -> None:
    pcrs: dict[int, Any] = dict(quote_of(good()).pcrs)
    if change == "missing":
        del pcrs[4]
    elif change == "extra":
        pcrs[16] = bytes(32)
    elif change == "other":
        pcrs[17] = pcrs.pop(15)
    else:
        pcrs.clear()
    refused(made.with_quote(good(), pcrs=pcrs), "quote", "quote.pcr_selection")


def test_the_log_of_another_boot() -> None:
    one = made.tpm()
    other = made.tpm()
    other.measure(4, b"more")
    evidence = made.with_quote(one.attest(REPORT_DATA), event_log=other.event_log)
    error = refused(evidence, "quote", "quote.event_log", activated=activation(one))
    assert error.expected.startswith("PCR 4")


def test_a_pcr_that_was_extended_without_an_entry() -> None:
    one = made.tpm()
    one.extend(7, bytes(32))
    refused(one.attest(REPORT_DATA), "quote", "quote.event_log", activated=activation(one))


@pytest.mark.parametrize("pcr", [10, 11, 15])
def test_what_the_running_system_extends_is_not_in_the_log(pcr: int) -> None:
    one = made.tpm()
    one.measure(pcr, b"logged")
    one.extend(pcr, bytes(32))
    accepted(one.attest(REPORT_DATA), activated=activation(one))


def test_a_log_about_more_than_was_quoted() -> None:
    one = made.tpm()
    quote, beside = one.quote(committed(TEE.TPM, REPORT_DATA), (0, 7))
    evidence = Evidence(tee=TEE.TPM, quote=quote, tpm=beside, tpm_identity=identity_of(one.attest(REPORT_DATA)))
    assert set(accepted(evidence, activated=activation(one)).measurements) == {"pcr0", "pcr7"}


def test_a_root_of_a_real_maker_is_no_simulation() -> None:
    real = msgspec.structs.replace(SimulatedTpmRoot.generate().anchor, simulated=False)
    anchors = (real, msgspec.structs.replace(maker().anchor, simulated=False))
    assert not accepted(good(), anchors=anchors).simulated
