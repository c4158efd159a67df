from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.attestation import azure

from blindai.attestation.anchors import AMD_ROOTS, VENDOR_ANCHORS
from blindai.attestation.claims import Claims
from blindai.attestation.evidence import TEE, AmdEndorsements, AzureReport, Evidence, TpmQuote, committed
from blindai.attestation.result import Checklist
from blindai.attestation.simulated.tpm import SimulatedTpm
from blindai.attestation.simulated.tpm_certificates import SimulatedTpmRoot
from blindai.attestation.verifiers import verify
from blindai.errors import AttestationError
from mutations import Tally, mutations, run

TIME = datetime(2026, 6, 1, tzinfo=UTC)
REPORT_START, REPORT_SIGNED, REPORT_END = 32, 32 + 0x2A0, 32 + 1184


@cache
def real(folder: Path) -> Evidence:
    """The vTPM evidence of a real machine, its signature in the form in which a TPM gives it."""
    amd = folder / "amd"
    found = json.loads((folder / "azure" / "snp_vtpm_evidence.json").read_text())
    authority, ark = x509.load_pem_x509_certificates((amd / "ask_ark_milan.pem").read_bytes())
    quote = {key: value for key, value in found["quote"].items() if key != "pcrs"}
    signature = bytes(quote["signature"])
    return Evidence(
        tee=TEE.AZURE_SEV_SNP,
        quote=bytes(quote["message"]),
        tpm=TpmQuote(
            signature=struct.pack(">HHH", 0x0014, 0x000B, len(signature)) + signature,
            pcrs={index: bytes(value) for index, value in enumerate(found["quote"]["pcrs"])},
        ),
        azure=AzureReport(hcl_report=bytes(found["report"])),
        amd=AmdEndorsements(
            certificate=pem_to_der(found["vcek"]),
            authority=authority.public_bytes(Encoding.DER),
            root=ark.public_bytes(Encoding.DER),
        ),
    )


def pem_to_der(pem: str) -> bytes:
    return base64.b64decode("".join(line for line in pem.strip().splitlines() if not line.startswith("-----")))


def judge(evidence: Evidence, now: datetime = TIME) -> Claims:
    return verify(evidence, anchors=AMD_ROOTS, now=now, checks=Checklist())


def refusal(evidence: Evidence, now: datetime = TIME) -> AttestationError:
    with pytest.raises(AttestationError) as caught:
        judge(evidence, now)
    return caught.value


def test_a_real_machine(vectors: Path) -> None:
    evidence = real(vectors)
    checks = Checklist()
    claims = verify(evidence, anchors=AMD_ROOTS, now=TIME, checks=checks)
    assert (claims.tee, claims.product, claims.simulated) == (TEE.AZURE_SEV_SNP, "Milan", False)
    assert claims.report_data == evidence.quote[claims.locations["report_data"].start :][: len(claims.report_data)]
    assert claims.measurements.keys() == {"launch_digest", *(f"pcr{index}" for index in range(24))}
    assert evidence.tpm is not None
    assert claims.measurements["pcr4"] == evidence.tpm.pcrs[4].hex()
    assert claims.flags["console"]
    assert not claims.flags["no_secure_boot"]
    assert (claims.vmpl, claims.debug, claims.crl_checked) == (0, False, False)
    assert [check.step for check in checks.checks] == ["evidence", "evidence", "endorsements", "quote", "quote"]


@pytest.mark.parametrize(("now", "accepts"), [("2025-01-29", True), ("2032-01-28", True), ("2032-01-29", False)])
def test_at_the_ends_of_the_certificates(vectors: Path, now: str, accepts: bool) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    if accepts:
        judge(real(vectors), moment)
    else:
        assert refusal(real(vectors), moment).code == "endorsements.certificate.expired"


def replaced(evidence: Evidence, part: str, **fields: Any) -> Evidence:
    return msgspec.structs.replace(evidence, **{part: msgspec.structs.replace(getattr(evidence, part), **fields)})


def with_pcr(evidence: Evidence, index: int, value: bytes) -> Evidence:
    assert evidence.tpm is not None
    return replaced(evidence, "tpm", pcrs=evidence.tpm.pcrs | {index: value})


def without_pcr(evidence: Evidence) -> Evidence:
    assert evidence.tpm is not None
    return replaced(evidence, "tpm", pcrs={index: value for index, value in evidence.tpm.pcrs.items() if index != 11})


def with_other_runtime_data(evidence: Evidence) -> Evidence:
    assert evidence.azure is not None
    changed = evidence.azure.hcl_report.replace(b'"user-data":"0000', b'"user-data":"0001')
    assert changed != evidence.azure.hcl_report
    return replaced(evidence, "azure", hcl_report=changed)


@pytest.mark.parametrize(
    ("change", "step", "code"),
    [
        (lambda found: msgspec.structs.replace(found, azure=None), "evidence", "evidence.hcl"),
        (lambda found: msgspec.structs.replace(found, tpm=None), "evidence", "evidence.malformed"),
        (lambda found: msgspec.structs.replace(found, amd=None), "endorsements", "endorsements.missing"),
        (lambda found: msgspec.structs.replace(found, tee=TEE.AZURE_TDX), "evidence", "evidence.tee"),
        (lambda found: with_pcr(found, 4, bytes(32)), "quote", "quote.pcr_digest"),
        (without_pcr, "quote", "quote.pcr_selection"),
        (with_other_runtime_data, "quote", "quote.runtime_data"),
    ],
)
def test_a_part_that_is_missing_or_changed(
    vectors: Path, change: Callable[[Evidence], Evidence], step: str, code: str
) -> None:
    error = refusal(change(real(vectors)))
    assert (error.step, error.code) == (step, code)


def test_mutations(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the quote, the paravisor's report and the signature, on real evidence: whatever is signed cannot change."""
    evidence = real(vectors)
    assert evidence.azure is not None
    assert evidence.tpm is not None
    hcl, quote, signature = evidence.azure.hcl_report, evidence.quote, evidence.tpm.signature
    runtime_end = REPORT_END + 20 + struct.unpack_from("<I", hcl, REPORT_END + 16)[0]
    runs: list[Tally] = [
        run(
            lambda data: judge(msgspec.structs.replace(evidence, quote=data)),
            mutations(quote, signed=[(0, len(quote))]),
        ),
        run(
            lambda data: judge(replaced(evidence, "azure", hcl_report=data)),
            mutations(hcl[:runtime_end], signed=[(REPORT_START, REPORT_SIGNED), (REPORT_END, runtime_end)], flips=3000),
        ),
        run(
            lambda data: judge(replaced(evidence, "tpm", signature=data)),
            mutations(signature, signed=[(0, len(signature))], flips=600),
        ),
    ]
    assert sum(tally.tried for tally in runs) >= 5000
    assert sum(tally.accepted for tally in runs) == 0


# Simulated machines: TDX, for which there is no real evidence here, and faults that nobody can order from Azure.


def judge_simulated(evidence: Evidence) -> Claims:
    return verify(evidence, anchors=azure.anchors(), now=azure.NOW, checks=Checklist())


def refusal_simulated(evidence: Evidence) -> tuple[str, str]:
    with pytest.raises(AttestationError) as caught:
        judge_simulated(evidence)
    return caught.value.step, caught.value.code


@pytest.mark.parametrize("tee", azure.TEES)
def test_a_simulated_machine(tee: TEE) -> None:
    claims = judge_simulated(azure.good(tee, secure_boot=False, console=False))
    assert (claims.tee, claims.simulated) == (tee, True)
    assert claims.report_data == committed(tee, azure.REPORT_DATA)
    register = "launch_digest" if tee is TEE.AZURE_SEV_SNP else "mrtd"
    assert claims.measurements.keys() == {register, *(f"pcr{index}" for index in range(24))}
    assert claims.measurements["pcr4"] == azure.tpm().pcrs[4].hex()
    assert (claims.flags["no_secure_boot"], claims.flags["console"]) == (True, False)
    assert claims.svns["reset_count"] == azure.tpm().resets
    assert claims.locations[register].of != "quote"
    assert claims.locations["report_data"].of == "quote"


@pytest.mark.parametrize("tee", azure.TEES)
def test_ranges_are_those_of_the_evidence_as_it_came(tee: TEE) -> None:
    """Whatever is said to be signed or compared has to be found there: no part of another name, none too short."""
    evidence = azure.good(tee)
    checks = Checklist()
    verify(evidence, anchors=azure.anchors(), now=azure.NOW, checks=checks)
    assert evidence.azure is not None
    parts = {"quote": evidence.quote, "azure.hcl_report": evidence.azure.hcl_report}
    parts["azure.hcl_report[0x20:]"] = evidence.azure.hcl_report[0x20:]
    parts["azure.td_quote"] = evidence.azure.td_quote or b""
    ranges = [item for check in checks.checks for item in check.ranges]
    names = {item.of for item in ranges if item.of == "quote" or item.of.startswith("azure.")}
    assert names == {
        "quote",
        "azure.hcl_report",
        *({"azure.hcl_report[0x20:]"} if evidence.amd else {"azure.td_quote"}),
    }
    assert all(item.end <= len(parts[item.of]) for item in ranges if item.of in parts)
    place = next(item for item in ranges if item.use.startswith("report_data"))
    assert parts[place.of][place.start : place.end].hex() == place.value


@pytest.mark.parametrize("tee", azure.TEES)
def test_a_processor_that_signed_other_runtime_data(tee: TEE) -> None:
    evidence = azure.good(tee, other_runtime_data=True)
    assert refusal_simulated(evidence) == ("quote", "quote.runtime_data")


def test_a_report_that_the_guest_asked_for() -> None:
    evidence = azure.good(TEE.AZURE_SEV_SNP, vmpl=2)
    assert refusal_simulated(evidence) == ("platform", "platform.vmpl")


def test_tdx_without_the_quote_of_the_trust_domain() -> None:
    evidence = replaced(azure.good(TEE.AZURE_TDX), "azure", td_quote=None)
    assert refusal_simulated(evidence) == ("endorsements", "endorsements.missing")


def test_another_key_of_the_virtual_tpm() -> None:
    other = SimulatedTpm(SimulatedTpmRoot.generate(), ak="rsa", clock=lambda: azure.NOW)
    quote, tpm = other.quote(committed(TEE.AZURE_TDX, azure.REPORT_DATA), range(24))
    evidence = msgspec.structs.replace(azure.good(TEE.AZURE_TDX), quote=quote, tpm=tpm)
    assert refusal_simulated(evidence) == ("quote", "quote.signature")


@pytest.mark.parametrize("tee", azure.TEES)
def test_a_simulated_machine_is_nothing_to_the_real_roots(tee: TEE) -> None:
    with pytest.raises(AttestationError) as caught:
        verify(azure.good(tee), anchors=VENDOR_ANCHORS[tee], now=azure.NOW, checks=Checklist())
    assert caught.value.step == "endorsements"
