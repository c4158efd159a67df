from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from blindai.attestation.collateral.cache import Cache
from blindai.attestation.collateral.library import Library
from blindai.attestation.collateral.service import Services
from blindai.attestation.collateral.stapling import CHECK_SECONDS, RETRY_SECONDS, SHORTEST_SECONDS, StaplingAttester
from blindai.attestation.evidence import TEE, AzureReport, Evidence
from blindai.attestation.result import Checklist
from blindai.attestation.simulated.amd import AmdFaults, SimulatedAmd
from blindai.attestation.simulated.amd_root import SimulatedAmdRoot
from blindai.attestation.simulated.intel import SimulatedIntel
from blindai.attestation.verifiers import verify
from blindai.errors import AttestationError, Unavailable
from collateral_services import Reply, Service, kds, pccs, serving
from collateral_world import World

REPORT_DATA = bytes(range(64))


class Bare:
    """An attester as those of hardware are: it gives what the platform alone can give."""

    simulated = True
    quick = True

    def __init__(self, platform: SimulatedIntel | SimulatedAmd) -> None:
        self.platform = platform
        self.tee: TEE = platform.tee
        self.whole = False
        self.broken = False

    def attest(self, report_data: bytes) -> Evidence:
        if self.broken:
            raise Unavailable("the device is gone", code="attester.failed")
        evidence = self.platform.attest(report_data)
        return evidence if self.whole else evidence.bare()


def stapling(world: World, attester: Bare, library: Library) -> StaplingAttester:
    return StaplingAttester(attester, library, clock=world.clock, log=world.log)


@pytest.fixture
def stapled(world: World, tdx: SimulatedIntel, intel_service: Service) -> StaplingAttester:
    return stapling(world, Bare(tdx), world.library(Services(intel=intel_service.url)))


def test_it_stands_for_the_attester(world: World, stapled: StaplingAttester) -> None:
    assert (stapled.tee, stapled.simulated, stapled.quick) == (TEE.INTEL_TDX, True, False)


def test_evidence_comes_with_endorsements(
    world: World, tdx: SimulatedIntel, stapled: StaplingAttester, intel_service: Service
) -> None:
    assert stapled.prepare() is not None
    for _ in range(3):
        evidence = stapled.attest(REPORT_DATA)
        claims = verify(evidence, anchors=(tdx.anchor,), now=world.now, checks=Checklist())
        assert claims.report_data == REPORT_DATA
    assert len(intel_service.requests) == 4


def test_without_preparing_the_first_evidence_fetches(stapled: StaplingAttester, intel_service: Service) -> None:
    assert stapled.attest(REPORT_DATA).intel_collateral is not None
    assert len(intel_service.requests) == 4


def test_snp(world: World, snp: SimulatedAmd, amd_service: Service) -> None:
    stapled = stapling(world, Bare(snp), world.library(Services(amd=amd_service.url)))
    for _ in range(3):
        assert stapled.attest(REPORT_DATA).amd == snp.endorsements()
    assert len(amd_service.requests) == 3


def test_evidence_that_is_complete_goes_through(world: World, tdx: SimulatedIntel) -> None:
    attester = Bare(tdx)
    attester.whole = True
    stapled = stapling(world, attester, world.library(Services(), online=False))
    assert stapled.prepare() is None
    assert stapled.attest(REPORT_DATA).intel_collateral == tdx.collateral()
    with stapled:
        assert stapled._thread is None


@pytest.mark.parametrize("kind", ["current", "over", "none"])
def test_a_revocation_list_that_the_host_gave(world: World, snp: SimulatedAmd, amd_service: Service, kind: str) -> None:
    given = snp.endorsements()

    class Hosted(Bare):
        def attest(self, report_data: bytes) -> Evidence:
            crl = b"?" if kind == "none" else given.crl
            return msgspec.structs.replace(
                self.platform.attest(report_data), amd=msgspec.structs.replace(given, crl=crl)
            )

    if kind == "over":
        world.now += timedelta(days=40)
    evidence = stapling(world, Hosted(snp), world.library(Services(amd=amd_service.url))).attest(REPORT_DATA)
    verify(evidence, anchors=(snp.anchor,), now=world.now, checks=Checklist())
    assert len(amd_service.requests) == (0 if kind == "current" else 2)


def test_a_platform_whose_firmware_was_updated_is_another_one(world: World, amd_root: SimulatedAmdRoot) -> None:
    before = SimulatedAmd(amd_root, faults=AmdFaults(tcbs={"reported_tcb": {"snp": 22}}), clock=world.clock)
    after = SimulatedAmd(amd_root, clock=world.clock)
    attester = Bare(before)
    with serving(kds(before)) as old, serving(kds(after)) as new:
        stapled = stapling(world, attester, world.library(Services(amd=old.url)))
        assert stapled.attest(REPORT_DATA).amd == before.endorsements()
        attester.platform = after
        with pytest.raises(Unavailable) as caught:
            stapled.attest(REPORT_DATA)
        assert caught.value.code == "collateral.missing"
        stapled = stapling(world, attester, world.library(Services(amd=new.url)))
        assert stapled.attest(REPORT_DATA).amd == after.endorsements()


def test_a_cold_start_without_network(world: World, tdx: SimulatedIntel, tmp_path: Path) -> None:
    stapled = stapling(world, Bare(tdx), world.library(Services(), Cache(tmp_path), online=False))
    with pytest.raises(Unavailable) as caught:
        stapled.start()
    assert caught.value.code == "collateral.missing"
    assert str(tmp_path) in caught.value.message
    assert stapled._thread is None


def test_renewal_goes_on_while_evidence_is_made(
    world: World, stapled: StaplingAttester, intel_service: Service
) -> None:
    first = stapled.prepare()
    world.now += timedelta(days=25)
    assert stapled.refresh()
    assert stapled._endorsements is not None
    assert first is not None
    assert stapled._endorsements.not_after > first
    assert len(intel_service.requests) == 8


def test_evidence_does_not_wait_for_a_renewal(world: World, tdx: SimulatedIntel) -> None:
    slow, asked, go_on = threading.Event(), threading.Event(), threading.Event()
    answer = pccs(tdx)

    def answer_slowly(path: str, query: dict[str, str]) -> Reply:
        if slow.is_set():
            asked.set()
            go_on.wait()
        return answer(path, query)

    with serving(answer_slowly) as service:
        stapled = stapling(world, Bare(tdx), world.library(Services(intel=service.url)))
        stapled.prepare()
        world.now += timedelta(days=2)
        slow.set()
        renewal = threading.Thread(target=stapled.refresh)
        renewal.start()
        asked.wait()
        assert stapled.attest(REPORT_DATA).intel_collateral is not None
        go_on.set()
        renewal.join()
        assert len(service.requests) == 8


def test_a_failed_renewal_leaves_the_old_until_its_end(
    world: World, tdx: SimulatedIntel, stapled: StaplingAttester, intel_service: Service
) -> None:
    end = stapled.prepare()
    assert end is not None
    intel_service.faults[""] = Reply(500)
    world.now = end - timedelta(hours=1)
    stapled.refresh()
    assert world.events_named("collateral_not_refreshed")
    world.now = end
    evidence = stapled.attest(REPORT_DATA)
    verify(evidence, anchors=(tdx.anchor,), now=world.now, checks=Checklist())
    world.now = end + timedelta(seconds=1)
    with pytest.raises(Unavailable) as caught:
        stapled.attest(REPORT_DATA)
    assert caught.value.code == "collateral.missing"
    assert not stapled.refresh()
    intel_service.faults.clear()
    world.now += timedelta(hours=1)
    assert stapled.attest(REPORT_DATA).intel_collateral is not None


def test_an_attester_that_fails_is_logged_with_what_is_held(world: World, tdx: SimulatedIntel) -> None:
    attester = Bare(tdx)
    attester.broken = True
    stapled = stapling(world, attester, world.library(Services(), online=False))
    assert not stapled.refresh()
    assert world.events_named("collateral_not_refreshed") == [
        {"error": "the device is gone", "code": "attester.failed", "valid_until": ""}
    ]


def test_evidence_that_cannot_be_parsed(world: World, tdx: SimulatedIntel) -> None:
    class Odd(Bare):
        def attest(self, report_data: bytes) -> Evidence:
            return Evidence(tee=self.tee, quote=b"?")

    with pytest.raises(AttestationError) as caught:
        stapling(world, Odd(tdx), world.library(Services(), online=False)).attest(REPORT_DATA)
    assert (caught.value.code, caught.value.step) == ("evidence.malformed", "evidence")


@contextmanager
def paced(
    world: World, tdx: SimulatedIntel, library: Library, rounds: int
) -> Iterator[tuple[StaplingAttester, list[float]]]:
    """Runs `rounds` rounds in the background, without waiting, and remembers how long each would have waited."""
    delays: list[float] = []
    done = threading.Event()

    def pause(stopped: threading.Event, seconds: float) -> bool:
        delays.append(seconds)
        if len(delays) > rounds:
            done.set()
            stopped.wait()
            return True
        return False

    stapled = StaplingAttester(Bare(tdx), library, clock=world.clock, log=world.log, pause=pause)
    with stapled:
        done.wait()
        yield stapled, delays


def test_the_background_looks_every_hour(world: World, tdx: SimulatedIntel, intel_service: Service) -> None:
    with paced(world, tdx, world.library(Services(intel=intel_service.url)), 2) as (stapled, delays):
        assert stapled.attest(REPORT_DATA).intel_collateral is not None
    assert len(delays) == 3
    assert all(0.75 * CHECK_SECONDS <= delay <= CHECK_SECONDS for delay in delays)


def test_the_pace_of_the_background(world: World, stapled: StaplingAttester) -> None:
    def delay(*, worked: bool) -> float:
        return stapled._delay(worked=worked)

    assert 0.75 * RETRY_SECONDS <= delay(worked=False) <= RETRY_SECONDS
    end = stapled.prepare()
    assert end is not None
    world.now = end - timedelta(seconds=1000)
    assert 0.75 * 250 <= delay(worked=True) <= 250
    world.now = end
    assert 0.75 * SHORTEST_SECONDS <= delay(worked=True) <= SHORTEST_SECONDS


def test_a_background_that_fails_goes_on(
    world: World, tdx: SimulatedIntel, intel_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StaplingAttester, "refresh", lambda self: False)
    with paced(world, tdx, world.library(Services(intel=intel_service.url)), 2) as (_, delays):
        pass
    assert delays[1] <= RETRY_SECONDS
    assert delays[2] <= RETRY_SECONDS


def test_azure_evidence_is_endorsed_by_the_processor_inside(
    world: World, tdx: SimulatedIntel, intel_service: Service
) -> None:
    class Azure(Bare):
        def attest(self, report_data: bytes) -> Evidence:
            quote = self.platform.attest(bytes(64)).quote
            return Evidence(tee=TEE.AZURE_TDX, quote=b"", azure=AzureReport(hcl_report=b"", td_quote=quote))

    attester = Azure(tdx)
    attester.tee = TEE.AZURE_TDX
    stapled = stapling(world, attester, world.library(Services(intel=intel_service.url)))
    assert stapled.attest(REPORT_DATA).intel_collateral == tdx.collateral()


@pytest.mark.parametrize("tee", [TEE.AZURE_TDX, TEE.AZURE_SEV_SNP])
def test_azure_evidence_without_the_processor(world: World, tdx: SimulatedIntel, tee: TEE) -> None:
    class Azure(Bare):
        def attest(self, report_data: bytes) -> Evidence:
            return msgspec.structs.replace(self.platform.attest(report_data).bare(), tee=tee)

    with pytest.raises(AttestationError) as caught:
        stapling(world, Azure(tdx), world.library(Services(), online=False)).attest(REPORT_DATA)
    assert (caught.value.code, caught.value.step) == ("endorsements.missing", "endorsements")
