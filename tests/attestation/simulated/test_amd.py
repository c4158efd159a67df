from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.attestation import snp, snp_oracle
from tests.attestation.snp import NOW, REPORT_DATA, accepted, good, healthy, platform

from blindai.attestation.anchors import AMD_ROOTS
from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.attestation.evidence import TEE, Evidence
from blindai.attestation.measure.local import local_policy
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.simulated.amd import RENEWAL_MARGIN, AmdFaults, SimulatedAmd
from blindai.attestation.simulated.amd_root import SimulatedAmdRoot
from blindai.attestation.simulated.intel import Faults
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.attestation.verifiers.amd_certificates import parse_certificate
from blindai.errors import ConfigurationError


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.mark.parametrize("kind", snp.KINDS, ids=str)
def test_a_verifier_that_shares_nothing_with_it_accepts_what_it_emits(kind: tuple[str, int, str]) -> None:
    evidence = good(*kind)
    given = snp.endorsements_of(evidence)
    chain = [given.certificate, given.authority, given.root]
    found = snp_oracle.verify(evidence.quote, chain, given.crl, snp.anchor().spki_sha256, NOW)
    assert found == snp_oracle.Accepted(REPORT_DATA, debug=False, product=kind[0], crl_checked=True)


def test_every_certificate_says_simulated_in_its_names() -> None:
    given = snp.endorsements_of(good())
    for certificate in (parse_certificate(der, what="x") for der in (given.certificate, given.authority, given.root)):
        for name in (certificate.subject, certificate.issuer):
            assert all("SIMULATED" in str(attribute.value) for attribute in name)


def test_the_vcek_has_serial_number_0_as_amds() -> None:
    assert snp.endorsements_of(good()).certificate[13:16].hex() == "020100"


def test_evidence_survives_its_way_over_the_wire() -> None:
    evidence = good()
    assert Evidence.decode(evidence.encode()) == evidence


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_of_another_size_is_a_mistake_of_the_caller(size: int) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        healthy().attest(bytes(size))


def test_a_report_version_that_does_not_exist_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no report version 4"):
        platform(report_version=4)


@pytest.mark.parametrize(
    ("measurements", "message"),
    [({"mrtd": "00" * 48}, "no register mrtd"), ({"host_data": "00" * 48}, "host_data is 32 bytes, not 48")],
)
def test_a_register_that_does_not_exist_is_a_mistake_of_the_caller(measurements: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        platform(measurements=measurements)


def test_the_processor_stays_the_same_and_the_keys_do_not() -> None:
    one, two = platform().attest(REPORT_DATA), platform().attest(REPORT_DATA)
    assert accepted(one).chip_id == accepted(two).chip_id
    assert snp.endorsements_of(one).certificate != snp.endorsements_of(two).certificate


def test_the_list_is_renewed_before_it_expires() -> None:
    clock = Clock()
    source = platform(clock=clock)
    first = source.endorsements()
    clock.now += timedelta(days=10)
    assert source.endorsements() == first
    for _ in range(10):
        clock.now += timedelta(days=9)
        claims = accepted(source.attest(REPORT_DATA), now=clock.now)
        assert claims.not_after - clock.now >= RENEWAL_MARGIN - timedelta(days=1)
    assert source.endorsements() != first


def test_the_clock_is_the_real_one_by_default() -> None:
    accepted(SimulatedAmd(snp.root()).attest(REPORT_DATA), now=datetime.now(UTC))


def test_several_threads_may_ask_at_once() -> None:
    source = platform()
    with ThreadPoolExecutor(4) as pool:
        wanted = [index.to_bytes(64) for index in range(64)]
        for report_data, evidence in zip(wanted, pool.map(source.attest, wanted), strict=True):
            assert accepted(evidence).report_data == report_data


# --- Root


def test_the_root_is_kept_and_says_that_it_is_simulated(tmp_path: Path) -> None:
    assert SimulatedAmdRoot.load(tmp_path) is None
    (tmp_path / SimulatedAmdRoot.file).write_bytes(snp.ROOT_FILE.read_bytes())
    root = SimulatedAmdRoot.load_or_create(tmp_path)
    assert root.anchor == snp.anchor()
    assert (root.anchor.simulated, root.anchor.name) == (True, "SIMULATED ARK")
    assert root.anchor.spki_sha256 not in {anchor.spki_sha256 for anchor in AMD_ROOTS}
    assert SimulatedAmdRoot.from_pem(root.to_pem()).anchor == root.anchor


def test_the_root_is_made_where_there_is_none(tmp_path: Path) -> None:
    made = SimulatedAmdRoot.load_or_create(tmp_path)
    assert (made.key.key_size, made.authority_key.key_size) == (4096, 4096)
    loaded = SimulatedAmdRoot.load(tmp_path)
    assert loaded is not None
    assert loaded.anchor == made.anchor != snp.anchor()


@pytest.mark.parametrize("content", ["nothing", "one key", "another kind"])
def test_a_damaged_root_is_a_mistake_of_the_installation(tmp_path: Path, content: str) -> None:
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = snp.root().key
    if content == "another kind":
        key = ec.generate_private_key(ec.SECP384R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    copies = {"nothing": 0, "one key": 1, "another kind": 2}[content]
    (tmp_path / SimulatedAmdRoot.file).write_bytes(b"SIMULATED\n" + pem * copies)
    for load in (SimulatedAmdRoot.load, SimulatedAmdRoot.load_or_create):
        with pytest.raises(ConfigurationError) as caught:
            load(tmp_path)
        assert caught.value.code == "simulated.root"


# --- Attester, measurement and policy of this installation


@pytest.mark.parametrize("version", [2, 3, 5])
def test_the_attester_attests_the_package_that_runs(version: int) -> None:
    attester = SimulatedAttester(tee=TEE.AMD_SEV_SNP, root=snp.root(), quote_version=version)
    claims = accepted(attester.attest(REPORT_DATA), now=datetime.now(UTC))
    assert claims.tee is attester.tee is TEE.AMD_SEV_SNP
    assert attester.anchor == snp.anchor()
    assert measure_package(tee=TEE.AMD_SEV_SNP).items() <= claims.measurements.items()


def test_the_attester_plays_other_code_and_faults() -> None:
    attester = SimulatedAttester(
        tee=TEE.AMD_SEV_SNP,
        root=snp.root(),
        measurements={"launch_digest": "ab" * 48},
        faults=AmdFaults(policy=frozenset({"debug"})),
    )
    claims = accepted(attester.attest(REPORT_DATA), now=datetime.now(UTC))
    assert (claims.debug, claims.measurements["launch_digest"]) == (True, "ab" * 48)


def test_the_attester_refuses_what_belongs_to_another_vendors_platform() -> None:
    with pytest.raises(ValueError, match="takes SimulatedAmdRoot, not SimulatedRoot"):
        SimulatedAttester(tee=TEE.AMD_SEV_SNP, root=SimulatedRoot.generate())
    with pytest.raises(ValueError, match="takes AmdFaults, not Faults"):
        SimulatedAttester(tee=TEE.AMD_SEV_SNP, root=snp.root(), faults=Faults())
    with pytest.raises(ValueError, match="takes Faults, not AmdFaults"):
        SimulatedAttester(root=SimulatedRoot.generate(), faults=AmdFaults())


def test_the_local_policy_accepts_the_amd_platform_once_there_is_one(tmp_path: Path) -> None:
    assert TEE.AMD_SEV_SNP not in local_policy(tmp_path).accepted_tees
    assert not (tmp_path / SimulatedAmdRoot.file).exists()
    (tmp_path / SimulatedAmdRoot.file).write_bytes(snp.ROOT_FILE.read_bytes())
    policy = local_policy(tmp_path)
    assert TEE.AMD_SEV_SNP in policy.accepted_tees
    assert snp.anchor().spki_sha256 in {anchor.spki_sha256 for anchor in policy.anchors()}
    (code,) = (reference for reference in policy.code if reference.tee is TEE.AMD_SEV_SNP)
    assert code.measurements == measure_package(tee=TEE.AMD_SEV_SNP)
    root = x509.load_der_x509_certificate(snp.endorsements_of(good()).root)
    assert "SIMULATED" in root.subject.rfc4514_string()
