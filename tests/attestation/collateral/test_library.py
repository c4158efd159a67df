from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import msgspec
import pytest

from blindai.attestation.anchors import INTEL_SGX_ROOT, Anchor
from blindai.attestation.attesters.azure import AzureAttester
from blindai.attestation.collateral.cache import Cache, default_directory, log_plainly
from blindai.attestation.collateral.fetch import Answer
from blindai.attestation.collateral.library import Library, complete
from blindai.attestation.collateral.service import Services
from blindai.attestation.evidence import TEE, AmdEndorsements, Evidence, IntelCollateral, TpmQuote
from blindai.attestation.result import Checklist
from blindai.attestation.simulated.amd import AmdFaults, SimulatedAmd
from blindai.attestation.simulated.amd_root import SimulatedAmdRoot
from blindai.attestation.simulated.azure import SimulatedAzure
from blindai.attestation.simulated.intel import Faults, SimulatedIntel
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.attestation.simulated.tpm import SimulatedTpm
from blindai.attestation.simulated.tpm_certificates import SimulatedTpmRoot
from blindai.attestation.verifiers import verify
from blindai.errors import AttestationError, Unavailable
from collateral_services import Reply, Service, kds, pccs, pccs_with, serving
from collateral_world import START, World
from mutations import mutations

REPORT_DATA = bytes(range(64))
TCB = "/tdx/certification/v4/tcb"
QE = "/tdx/certification/v4/qe/identity"
PCK_CRL = "/sgx/certification/v4/pckcrl"
ROOT_CRL = "/sgx/certification/v4/rootcacrl"

REAL = [("sgx_v3", "sgx", "00a067110000", "processor"), ("tdx_v4", "tdx", "b0c06f000000", "platform")]


def accepted(evidence: Evidence, anchor: Anchor, now: datetime) -> None:
    claims = verify(evidence, anchors=(anchor,), now=now, checks=Checklist())
    assert claims.report_data == REPORT_DATA


def missing(library: Library, evidence: Evidence) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        complete(evidence, library)
    assert caught.value.code == "collateral.missing"
    assert caught.value.hint
    return caught.value


def test_a_tdx_quote_is_completed_from_a_pccs(world: World, tdx: SimulatedIntel, intel_service: Service) -> None:
    bare = tdx.attest(REPORT_DATA).bare()
    whole = complete(bare, world.library(Services(intel=intel_service.url)))
    assert whole.intel_collateral == tdx.collateral()
    accepted(whole, tdx.anchor, world.now)
    assert intel_service.requests == [
        f"{TCB}?fmspc=00906ed50000",
        QE,
        f"{PCK_CRL}?ca=platform&encoding=der",
        ROOT_CRL,
    ]


def test_an_sgx_quote_asks_for_the_other_tree(world: World, intel_root: SimulatedRoot) -> None:
    sgx = SimulatedIntel(intel_root, tee=TEE.INTEL_SGX, clock=world.clock)
    with serving(pccs(sgx)) as service:
        whole = complete(sgx.attest(REPORT_DATA).bare(), world.library(Services(intel=service.url)))
    accepted(whole, sgx.anchor, world.now)
    assert service.requests[0].startswith("/sgx/certification/v4/tcb?")


@pytest.mark.parametrize(("name", "tree", "fmspc", "ca"), REAL)
def test_real_quotes_with_intels_own_answers(
    world: World, vectors: Path, tmp_path: Path, name: str, tree: str, fmspc: str, ca: str
) -> None:
    """The answers are put together from what Intel's service gave when the quotes were made."""
    tee = TEE.INTEL_SGX if tree == "sgx" else TEE.INTEL_TDX
    world.now = datetime(2025, 7, 1, tzinfo=UTC)
    given = msgspec.json.decode((vectors / "intel" / f"{name}_collateral.json").read_bytes(), type=IntelCollateral)
    bare = Evidence(tee=tee, quote=(vectors / "intel" / f"{name}_quote.bin").read_bytes())
    with serving(pccs_with(lambda: given, tree=tree, fmspc=fmspc, ca=ca)) as service:
        whole = complete(bare, world.library(Services(intel=service.url), Cache(tmp_path)))
    assert whole.intel_collateral == given
    offline = world.library(Services(), Cache(tmp_path), online=False)
    assert complete(bare, offline) == whole
    verify(whole, anchors=(INTEL_SGX_ROOT,), now=world.now, checks=Checklist())


def test_a_real_report_with_amds_own_answers(world: World, vectors: Path, tmp_path: Path) -> None:
    """The list is the simulated one of no product line: AMD's is not among the vectors."""
    report = (vectors / "amd" / "milan_v2_report.bin").read_bytes()
    vcek = (vectors / "amd" / "milan_v2_vcek.der").read_bytes()
    chain = (vectors / "amd" / "ask_ark_milan.pem").read_bytes()
    asked: list[dict[str, str]] = []

    def answer(path: str, query: dict[str, str]) -> Reply:
        if path == f"/vcek/v1/Milan/{report[0x1A0:0x1E0].hex()}":
            asked.append(query)
            return Reply(body=vcek)
        return Reply(body=chain) if path == "/vcek/v1/Milan/cert_chain" else Reply(404)

    with serving(answer) as service:
        library = world.library(Services(amd=service.url), Cache(tmp_path))
        error = missing(library, Evidence(tee=TEE.AMD_SEV_SNP, quote=report))
    assert "the revocation list of Milan" in error.message
    assert "VCEK certificate" not in error.message
    tcb = report[0x180:0x188]
    assert [int(asked[0][name]) for name in ("blSPL", "teeSPL", "snpSPL", "ucodeSPL")] == [
        *tcb[:2],
        *tcb[6:],
    ]


@pytest.mark.parametrize("tee", [TEE.AZURE_SEV_SNP, TEE.AZURE_TDX])
def test_azure_is_endorsed_by_the_processor_below(
    world: World, snp: SimulatedAmd, tdx: SimulatedIntel, tee: TEE
) -> None:
    processor = snp if tee is TEE.AZURE_SEV_SNP else tdx
    tpm = SimulatedTpm(SimulatedTpmRoot.generate(), ak="rsa", clock=world.clock)
    machine = SimulatedAzure(processor, tpm)
    bare = AzureAttester(machine, machine).attest(REPORT_DATA).bare()
    answer = kds(processor) if isinstance(processor, SimulatedAmd) else pccs(processor)
    with serving(answer) as service:
        whole = complete(bare, world.library(Services(intel=service.url, amd=service.url)))
    verify(whole, anchors=(processor.anchor,), now=world.now, checks=Checklist())


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_an_snp_report_is_completed_from_a_kds(world: World, amd_root: SimulatedAmdRoot, product: str) -> None:
    snp = SimulatedAmd(amd_root, product=product, clock=world.clock)  # type: ignore[arg-type]  # pytest gives plain strings
    with serving(kds(snp)) as service:
        whole = complete(snp.attest(REPORT_DATA).bare(), world.library(Services(amd=service.url)))
    assert whole.amd == snp.endorsements()
    accepted(whole, snp.anchor, world.now)
    own, *shared = service.requests
    assert own.startswith(f"/vcek/v1/{product}/")
    assert ("fmcSPL=" in own) == (product == "Turin")
    assert shared == [f"/vcek/v1/{product}/cert_chain", f"/vcek/v1/{product}/crl"]


@pytest.mark.parametrize("product", ["Milan", "Genoa"])
def test_a_report_of_version_2_does_not_say_its_product(world: World, amd_root: SimulatedAmdRoot, product: str) -> None:
    snp = SimulatedAmd(amd_root, product=product, report_version=2, clock=world.clock)  # type: ignore[arg-type]  # as above
    with serving(kds(snp)) as service:
        whole = complete(snp.attest(REPORT_DATA).bare(), world.library(Services(amd=service.url)))
    accepted(whole, snp.anchor, world.now)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("key", ["vcek", "vlek"])
def test_what_a_host_gave_is_completed(world: World, amd_root: SimulatedAmdRoot, key: str, version: int) -> None:
    snp = SimulatedAmd(amd_root, signing_key=key, report_version=version, clock=world.clock)  # type: ignore[arg-type]  # as above
    own = AmdEndorsements(certificate=snp.endorsements().certificate, authority=b"", root=b"")
    with serving(kds(snp)) as service:
        given = msgspec.structs.replace(snp.attest(REPORT_DATA), amd=own)
        whole = complete(given, world.library(Services(amd=service.url)))
    accepted(whole, snp.anchor, world.now)
    assert service.requests == [f"/{key}/v1/Milan/cert_chain", f"/{key}/v1/Milan/crl"]


def test_nobody_but_the_host_has_a_vlek(world: World, amd_root: SimulatedAmdRoot) -> None:
    snp = SimulatedAmd(amd_root, signing_key="vlek", clock=world.clock)
    with serving(kds(snp)) as service:
        error = missing(world.library(Services(amd=service.url)), snp.attest(REPORT_DATA).bare())
    assert "collateral.no_service" in error.message
    assert "the host should" in error.message


def test_a_chain_of_the_wrong_length(world: World, snp: SimulatedAmd, amd_service: Service) -> None:
    path = "/vcek/v1/Milan/cert_chain"
    genuine = amd_service.reply(path)
    amd_service.faults[path] = genuine._replace(body=genuine.body * 2)
    error = missing(world.library(Services(amd=amd_service.url)), snp.attest(REPORT_DATA).bare())
    assert "are 2, not 4" in error.message


def test_a_masked_chip_cannot_be_asked_for(world: World, amd_root: SimulatedAmdRoot) -> None:
    snp = SimulatedAmd(amd_root, faults=AmdFaults(masked_chip=True), clock=world.clock)
    with serving(kds(snp)) as service:
        error = missing(world.library(Services(amd=service.url)), snp.attest(REPORT_DATA).bare())
    assert "collateral.no_service" in error.message


def test_a_processor_that_nobody_knows(world: World, snp: SimulatedAmd) -> None:
    bare = snp.attest(REPORT_DATA).bare()
    other = bare.quote[:0x188] + b"\x1f\x01" + bare.quote[0x18A:]
    with pytest.raises(AttestationError) as caught:
        complete(msgspec.structs.replace(bare, quote=other), world.library(Services()))
    assert (caught.value.code, caught.value.step) == ("endorsements.product", "endorsements")


def test_a_pck_certificate_that_describes_no_platform(world: World, tdx: SimulatedIntel) -> None:
    """The one of a CA stands in its place."""
    quote = tdx.attest(REPORT_DATA).quote
    start = quote.index(b"-----BEGIN CERTIFICATE-----")
    chain = quote[start:].rstrip(b"\0")
    _, ca, root = (part + b"-----END CERTIFICATE-----\n" for part in chain.split(b"-----END CERTIFICATE-----\n")[:3])
    other = ca + ca + root
    delta = len(other) - len(chain)
    sizes = {start - 4: delta, start - 4 - 2 - 32 - 2 - 64 - 384 - 4: delta, 632: delta}
    changed = bytearray(quote)
    for at, change in sizes.items():
        changed[at : at + 4] = (int.from_bytes(changed[at : at + 4], "little") + change).to_bytes(4, "little")
    changed[start : start + len(chain)] = other
    with pytest.raises(AttestationError) as caught:
        complete(Evidence(tee=TEE.INTEL_TDX, quote=bytes(changed)), world.library(Services()))
    assert (caught.value.code, caught.value.step) == ("endorsements.malformed", "endorsements")


def test_complete_evidence_and_a_tpm_ask_nobody(world: World, tdx: SimulatedIntel) -> None:
    library = world.library(Services(), online=False)
    whole = tdx.attest(REPORT_DATA)
    assert complete(whole, library) is whole
    tpm = Evidence(tee=TEE.TPM, quote=b"", tpm=TpmQuote(signature=b"", pcrs={}))
    assert complete(tpm, library) is tpm
    assert library.endorse(tpm) is None


def test_what_is_at_hand_is_not_asked_for_again(world: World, tdx: SimulatedIntel, intel_service: Service) -> None:
    library = world.library(Services(intel=intel_service.url))
    first = complete(tdx.attest(REPORT_DATA).bare(), library)
    assert complete(tdx.attest(REPORT_DATA).bare(), library).intel_collateral == first.intel_collateral
    assert len(intel_service.requests) == 4


def test_the_folder_outlives_the_process(
    world: World, tdx: SimulatedIntel, intel_service: Service, tmp_path: Path
) -> None:
    folder = tmp_path / "made" / "collateral"
    services = Services(intel=intel_service.url)
    complete(tdx.attest(REPORT_DATA).bare(), world.library(services, Cache(folder, log=world.log)))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in folder.iterdir()) == [
        "intel-pck-crl-platform.pem",
        "intel-root-crl.pem",
        "intel-tdx-qe-identity.json",
        "intel-tdx-tcb-00906ed50000.json",
    ]
    offline = world.library(services, Cache(folder, log=world.log), online=False)
    accepted(complete(tdx.attest(REPORT_DATA).bare(), offline), tdx.anchor, world.now)
    assert len(intel_service.requests) == 4
    assert world.events == []


def test_files_as_amd_hands_them_out(world: World, snp: SimulatedAmd, amd_service: Service, tmp_path: Path) -> None:
    """Fetched elsewhere with any tool, in DER, and carried here."""
    library = world.library(Services(amd=amd_service.url), Cache(tmp_path))
    complete(snp.attest(REPORT_DATA).bare(), library)
    given = snp.endorsements()
    for path in tmp_path.iterdir():
        if "crl" in path.name:
            path.write_bytes(given.crl or b"")
        elif "chain" not in path.name:
            path.write_bytes(given.certificate)
    offline = world.library(Services(), Cache(tmp_path), online=False)
    accepted(complete(snp.attest(REPORT_DATA).bare(), offline), snp.anchor, world.now)


def test_two_threads_ask_once(world: World, tdx: SimulatedIntel, intel_service: Service) -> None:
    library = world.library(Services(intel=intel_service.url))
    bare = tdx.attest(REPORT_DATA).bare()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: complete(bare, library), range(8)))
    assert len(set(answers)) == 1
    assert len(intel_service.requests) == 4


def test_two_processes_share_a_folder(
    world: World, tdx: SimulatedIntel, intel_service: Service, tmp_path: Path
) -> None:
    services, bare = Services(intel=intel_service.url), tdx.attest(REPORT_DATA).bare()
    libraries = [world.library(services, Cache(tmp_path, log=world.log)) for _ in range(4)]
    gate = threading.Barrier(len(libraries))

    def run(library: Library) -> Evidence:
        gate.wait()
        return complete(bare, library)

    with ThreadPoolExecutor(len(libraries)) as pool:
        for whole in pool.map(run, libraries):
            accepted(whole, tdx.anchor, world.now)
    assert world.events == []
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


# Cold start


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Reply(429, headers={"Retry-After": "7200"}), "collateral.rate_limited"),
        (Reply(500), "collateral.status"),
        (Reply(404), "collateral.status"),
        (Reply(body=b"{}", cut=1), "collateral.truncated"),
        (Reply(body=b"<html>"), "collateral.malformed"),
        (Reply(body=b""), "collateral.malformed"),
        (Reply(body=b"{}"), "collateral.malformed"),
        (Reply(body=b'{"signature":""}'), "collateral.malformed"),
        (Reply(body=b"\xff" * 64), "collateral.malformed"),
        (Reply(body=bytes(1 << 19)), "collateral.too_large"),
    ],
)
def test_nothing_at_hand_and_a_service_that_fails(
    world: World, tdx: SimulatedIntel, intel_service: Service, fault: Reply, code: str
) -> None:
    intel_service.faults[""] = fault
    error = missing(world.library(Services(intel=intel_service.url)), tdx.attest(REPORT_DATA).bare())
    for part in ("TCB info of FMSPC 00906ed50000", "QE identity", "PCK revocation list", "root CA's revocation list"):
        assert part in error.message
    assert f"{intel_service.url}{TCB}?fmspc=00906ed50000" in error.message
    assert code in error.message
    assert "--collateral-dir" in error.hint


def test_only_what_failed_is_named(world: World, tdx: SimulatedIntel, intel_service: Service) -> None:
    intel_service.faults[ROOT_CRL] = Reply(404)
    error = missing(world.library(Services(intel=intel_service.url)), tdx.attest(REPORT_DATA).bare())
    assert "root CA's revocation list" in error.message
    assert "TCB info" not in error.message


def test_offline_with_an_empty_folder(world: World, tdx: SimulatedIntel, tmp_path: Path) -> None:
    library = world.library(Services(), Cache(tmp_path), online=False)
    error = missing(library, tdx.attest(REPORT_DATA).bare())
    assert "collateral.offline" in error.message
    assert str(tmp_path / "intel-root-crl.pem") in error.message
    assert "intel-root-crl.pem" in error.hint
    assert "asked" not in error.message


def test_offline_without_a_folder(world: World, tdx: SimulatedIntel) -> None:
    assert "memory" in missing(world.library(Services(), online=False), tdx.attest(REPORT_DATA).bare()).message


@pytest.mark.parametrize(("days", "code"), [(-60, "collateral.expired"), (2, "collateral.expired")])
def test_a_service_that_hands_out_what_is_not_valid_now(
    world: World, intel_root: SimulatedRoot, days: int, code: str
) -> None:
    faults = Faults(collateral_shift=timedelta(days=days))
    stale = SimulatedIntel(intel_root, faults=faults, clock=world.clock)
    with serving(pccs(stale)) as service:
        error = missing(world.library(Services(intel=service.url)), stale.attest(REPORT_DATA).bare())
    assert code in error.message


# What does not verify


def altered_tcb_info(tdx: SimulatedIntel, service: Service) -> None:
    genuine = service.reply(f"{TCB}?fmspc=00906ed50000")
    service.faults[TCB] = genuine._replace(body=genuine.body.replace(b'"pcesvn":13', b'"pcesvn":12'))


def qe_identity_as_tcb_info(tdx: SimulatedIntel, service: Service) -> None:
    genuine = service.reply(QE)
    headers = {"TCB-Info-Issuer-Chain": genuine.headers["SGX-Enclave-Identity-Issuer-Chain"]}
    service.faults[TCB] = genuine._replace(headers=headers)


def root_list_as_pck_list(tdx: SimulatedIntel, service: Service) -> None:
    headers = service.reply(f"{PCK_CRL}?ca=platform").headers
    service.faults[PCK_CRL] = service.reply(ROOT_CRL)._replace(headers=headers)


@pytest.mark.parametrize("fault", [altered_tcb_info, qe_identity_as_tcb_info, root_list_as_pck_list])
def test_what_does_not_verify_is_not_kept(
    world: World,
    tdx: SimulatedIntel,
    intel_service: Service,
    tmp_path: Path,
    fault: Callable[[SimulatedIntel, Service], None],
) -> None:
    fault(tdx, intel_service)
    library = world.library(Services(intel=intel_service.url), Cache(tmp_path))
    error = missing(library, tdx.attest(REPORT_DATA).bare())
    assert "collateral.refused" in error.message
    assert list(tmp_path.iterdir()) == []


def test_collateral_of_another_platform(world: World, intel_root: SimulatedRoot, tdx: SimulatedIntel) -> None:
    """The service answers for the FMSPC that was asked, with another platform's certificates."""
    stranger = SimulatedIntel(SimulatedRoot.generate(START), clock=world.clock)
    with serving(pccs(stranger)) as service:
        error = missing(world.library(Services(intel=service.url)), tdx.attest(REPORT_DATA).bare())
    assert "endorsements.root" in error.message


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        (AmdFaults(certificate_tcb={"snp": 22}), "endorsements.tcb"),
        (AmdFaults(other_chip=True), "endorsements.chip"),
        (AmdFaults(authority_product="Genoa"), "endorsements.product"),
        (AmdFaults(revoked=frozenset({"authority"})), "endorsements.revoked"),
    ],
)
def test_a_vcek_that_nobody_would_accept(
    world: World, amd_root: SimulatedAmdRoot, faults: AmdFaults, code: str
) -> None:
    snp = SimulatedAmd(amd_root, faults=faults, clock=world.clock)
    with serving(kds(snp)) as service:
        error = missing(world.library(Services(amd=service.url)), snp.attest(REPORT_DATA).bare())
    assert code in error.message


class Changed:
    """Answers as a service does, but for one address."""

    def __init__(self, service: Service, target: str, changed: bytes, header: str = "") -> None:
        self.service, self.target, self.changed, self.header = service, target, changed, header

    def get(self, url: str, *, patience: float = 0) -> Answer:
        target = url.removeprefix(self.service.url)
        reply = self.service.reply(target)
        headers = {name.lower(): unquote(value) for name, value in reply.headers.items()}
        if target != self.target:
            return Answer(reply.body, headers)
        if self.header:
            return Answer(reply.body, {self.header: self.changed.decode("latin-1")})
        return Answer(self.changed, headers)


@pytest.mark.parametrize("kind", ["intel", "amd"])
def test_answers_that_were_changed_are_refused_or_say_the_same(
    world: World, tdx: SimulatedIntel, snp: SimulatedAmd, intel_service: Service, amd_service: Service, kind: str
) -> None:
    """Nothing but a refusal comes out, or endorsements under which the verifier accepts the evidence."""
    platform, service = (tdx, intel_service) if kind == "intel" else (snp, amd_service)
    services = Services(intel=service.url, amd=service.url)
    bare = platform.attest(REPORT_DATA).bare()
    complete(bare, world.library(services))
    tried, codes = 0, []
    for target in list(service.requests):
        reply = service.reply(target)
        cases = [("", reply.body)]
        cases += [(name.lower(), unquote(chain).encode()) for name, chain in reply.headers.items() if "Chain" in name]
        for header, genuine in cases:
            for mutation in mutations(genuine, signed=[], flips=100):
                fetcher = Changed(service, target, mutation.data, header)
                library = Library(Cache(None), fetcher, services, clock=world.clock, log=world.log)
                tried += 1
                try:
                    whole = complete(bare, library)
                except Unavailable as error:
                    codes.append(error.code)
                else:
                    accepted(whole, platform.anchor, world.now)
    assert tried > 2000
    assert len(codes) > 0.7 * tried
    assert set(codes) == {"collateral.missing"}


# Renewal


def renew(library: Library, platform: SimulatedIntel) -> None:
    assert library.endorse(platform.attest(REPORT_DATA).bare(), refresh=True) is not None


def test_lists_are_asked_for_again_after_a_day(world: World, tdx: SimulatedIntel, intel_service: Service) -> None:
    library = world.library(Services(intel=intel_service.url))
    renew(library, tdx)
    world.now += timedelta(hours=23)
    renew(library, tdx)
    assert len(intel_service.requests) == 4
    world.now += timedelta(hours=1)
    renew(library, tdx)
    assert len(intel_service.requests) == 8
    renew(library, tdx)
    assert len(intel_service.requests) == 8


def test_a_certificate_is_asked_for_again_only_before_its_end(
    world: World, snp: SimulatedAmd, amd_service: Service
) -> None:
    library = world.library(Services(amd=amd_service.url))
    bare = snp.attest(REPORT_DATA).bare()
    library.endorse(bare, refresh=True)
    world.now += timedelta(days=2)
    library.endorse(bare, refresh=True)
    assert amd_service.requests[3:] == ["/vcek/v1/Milan/crl"]
    end = snp.endorsements()
    world.now += timedelta(days=7 * 365 - 5)
    library.endorse(bare, refresh=True)
    assert amd_service.requests[4].startswith("/vcek/v1/Milan/")
    assert "blSPL=" in amd_service.requests[4] or "blSPL=" in amd_service.requests[5]
    assert end.certificate == snp.endorsements().certificate


def test_a_failed_renewal_is_logged_and_the_old_is_used_to_its_end(
    world: World, tdx: SimulatedIntel, intel_service: Service
) -> None:
    library = world.library(Services(intel=intel_service.url))
    first = library.endorse(tdx.attest(REPORT_DATA).bare())
    assert first is not None
    intel_service.faults[""] = Reply(503)
    world.now += timedelta(days=2)
    assert library.endorse(tdx.attest(REPORT_DATA).bare(), refresh=True, patience=0) == first
    failed = world.events_named("collateral_not_refreshed")
    assert {fields["document"] for fields in failed} == {
        "intel-tdx-tcb-00906ed50000.json",
        "intel-tdx-qe-identity.json",
        "intel-pck-crl-platform.pem",
        "intel-root-crl.pem",
    }
    assert all("503" in fields["error"] for fields in failed)
    assert min(fields["valid_until"] for fields in failed) == f"{first.not_after:%Y-%m-%dT%H:%M:%SZ}"

    world.now = first.not_after
    assert library.endorse(tdx.attest(REPORT_DATA).bare(), patience=0) == first
    world.now += timedelta(seconds=1)
    missing(library, tdx.attest(REPORT_DATA).bare())


def test_a_renewal_that_does_not_verify_changes_nothing(
    world: World, tdx: SimulatedIntel, intel_service: Service
) -> None:
    library = world.library(Services(intel=intel_service.url))
    first = library.endorse(tdx.attest(REPORT_DATA).bare())
    altered_tcb_info(tdx, intel_service)
    world.now += timedelta(days=2)
    assert library.endorse(tdx.attest(REPORT_DATA).bare(), refresh=True) == first
    assert "endorsements.tcb_info.signature" in world.events_named("collateral_not_refreshed")[0]["error"]
    intel_service.faults.clear()
    assert library.endorse(tdx.attest(REPORT_DATA).bare(), refresh=True) is not None


def test_a_renewal_brings_what_is_newer(world: World, tdx: SimulatedIntel, intel_service: Service) -> None:
    library = world.library(Services(intel=intel_service.url))
    first = library.endorse(tdx.attest(REPORT_DATA).bare())
    world.now += timedelta(days=25)
    second = library.endorse(tdx.attest(REPORT_DATA).bare(), refresh=True)
    assert first is not None
    assert second is not None
    assert second.not_after > first.not_after


def test_offline_nothing_is_renewed(world: World, tdx: SimulatedIntel, intel_service: Service, tmp_path: Path) -> None:
    first = world.library(Services(intel=intel_service.url), Cache(tmp_path)).endorse(tdx.attest(REPORT_DATA).bare())
    world.now += timedelta(days=25)
    offline = world.library(Services(), Cache(tmp_path), online=False)
    assert offline.endorse(tdx.attest(REPORT_DATA).bare(), refresh=True) == first


# The folder


def kept(world: World, tdx: SimulatedIntel, service: Service, folder: Path) -> None:
    complete(tdx.attest(REPORT_DATA).bare(), world.library(Services(intel=service.url), Cache(folder, log=world.log)))


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 100, b"x" * (1 << 19)])
@pytest.mark.parametrize("name", ["intel-root-crl.pem", "intel-tdx-qe-identity.json"])
def test_a_damaged_file_is_dropped_and_fetched_anew(
    world: World, tdx: SimulatedIntel, intel_service: Service, tmp_path: Path, name: str, content: bytes
) -> None:
    kept(world, tdx, intel_service, tmp_path)
    (tmp_path / name).write_bytes(content)
    kept(world, tdx, intel_service, tmp_path)
    assert len(intel_service.requests) == 5
    assert [fields["document"] for fields in world.events_named("collateral_damaged")] == [name]
    assert (tmp_path / f"{name}.damaged").read_bytes() == content


def test_a_file_that_parses_but_does_not_verify_is_fetched_anew(
    world: World, tdx: SimulatedIntel, intel_service: Service, tmp_path: Path
) -> None:
    kept(world, tdx, intel_service, tmp_path)
    path = tmp_path / "intel-tdx-tcb-00906ed50000.json"
    genuine = path.read_bytes()
    path.write_bytes(genuine.replace(b'"pcesvn":13', b'"pcesvn":12'))
    kept(world, tdx, intel_service, tmp_path)
    assert len(intel_service.requests) == 8
    assert "endorsements.tcb_info.signature" in world.events_named("collateral_refused")[0]["error"]
    assert path.read_bytes() == genuine


def test_a_file_that_does_not_verify_stays_as_it_is_offline(
    world: World, tdx: SimulatedIntel, intel_service: Service, tmp_path: Path
) -> None:
    kept(world, tdx, intel_service, tmp_path)
    path = tmp_path / "intel-tdx-tcb-00906ed50000.json"
    altered = path.read_bytes().replace(b'"pcesvn":13', b'"pcesvn":12')
    path.write_bytes(altered)
    error = missing(world.library(Services(), Cache(tmp_path), online=False), tdx.attest(REPORT_DATA).bare())
    assert "collateral.refused" in error.message
    assert "endorsements.tcb_info.signature" in error.message
    assert path.read_bytes() == altered


def test_a_platform_that_intel_revoked(world: World, intel_root: SimulatedRoot) -> None:
    """Nobody would accept it: the server says so before its clients do."""
    tdx = SimulatedIntel(intel_root, faults=Faults(revoked=frozenset({"pck"})), clock=world.clock)
    with serving(pccs(tdx)) as service:
        error = missing(world.library(Services(intel=service.url)), tdx.attest(REPORT_DATA).bare())
    assert "endorsements.revoked" in error.message


def test_an_expired_file_is_not_used(world: World, tdx: SimulatedIntel, intel_service: Service, tmp_path: Path) -> None:
    kept(world, tdx, intel_service, tmp_path)
    world.now += timedelta(days=31)
    missing(world.library(Services(), Cache(tmp_path), online=False), tdx.attest(REPORT_DATA).bare())
    kept(world, tdx, intel_service, tmp_path)
    assert len(intel_service.requests) == 8


def test_a_folder_that_cannot_be_written(
    world: World, tdx: SimulatedIntel, intel_service: Service, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file", log=world.log)
    library = world.library(Services(intel=intel_service.url), cache)
    complete(tdx.attest(REPORT_DATA).bare(), library)
    complete(tdx.attest(REPORT_DATA).bare(), library)
    assert len(intel_service.requests) == 4
    assert len(world.events_named("collateral_not_stored")) == 4


def test_a_file_that_cannot_be_read(world: World, tdx: SimulatedIntel, intel_service: Service, tmp_path: Path) -> None:
    (tmp_path / "intel-root-crl.pem").mkdir()
    kept(world, tdx, intel_service, tmp_path)
    assert world.events_named("collateral_unreadable")[0]["document"] == "intel-root-crl.pem"


def test_the_time_of_fetching_is_that_of_the_file(
    world: World, tdx: SimulatedIntel, intel_service: Service, tmp_path: Path
) -> None:
    kept(world, tdx, intel_service, tmp_path)
    for path in tmp_path.iterdir():
        assert datetime.fromtimestamp(path.stat().st_mtime, UTC) == world.now
        os.utime(path, (START.timestamp() - 90000,) * 2)
    library = world.library(Services(intel=intel_service.url), Cache(tmp_path))
    renew(library, tdx)
    assert len(intel_service.requests) == 8


# As the command line opens it


def test_open(tmp_path: Path) -> None:
    opened = Library.open(TEE.INTEL_TDX, url="pccs.example", directory=tmp_path)
    assert opened._services.intel == "https://pccs.example"
    assert opened._fetcher is not None
    assert opened._cache.directory == tmp_path


def test_open_with_a_folder_alone_is_offline(tmp_path: Path) -> None:
    assert Library.open(TEE.AMD_SEV_SNP, directory=tmp_path)._fetcher is None


def test_open_with_nothing_asks_the_makers() -> None:
    opened = Library.open(TEE.AMD_SEV_SNP)
    assert opened._services == Services()
    assert opened._fetcher is not None
    assert opened._cache.directory == default_directory()


def test_log_without_a_logger(caplog: pytest.LogCaptureFixture) -> None:
    log_plainly("collateral_damaged", document="x")
    assert caplog.messages == ["collateral_damaged document=x"]
