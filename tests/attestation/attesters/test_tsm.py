"""configfs-tsm: what comes out of it, and each thing that can go wrong in it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.attestation.simulation import REPORT_DATA

from blindai.attestation.attesters.attester import Attester
from blindai.attestation.attesters.certificate_table import ASK, VCEK, VLEK
from blindai.attestation.attesters.tsm import ATTEMPTS, PAUSE_SECONDS, REPORTS, TsmAttester, provided
from blindai.attestation.evidence import TEE
from blindai.attestation.simulated.amd import SimulatedAmd
from blindai.attestation.simulated.intel import SimulatedIntel
from blindai.attestation.verifiers import amd_report
from blindai.errors import BlindAIError, ConfigurationError, Unavailable
from fake_machine import FakeMachine
from fake_tsm import FakeTsm, OtherGuest, SevGuest, TdxGuest, TsmFaults, full_table, table_of


class Bench:
    """An attester over a fake kernel; it counts pauses instead of waiting."""

    def __init__(self, provider: Any, tee: TEE, faults: TsmFaults | None = None, **options: Any) -> None:
        self.kernel = FakeTsm(provider, faults)
        self.pauses: list[float] = []
        self.attester = TsmAttester(tee, files=self.kernel, pause=self.pauses.append, **options)

    def refused(self, kind: type[BlindAIError], code: str) -> BlindAIError:
        """The error; no request is left behind."""
        with pytest.raises(BlindAIError) as caught:
            self.attester.attest(REPORT_DATA)
        assert (type(caught.value), caught.value.code) == (kind, code)
        assert self.kernel.entries == 0
        return caught.value


Make = Callable[..., Bench]


@pytest.fixture
def on_tdx(tdx: SimulatedIntel) -> Make:
    return lambda faults=None, **options: Bench(TdxGuest(tdx), TEE.INTEL_TDX, faults, **options)


@pytest.fixture
def on_snp(milan: SimulatedAmd) -> Make:
    return lambda faults=None, **options: Bench(SevGuest(milan), TEE.AMD_SEV_SNP, faults, **options)


def test_a_tdx_quote_comes_alone(on_tdx: Make) -> None:
    bench = on_tdx()
    attester: Attester = bench.attester
    evidence = attester.attest(REPORT_DATA)
    assert evidence.tee is attester.tee is TEE.INTEL_TDX
    assert REPORT_DATA in evidence.quote
    assert evidence.intel_collateral is None
    assert evidence.amd is None
    assert (attester.simulated, attester.quick) == (False, False)
    assert (bench.kernel.made, bench.kernel.entries, bench.pauses) == (1, 0, [])


def test_an_snp_report_comes_with_what_the_host_knows(on_snp: Make, milan: SimulatedAmd) -> None:
    bench = on_snp()
    evidence = bench.attester.attest(REPORT_DATA)
    assert evidence.tee is TEE.AMD_SEV_SNP
    assert amd_report.parse(evidence.quote).field("report_data") == REPORT_DATA
    assert evidence.amd == milan.endorsements()
    assert bench.kernel.entries == 0


def test_zeros_after_the_quote_are_cut_off(tdx: SimulatedIntel) -> None:
    bench = Bench(TdxGuest(tdx, padding=2000), TEE.INTEL_TDX)
    assert not bench.attester.attest(REPORT_DATA).quote.endswith(bytes(100))


def test_the_certificate_of_a_cloud(with_vlek: SimulatedAmd) -> None:
    table = full_table(with_vlek.endorsements(), leaf=VLEK)
    evidence = Bench(SevGuest(with_vlek, table=table), TEE.AMD_SEV_SNP).attester.attest(REPORT_DATA)
    assert evidence.amd == with_vlek.endorsements()


def test_a_host_without_certificates(milan: SimulatedAmd) -> None:
    evidence = Bench(SevGuest(milan, table=b""), TEE.AMD_SEV_SNP).attester.attest(REPORT_DATA)
    assert evidence.amd is None
    evidence = Bench(SevGuest(milan, table=table_of({VCEK: b"leaf", ASK: b""})), TEE.AMD_SEV_SNP).attester.attest(
        REPORT_DATA
    )
    assert evidence.amd is not None
    assert (evidence.amd.certificate, evidence.amd.authority, evidence.amd.root) == (b"leaf", b"", b"")


def test_a_malformed_table_of_certificates(milan: SimulatedAmd) -> None:
    Bench(SevGuest(milan, table=b"junk"), TEE.AMD_SEV_SNP).refused(Unavailable, "attester.certificate_table")


@pytest.mark.parametrize("level", [0, 2, 3])
def test_a_privilege_level_that_was_asked_for(on_snp: Make, level: int) -> None:
    evidence = on_snp(privilege_level=level).attester.attest(REPORT_DATA)
    assert amd_report.parse(evidence.quote).vmpl == level


def test_a_privilege_level_above_what_the_guest_may_claim(milan: SimulatedAmd) -> None:
    bench = Bench(SevGuest(milan, privlevel_floor=2), TEE.AMD_SEV_SNP, privilege_level=1)
    assert "privilege level 1" in bench.refused(ConfigurationError, "attester.privilege_level").message


def test_a_busy_kernel_is_no_wrong_privilege_level(on_snp: Make) -> None:
    bench = on_snp(TsmFaults(write={"privlevel": [errno.EBUSY] * ATTEMPTS}), privilege_level=1)
    bench.refused(Unavailable, "attester.busy")


@pytest.mark.parametrize(("tee", "level"), [(TEE.INTEL_TDX, 0), (TEE.AMD_SEV_SNP, 4), (TEE.AMD_SEV_SNP, -1)])
def test_a_privilege_level_that_does_not_exist(tee: TEE, level: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TsmAttester(tee, privilege_level=level)
    assert caught.value.code == "attester.privilege_level"


def test_a_tee_that_the_kernel_knows_nothing_of() -> None:
    with pytest.raises(ValueError, match="no evidence of intel-sgx"):
        TsmAttester(TEE.INTEL_SGX)


def test_report_data_of_another_size_is_a_mistake_of_the_caller(on_tdx: Make) -> None:
    bench = on_tdx()
    with pytest.raises(ValueError, match="64 bytes"):
        bench.attester.attest(bytes(63))
    assert bench.kernel.made == 0


@pytest.mark.parametrize("fault", ["other_writer", "late_writer", "stale"])
@pytest.mark.parametrize("make", ["on_tdx", "on_snp"])
def test_a_disturbed_request_is_made_again(request: pytest.FixtureRequest, make: str, fault: str) -> None:
    bench: Bench = request.getfixturevalue(make)()
    bench.attester.attest(bytes(64))
    setattr(bench.kernel.faults, fault, ATTEMPTS - 1)
    assert REPORT_DATA in bench.attester.attest(REPORT_DATA).quote
    assert (bench.kernel.made, bench.kernel.entries) == (1 + ATTEMPTS, 0)
    assert bench.pauses == [PAUSE_SECONDS] * (ATTEMPTS - 1)


@pytest.mark.parametrize(
    ("fault", "code"),
    [("other_writer", "attester.conflict"), ("late_writer", "attester.conflict"), ("stale", "attester.stale")],
)
@pytest.mark.parametrize("make", ["on_tdx", "on_snp"])
def test_a_disturbance_that_does_not_end(request: pytest.FixtureRequest, make: str, fault: str, code: str) -> None:
    bench: Bench = request.getfixturevalue(make)()
    bench.attester.attest(bytes(64))
    setattr(bench.kernel.faults, fault, 100)
    error = bench.refused(Unavailable, code)
    assert ("2 writes where 1 were made" in error.message) is (code == "attester.conflict")
    assert bench.kernel.made == 1 + ATTEMPTS


def test_a_commit_that_the_kernel_lost_silently(on_tdx: Make) -> None:
    on_tdx(TsmFaults(dropped=1)).refused(Unavailable, "attester.failed")  # no inblob at all: EINVAL


def test_a_commit_that_was_lost_after_somebody_elses(tdx: SimulatedIntel) -> None:
    """The same report_data even: only the count of writes tells."""

    class Written(FakeTsm):
        def mkdir(self, path: str) -> None:
            super().mkdir(path)
            self.write(f"{path}/inblob", REPORT_DATA)
            self.faults.dropped = 1

    with pytest.raises(Unavailable, match="0 writes where 1 were made") as caught:
        TsmAttester(TEE.INTEL_TDX, files=Written(TdxGuest(tdx)), pause=lambda seconds: None).attest(REPORT_DATA)
    assert caught.value.code == "attester.conflict"


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EWOULDBLOCK, errno.ETIMEDOUT, errno.EINTR])
def test_a_busy_kernel_is_asked_again(on_tdx: Make, number: int) -> None:
    bench = on_tdx(TsmFaults(read={"outblob": [number] * (ATTEMPTS - 1)}))
    assert REPORT_DATA in bench.attester.attest(REPORT_DATA).quote
    assert len(bench.pauses) == ATTEMPTS - 1
    on_tdx(TsmFaults(read={"outblob": [number] * ATTEMPTS})).refused(Unavailable, "attester.busy")


def test_a_name_that_is_taken_is_not_used(on_tdx: Make) -> None:
    bench = on_tdx(TsmFaults(mkdir=[errno.EEXIST]))
    bench.attester.attest(REPORT_DATA)
    assert bench.kernel.made == 1


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (TsmFaults(read={"outblob": [errno.EIO]}), Unavailable, "attester.failed"),
        (TsmFaults(read={"auxblob": [errno.EIO]}), Unavailable, "attester.failed"),
        (TsmFaults(read={"outblob": [errno.EFBIG]}), Unavailable, "attester.failed"),
        (TsmFaults(read={"outblob": [errno.ENOTTY]}), ConfigurationError, "attester.missing"),
        (TsmFaults(read={"generation": [errno.EIO]}), Unavailable, "attester.failed"),
        (TsmFaults(read={"generation": [0, errno.ENOENT]}), ConfigurationError, "attester.missing"),
        (TsmFaults(read={"provider": [errno.EIO]}), Unavailable, "attester.failed"),
        (TsmFaults(write={"inblob": [errno.EIO]}), Unavailable, "attester.failed"),
        (TsmFaults(write={"inblob": [errno.EACCES]}), ConfigurationError, "attester.denied"),
        (TsmFaults(mkdir=[errno.EACCES]), ConfigurationError, "attester.denied"),
        (TsmFaults(mkdir=[errno.ENOMEM]), Unavailable, "attester.failed"),
        (TsmFaults(read_only=True), ConfigurationError, "attester.denied"),
    ],
    ids=str,
)
def test_an_error_of_the_kernel(on_snp: Make, fault: TsmFaults, kind: type[BlindAIError], code: str) -> None:
    bench = on_snp(fault)
    bench.refused(kind, code)
    assert bench.pauses == []


def test_a_request_that_cannot_be_removed(on_tdx: Make) -> None:
    bench = on_tdx(TsmFaults(rmdir=[errno.EIO]))
    with pytest.raises(Unavailable, match="removing") as caught:
        bench.attester.attest(REPORT_DATA)
    assert caught.value.code == "attester.failed"


def test_what_went_wrong_first_is_what_is_told(on_tdx: Make) -> None:
    bench = on_tdx(TsmFaults(read={"outblob": [errno.EIO]}, rmdir=[errno.EPERM]))
    with pytest.raises(Unavailable, match="outblob") as caught:
        bench.attester.attest(REPORT_DATA)
    assert caught.value.code == "attester.failed"


@pytest.mark.parametrize("content", [b"", b"-1\n", b"one\n", b"\xff"])
def test_a_generation_that_is_no_number(on_tdx: Make, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    bench = on_tdx()
    read = bench.kernel.read
    monkeypatch.setattr(bench.kernel, "read", lambda path: content if path.endswith("generation") else read(path))
    bench.refused(Unavailable, "attester.failed")


def test_a_driver_without_quotes(tdx: SimulatedIntel) -> None:
    class Empty(TdxGuest):
        def report(self, inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
            return b"", b""

    Bench(Empty(tdx), TEE.INTEL_TDX).refused(Unavailable, "attester.quote")


def test_the_kernel_has_no_driver() -> None:
    error = Bench(None, TEE.INTEL_TDX).refused(ConfigurationError, "attester.missing")
    assert "Linux 6.7" in error.hint


def test_the_machine_has_no_configfs() -> None:
    with pytest.raises(ConfigurationError) as caught:
        TsmAttester(TEE.INTEL_TDX, files=FakeMachine()).attest(REPORT_DATA)
    assert caught.value.code == "attester.missing"


def test_another_platform_than_was_named(tdx: SimulatedIntel, milan: SimulatedAmd) -> None:
    for provider, tee in ((TdxGuest(tdx), TEE.AMD_SEV_SNP), (SevGuest(milan), TEE.INTEL_TDX)):
        error = Bench(provider, tee).refused(ConfigurationError, "attester.provider")
        assert f"not of {tee}" in error.message


def test_a_platform_that_is_not_known(tdx: SimulatedIntel) -> None:
    error = Bench(OtherGuest(tdx), TEE.INTEL_TDX).refused(ConfigurationError, "attester.provider")
    assert "arm_cca_guest" in error.message


def test_what_the_kernel_provides(tdx: SimulatedIntel, milan: SimulatedAmd) -> None:
    for provider, tee in ((TdxGuest(tdx), TEE.INTEL_TDX), (SevGuest(milan), TEE.AMD_SEV_SNP)):
        kernel = FakeTsm(provider)
        assert provided(kernel) is tee
        assert kernel.entries == 0


@pytest.mark.parametrize("make", ["on_tdx", "on_snp"])
def test_threads_get_the_evidence_they_asked_for(request: pytest.FixtureRequest, make: str) -> None:
    bench: Bench = request.getfixturevalue(make)()
    asked = [os.urandom(64) for _ in range(40)]
    with ThreadPoolExecutor(8) as threads:
        for report_data, evidence in zip(asked, threads.map(bench.attester.attest, asked), strict=True):
            assert report_data in evidence.quote
    assert (bench.kernel.made, bench.kernel.entries) == (len(asked), 0)


def test_the_fake_is_as_strict_as_the_kernel(tdx: SimulatedIntel) -> None:
    kernel = FakeTsm(TdxGuest(tdx))
    request = f"{REPORTS}/mine"
    kernel.mkdir(request)
    assert kernel.listdir(REPORTS) == ["mine"]
    assert kernel.listdir(request) == ["generation", "inblob", "outblob", "provider"]
    for number, call in (
        (errno.EEXIST, lambda: kernel.mkdir(request)),
        (errno.EPERM, lambda: kernel.mkdir(f"{request}/deeper")),
        (errno.EACCES, lambda: kernel.read(f"{request}/inblob")),
        (errno.EACCES, lambda: kernel.write(f"{request}/outblob", b"")),
        (errno.ENOENT, lambda: kernel.write(f"{request}/privlevel", b"0")),
        (errno.ENOENT, lambda: kernel.read(f"{request}/auxblob")),
        (errno.EINVAL, lambda: kernel.read(f"{request}/outblob")),
        (errno.EFBIG, lambda: kernel.write(f"{request}/inblob", bytes(65))),
    ):
        with pytest.raises(OSError, match=os.strerror(number)):
            call()
    kernel.write(f"{request}/inblob", bytes(32))
    assert kernel.read(f"{request}/generation") == b"1\n"
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        kernel.read(f"{request}/outblob")
    kernel.write(f"{request}/inblob", REPORT_DATA)
    assert kernel.read(f"{request}/outblob") == kernel.read(f"{request}/outblob")
    kernel.rmdir(request)
    assert not kernel.exists(request)
