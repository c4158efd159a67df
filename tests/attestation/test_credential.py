from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.attestation.tpm import tpm

from blindai.attestation.credential import SECRET_BYTES, make_credential, sized
from blindai.attestation.simulated.tpm import SimulatedTpm, TpmFaults
from blindai.attestation.verifiers.tpm_structures import parse_public


@pytest.fixture(scope="module", params=["rsa", "ecc"])
def one(request: pytest.FixtureRequest) -> SimulatedTpm:
    return tpm(ek=request.param)


@pytest.mark.parametrize("secret", [b"", b"s", bytes(range(SECRET_BYTES))])
def test_the_tpm_gives_back_what_the_credential_holds(one: SimulatedTpm, secret: bytes) -> None:
    made = make_credential(one.ek_public, one.ak_public.name, secret)
    assert one.activate(made.blob, made.encrypted_secret) == secret


def test_no_two_credentials_are_alike(one: SimulatedTpm) -> None:
    first, second = (make_credential(one.ek_public, one.ak_public.name, bytes(32)) for _ in range(2))
    assert first.blob != second.blob
    assert first.encrypted_secret != second.encrypted_secret


def test_a_credential_for_another_key_stays_closed(one: SimulatedTpm) -> None:
    made = make_credential(one.ek_public, one.ek_public.name, bytes(32))
    with pytest.raises(ValueError, match="not for this TPM"):
        one.activate(made.blob, made.encrypted_secret)


def test_a_credential_for_another_tpm_stays_closed(one: SimulatedTpm) -> None:
    made = make_credential(tpm(ek="ecc").ek_public, one.ak_public.name, bytes(32))
    with pytest.raises(ValueError, match=r"not for this TPM|length|decrypt|Encryption"):
        one.activate(made.blob, made.encrypted_secret)


def test_every_byte_of_a_credential_counts(one: SimulatedTpm) -> None:
    made = make_credential(one.ek_public, one.ak_public.name, bytes(32))
    for at in range(2, len(made.blob)):
        spoiled = made.blob[:at] + bytes([made.blob[at] ^ 1]) + made.blob[at + 1 :]
        with pytest.raises(ValueError, match="not for this TPM"):
            one.activate(spoiled, made.encrypted_secret)


def test_a_secret_that_does_not_fit(one: SimulatedTpm) -> None:
    with pytest.raises(ValueError, match="holds 32 bytes, not 33"):
        make_credential(one.ek_public, one.ak_public.name, bytes(33))


def test_a_larger_key_has_a_larger_secret() -> None:
    """The EK of newer templates: P-384, SHA-384, AES-256. What comes of it is tested against swtpm."""
    key = ec.generate_private_key(ec.SECP384R1()).public_key().public_numbers()
    head = tpm().ek_public.raw.partition(b"\0\6\0\x80\0\x43")[0]
    point = sized(key.x.to_bytes(48)) + sized(key.y.to_bytes(48))
    raw = head[:2] + b"\0\x0c" + head[4:] + b"\0\6\1\0\0\x43" + b"\0\x10" + b"\0\4" + b"\0\x10" + point
    made = make_credential(parse_public(raw, what="the EK"), b"\0\x0b" + bytes(32), bytes(48))
    assert len(made.blob) == 2 + 48 + 2 + 48
    assert len(made.encrypted_secret) == 2 * (2 + 48)


def test_a_forgetful_tpm() -> None:
    forgetful = tpm(faults=TpmFaults(forgets_secret=True))
    made = make_credential(forgetful.ek_public, forgetful.ak_public.name, b"s" * 32)
    assert forgetful.activate(made.blob, made.encrypted_secret) == bytes(32)
