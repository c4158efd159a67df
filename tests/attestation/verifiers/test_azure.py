from __future__ import annotations

import base64
import hashlib
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
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from tests.attestation.simulation import NOW, anchor, collateral_of, platform, refused

from blindai.attestation.anchors import AMD_ROOTS
from blindai.attestation.claims import Claims
from blindai.attestation.evidence import TEE, AmdEndorsements, AzureReport, Evidence, TpmQuote
from blindai.attestation.result import Checklist
from blindai.attestation.verifiers import verify
from blindai.errors import AttestationError
from mutations import Tally, mutations, run

NONCE = bytes(range(32))
TIME = datetime(2026, 6, 1, tzinfo=UTC)
REPORT_START, REPORT_SIGNED, REPORT_END = 32, 32 + 0x2A0, 32 + 1184


@cache
def real(folder: Path) -> Evidence:
    """The vTPM evidence of a real machine, its signature in the form in which a TPM gives it."""
    azure, amd = folder / "azure", folder / "amd"
    found = json.loads((azure / "snp_vtpm_evidence.json").read_text())
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


# Azure's TDX, for which there is no real evidence here: a simulated quote below the same paravisor report.


@cache
def ak() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def base64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8)).rstrip(b"=").decode()


def td_evidence(*, report_data: bytes | None = None, secure_boot: bool = True) -> Evidence:
    public = ak().public_key().public_numbers()
    runtime = json.dumps(
        {
            "keys": [{"kid": "HCLAkPub", "kty": "RSA", "e": base64url(public.e), "n": base64url(public.n)}],
            "vm-configuration": {"console-enabled": False, "secure-boot": secure_boot, "tpm-enabled": True},
        }
    ).encode()
    committed = hashlib.sha256(runtime).digest() + bytes(32)
    hcl = (
        struct.pack("<4sIIII12x", b"HCLA", 1, REPORT_END + 20 + len(runtime), 2, 0)
        + bytes(1184)
        + struct.pack("<IIIII", 20 + len(runtime), 1, 4, 1, len(runtime))
        + runtime
    )
    inner = platform("tdx-v4", measurements={"mrtd": "1d" * 48}).attest(report_data or committed)
    quote, tpm = tpm_quote()
    return Evidence(
        tee=TEE.AZURE_TDX,
        quote=quote,
        tpm=tpm,
        azure=AzureReport(hcl_report=hcl, td_quote=inner.quote),
        intel_collateral=collateral_of(inner),
    )


def tpm_quote() -> tuple[bytes, TpmQuote]:
    pcrs = {4: b"\x04" * 32, 11: b"\x0b" * 32}
    selection = struct.pack(">IHB3s", 1, 0x000B, 3, bytes([1 << 4, 1 << 3, 0]))
    digest = hashlib.sha256(pcrs[4] + pcrs[11]).digest()
    name = b"\x00\x0b" + bytes(32)
    message = (
        struct.pack(">IHH", 0xFF544347, 0x8018, len(name))
        + name
        + struct.pack(">H", len(NONCE))
        + NONCE
        + struct.pack(">QIIBQ", 7, 1, 2, 1, 3)
        + selection
        + struct.pack(">H", 32)
        + digest
    )
    signature = ak().sign(message, padding.PKCS1v15(), hashes.SHA256())
    return message, TpmQuote(signature=struct.pack(">HHH", 0x0014, 0x000B, len(signature)) + signature, pcrs=pcrs)


def test_tdx() -> None:
    claims = verify(td_evidence(secure_boot=False), anchors=(anchor(),), now=NOW, checks=Checklist())
    assert (claims.tee, claims.report_data, claims.simulated) == (TEE.AZURE_TDX, NONCE, True)
    assert claims.measurements == {"mrtd": "1d" * 48, "pcr4": "04" * 32, "pcr11": "0b" * 32}
    assert claims.tcb_status == "UpToDate"
    assert claims.flags["no_secure_boot"]
    assert claims.svns["reset_count"] == 1
    assert {place.of for name, place in claims.locations.items() if name == "mrtd"} <= {"azure.td_quote"}


def test_tdx_without_the_quote_of_the_trust_domain() -> None:
    evidence = td_evidence()
    error = refused(replaced(evidence, "azure", td_quote=None))
    assert (error.step, error.code) == ("endorsements", "endorsements.missing")


def test_tdx_with_the_quote_of_another_trust_domain() -> None:
    error = refused(td_evidence(report_data=bytes(64)))
    assert (error.step, error.code) == ("quote", "quote.runtime_data")


def test_a_simulated_platform_is_nothing_to_the_real_roots() -> None:
    with pytest.raises(AttestationError) as caught:
        verify(td_evidence(), anchors=AMD_ROOTS, now=NOW, checks=Checklist())
    assert caught.value.step == "endorsements"
