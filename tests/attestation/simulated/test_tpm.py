from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.attestation.tpm import NOW, accepted, activation, root, tpm

from blindai.attestation.eventlog import parse_boot_log
from blindai.attestation.evidence import Evidence
from blindai.attestation.simulated.tpm import SimulatedTpm
from blindai.attestation.simulated.tpm_certificates import SimulatedTpmRoot
from blindai.attestation.verifiers.tpm_structures import parse_attest


def test_a_fresh_tpm_has_measured_nothing() -> None:
    one = SimulatedTpm(root(), clock=lambda: NOW)
    assert set(one.pcrs) == set(range(24))
    assert {index for index, value in one.pcrs.items() if value == b"\xff" * 32} == set(range(17, 23))
    assert parse_boot_log(one.event_log).events == ()


def test_the_log_explains_the_boot() -> None:
    one = tpm()
    replayed = parse_boot_log(one.event_log).replay()
    assert set(replayed) == {*range(8), 9}
    assert all(one.pcrs[index] == value for index, value in replayed.items())


def test_extending_is_not_logged() -> None:
    one = SimulatedTpm(root(), clock=lambda: NOW)
    one.extend(4, b"d" * 32)
    assert one.pcrs[4] == hashlib.sha256(bytes(32) + b"d" * 32).digest()
    assert parse_boot_log(one.event_log).events == ()


def test_a_reset_keeps_the_keys() -> None:
    one = tpm()
    before, identity = one.pcrs, one.identity()
    one.reset()
    assert one.pcrs != before
    one.boot()
    assert (one.pcrs, one.identity()) == (before, identity)
    assert accepted(one.attest(bytes(64)), activated=activation(one)).svns["reset_count"] == 2


def test_a_quote_of_chosen_pcrs() -> None:
    quote, beside = tpm().quote(b"nonce", (4, 0))
    assert parse_attest(quote).selection == tuple(beside.pcrs) == (0, 4)
    assert parse_attest(quote).extra_data == b"nonce"


def test_evidence_survives_its_encoding() -> None:
    evidence = tpm().attest(bytes(64))
    assert Evidence.decode(evidence.encode()) == evidence


@pytest.mark.parametrize("size", [0, 32, 65])
def test_report_data_has_one_size(size: int) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        tpm().attest(bytes(size))


def test_the_root_is_kept(tmp_path: Path) -> None:
    first, second = (SimulatedTpmRoot.load_or_create(tmp_path) for _ in range(2))
    assert first.anchor == second.anchor
    assert first.anchor.simulated
    assert "SIMULATED" in first.certificate.subject.rfc4514_string()


def test_a_root_whose_parts_do_not_belong_together() -> None:
    certificate = SimulatedTpmRoot.generate().to_pem().partition(b"-----BEGIN CERTIFICATE")
    key = SimulatedTpmRoot.generate().to_pem().partition(b"-----BEGIN CERTIFICATE")[0]
    with pytest.raises(ValueError, match="do not belong together"):
        SimulatedTpmRoot.from_pem(key + certificate[1] + certificate[2])


def test_a_point_off_the_curve_opens_nothing() -> None:
    one = tpm(ek="ecc")
    assert isinstance(one.ek_public.key, ec.EllipticCurvePublicKey)
    for encrypted in (bytes(68), bytes(67), b""):
        with pytest.raises(ValueError, match=r"point|curve|Invalid"):
            one.activate(bytes(68), encrypted)
