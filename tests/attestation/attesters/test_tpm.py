"""The attester against swtpm: what it hands out verifies, and it gets over whatever happens to a TPM."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import swtpm
from blindai.attestation.anchors import Anchor, Vendor
from blindai.attestation.attesters.attester import ActivatingAttester
from blindai.attestation.attesters.platform import BOOT_LOG_FILE
from blindai.attestation.attesters.tpm import TpmAttester, load_certificates
from blindai.attestation.attesters.tpm_device import TpmDevice
from blindai.attestation.claims import Claims
from blindai.attestation.credential import make_credential
from blindai.attestation.evidence import Activation, Evidence
from blindai.attestation.result import Checklist
from blindai.attestation.verifiers import verify
from blindai.attestation.verifiers.tpm_structures import parse_public
from blindai.errors import BlindAIError, ConfigurationError, Unavailable
from swtpm import LocalCa, Swtpm

REPORT_DATA = bytes(range(64))
SECRET = b"s" * 32


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> LocalCa:
    swtpm.require()
    return LocalCa(tmp_path_factory.mktemp("maker") / "ca")


@pytest.fixture(scope="module")
def made(ca: LocalCa, tmp_path_factory: pytest.TempPathFactory) -> Swtpm:
    return Swtpm(tmp_path_factory.mktemp("tpm") / "state", ca)


@pytest.fixture
def tpm(made: Swtpm) -> Iterator[Swtpm]:
    made.start()
    yield made
    made.stop()


@pytest.fixture
def attester(tpm: Swtpm) -> TpmAttester:
    return TpmAttester(tpm.tcti, certificates=load_certificates(tpm.ca.certificates), event_log="/none")


def activated(attester: TpmAttester) -> Activation:
    identity = attester.identity()
    ek, ak = parse_public(identity.ek_public, what="the EK"), parse_public(identity.ak_public, what="the AK")
    made = make_credential(ek, ak.name, SECRET)
    answer = attester.activate(made.blob, made.encrypted_secret)
    return Activation(ek_public=ek.raw, ak_name=ak.name, secret=SECRET, answer=answer)


def judged(evidence: Evidence, activation: Activation, ca: LocalCa) -> Claims:
    anchors = (Anchor("swtpm-localca", Vendor.TPM, ca.root_spki),)
    return verify(evidence, anchors=anchors, now=datetime.now(UTC), checks=Checklist(), activation=activation)


def test_what_it_hands_out_verifies(attester: TpmAttester, ca: LocalCa) -> None:
    assert isinstance(attester, ActivatingAttester)
    claims = judged(attester.attest(REPORT_DATA), activated(attester), ca)
    assert set(claims.measurements) == {f"pcr{index}" for index in range(16)}
    assert not claims.simulated


def test_no_two_attesters_share_a_key(attester: TpmAttester, tpm: Swtpm) -> None:
    """So that a credential for one is never opened by another program."""
    other = TpmAttester(tpm.tcti, certificates=load_certificates(tpm.ca.certificates))
    first, second = attester.identity(), other.identity()
    assert first.ek_public == second.ek_public
    assert first.ak_public != second.ak_public


def test_nothing_stays_in_the_tpm(attester: TpmAttester, tpm: Swtpm) -> None:
    for _ in range(4):  # swtpm has room for three objects
        attester.attest(REPORT_DATA)
        activated(attester)
        with pytest.raises(ValueError, match="not for this TPM"):
            attester.activate(bytes(68), bytes(256))
    import tpm2_pytss as pytss

    with tpm.opened() as opened:
        for kind in (pytss.TPM2_HC.TRANSIENT_FIRST, pytss.TPM2_HC.LOADED_SESSION_FIRST):
            _, found = opened.get_capability(pytss.TPM2_CAP.HANDLES, kind, 10)
            assert len(found.data.handles) == 0


def test_after_a_reset_it_has_the_same_keys(attester: TpmAttester, tpm: Swtpm, ca: LocalCa) -> None:
    before = attester.identity()
    tpm.restart()
    assert attester.identity() == before
    judged(attester.attest(REPORT_DATA), activated(attester), ca)


def test_another_tpm_has_other_keys(attester: TpmAttester, tpm: Swtpm, tmp_path: Path) -> None:
    before = attester.identity()
    tpm.stop()
    other = Swtpm(tmp_path / "other", tpm.ca)
    other.port = tpm.port
    other.start()
    try:
        after = attester.identity()
        assert after.ek_public != before.ek_public
        judged(attester.attest(REPORT_DATA), activated(attester), tpm.ca)
    finally:
        other.stop()


def test_a_tpm_that_is_gone_comes_back(attester: TpmAttester, tpm: Swtpm, ca: LocalCa) -> None:
    attester.identity()
    tpm.stop()
    with pytest.raises(Unavailable) as caught:
        attester.attest(REPORT_DATA)
    assert caught.value.code == "attester.failed"
    tpm.start()
    judged(attester.attest(REPORT_DATA), activated(attester), ca)


def test_several_threads(attester: TpmAttester, ca: LocalCa) -> None:
    activation = activated(attester)
    failures: list[BaseException] = []

    def attest() -> None:
        try:
            judged(attester.attest(os.urandom(64)), activation, ca)
        except BlindAIError as error:
            failures.append(error)

    threads = [threading.Thread(target=attest) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize(
    ("blob", "secret"),
    [(b"", b""), (bytes(68), bytes(256)), (bytes(128), bytes(512)), (bytes(68), b"\xff" * 256), (bytes(4000), b"")],
)
def test_a_credential_that_is_none_harms_nothing(
    attester: TpmAttester, ca: LocalCa, blob: bytes, secret: bytes
) -> None:
    with pytest.raises(ValueError, match="credential"):
        attester.activate(blob, secret)
    judged(attester.attest(REPORT_DATA), activated(attester), ca)


@pytest.mark.parametrize("size", [0, 32, 65])
def test_report_data_has_one_size(attester: TpmAttester, size: int) -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        attester.attest(bytes(size))


class Kernel:
    """Only a boot log."""

    def __init__(self, log: bytes | OSError) -> None:
        self.log = log

    def exists(self, path: str) -> bool:
        return path == BOOT_LOG_FILE

    def read(self, path: str) -> bytes:
        if isinstance(self.log, OSError):
            raise self.log
        return self.log

    def _absent(self, *_: object) -> None:
        raise AssertionError("nothing else is asked of the kernel")

    write = mkdir = rmdir = listdir = _absent


def test_the_boot_log_is_sent_where_it_may_be_read(tpm: Swtpm, ca: LocalCa) -> None:
    log = tpm.boot()
    for found, sent in ((log, log), (PermissionError(errno.EACCES, "root only"), None)):
        attester = TpmAttester(tpm.tcti, certificates=load_certificates(ca.certificates), files=Kernel(found))  # type: ignore[arg-type]  # all that is used is there
        evidence = attester.attest(REPORT_DATA)
        assert evidence.tpm is not None
        assert evidence.tpm.event_log == sent
        judged(evidence, activated(attester), ca)


def test_the_certificates_of_the_maker_are_needed(tpm: Swtpm, ca: LocalCa) -> None:
    issuer, root = load_certificates(ca.certificates)
    for given in ((), (issuer,), (root,)):
        with pytest.raises(ConfigurationError) as caught:
            TpmAttester(tpm.tcti, certificates=given).identity()
        assert caught.value.code == "attester.tpm_certificate"
        assert "--tpm-certificates" in caught.value.hint
    assert len(TpmAttester(tpm.tcti, certificates=(root, issuer)).identity().ek_certificates) == 3


def test_a_tpm_without_a_certificate(ca: LocalCa, tmp_path: Path) -> None:
    bare = Swtpm(tmp_path / "bare", ca, certified=False)
    bare.start()
    try:
        with pytest.raises(ConfigurationError) as caught:
            TpmAttester(bare.tcti).identity()
    finally:
        bare.stop()
    assert caught.value.code == "attester.tpm_certificate"


def test_a_tpm_without_the_sha256_bank(ca: LocalCa, tmp_path: Path) -> None:
    old = Swtpm(tmp_path / "old", ca, banks="sha1")
    old.start()
    try:
        with pytest.raises(ConfigurationError) as caught:
            TpmAttester(old.tcti, certificates=load_certificates(ca.certificates)).attest(REPORT_DATA)
    finally:
        old.stop()
    assert caught.value.code == "attester.missing"


def test_an_nv_index_and_a_persistent_key(tpm: Swtpm) -> None:
    """What Azure's virtual TPM is asked for."""
    device = TpmDevice(tpm.tcti)
    assert device.read_nv(0x01C00002).startswith(b"\x30\x82")
    with pytest.raises(ConfigurationError) as caught:
        device.read_nv(0x01400001)
    assert caught.value.code == "attester.missing"
    with pytest.raises(Unavailable):
        device.quote_with(0x81000003, bytes(32))


def test_a_device_that_is_not_there(ca: LocalCa, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TpmAttester(f"device:{tmp_path / 'tpmrm0'}").identity()
    assert caught.value.code == "attester.missing"


def test_the_software_stack_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tpm2_pytss", None)
    with pytest.raises(ConfigurationError) as caught:
        TpmAttester()
    assert caught.value.code == "attester.tpm_library"
    assert "blindai[tpm]" in caught.value.hint


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_certificates_that_are_none(pem: bytes) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_certificates(pem)
    assert caught.value.code == "attester.tpm_certificate"
