"""Evidence of real hardware: every row of the folder's README, through the entry point that other suites use.

One test for each row, by the row's first cell; a row that is new, gone or says something else fails the run.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509

from blindai.attestation import eventlog
from blindai.attestation.anchors import AMD_ROOTS
from blindai.attestation.verifiers.certificates import spki_sha256
from blindai.attestation.verifiers.intel_quote import parse, require_strict_attributes
from blindai.conformance.judgement import Exit, answer
from blindai.errors import AttestationError

ROWS = 13


class Judged(NamedTuple):
    """An answer of the entry point."""

    exit: Exit
    said: dict[str, Any]

    @property
    def refusal(self) -> tuple[str, str]:
        assert self.exit is Exit.REJECT
        return self.said["step"], self.said["code"]

    @property
    def claims(self) -> dict[str, Any]:
        assert self.exit is Exit.ACCEPT, self.said
        claims: dict[str, Any] = self.said["claims"]
        return claims


def judged(**request: Any) -> Judged:
    return Judged(*answer(json.dumps(request).encode()))


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def sgx(folder: Path) -> None:
    request = {
        "tee": "intel-sgx",
        "evidence": encoded(folder / "intel/sgx_v3_quote.bin"),
        "collateral": json.loads((folder / "intel/sgx_v3_collateral.json").read_text()),
    }
    for now in ("2025-06-19T10:56:11Z", "2025-07-19T10:01:18Z"):
        claims = judged(**request, now=now).claims
        assert claims["tcb_status"] == "ConfigurationAndSWHardeningNeeded"
        assert (claims["anchor"], claims["simulated"]) == ("Intel SGX Root CA", False)
    assert judged(**request, now="2025-06-19T10:56:10Z").refusal == (
        "endorsements",
        "endorsements.tcb_info.not_yet_valid",
    )
    assert judged(**request, now="2025-07-19T10:01:19Z").refusal == ("endorsements", "endorsements.qe_identity.expired")


def tdx(folder: Path) -> None:
    request = {
        "tee": "intel-tdx",
        "evidence": encoded(folder / "intel/tdx_v4_quote.bin"),
        "collateral": json.loads((folder / "intel/tdx_v4_collateral.json").read_text()),
    }
    for now in ("2025-06-19T10:32:27Z", "2025-07-19T10:00:34Z"):
        claims = judged(**request, now=now).claims
        assert claims["tcb_status"] == "UpToDate"
        assert all(claims["flags"][name] for name in ("smt", "dynamic_platform", "cached_keys"))
    assert judged(**request, now="2025-06-19T10:32:26Z").refusal == (
        "endorsements",
        "endorsements.qe_identity.not_yet_valid",
    )
    assert judged(**request, now="2025-07-19T10:00:35Z").refusal == ("endorsements", "endorsements.crl.expired")


def without_sept_ve_disable(folder: Path) -> None:
    path = folder / "intel/tdx_v4_spr_e4_quote.bin"
    quote = parse(path.read_bytes())
    with pytest.raises(AttestationError) as caught:
        require_strict_attributes(quote)
    assert (caught.value.step, caught.value.code) == ("debug", "platform.sept_ve_disable")
    # The file is refused before that is looked at: there is text behind the quote, and no collateral.
    trailing = judged(tee="intel-tdx", evidence=encoded(path), now="2025-07-01T00:00:00Z")
    assert trailing.refusal == ("evidence", "evidence.trailing_data")
    whole = path.read_bytes().removesuffix(quote.trailing)
    alone = judged(tee="intel-tdx", evidence=whole.hex(), now="2025-07-01T00:00:00Z")
    assert alone.refusal == ("endorsements", "endorsements.missing")


def without_collateral(folder: Path) -> None:
    path = folder / "intel/tdx_v4_other_quote.bin"
    require_strict_attributes(parse(path.read_bytes()))
    refused = judged(tee="intel-tdx", evidence=encoded(path), now="2025-07-01T00:00:00Z")
    assert refused.refusal == ("endorsements", "endorsements.missing")


def event_log(folder: Path) -> None:
    quote = parse((folder / "intel/ccel_tdx_v4_quote.bin").read_bytes())
    events = eventlog.parse((folder / "intel/ccel_data.bin").read_bytes())
    assert len(events) == 43
    registers = eventlog.replay(events)
    assert registers == {name: quote.measurements[name] for name in ("rtmr0", "rtmr1", "rtmr2", "rtmr3")}
    assert quote.report_data == (folder / "intel/ccel_nonce.bin").read_bytes()
    assert (folder / "intel/ccel_table.bin").read_bytes().startswith(b"CCEL")
    path = folder / "intel/ccel_tdx_v4_quote.bin"
    refused = judged(tee="intel-tdx", evidence=encoded(path), now="2025-07-01T00:00:00Z")
    assert refused.refusal == ("endorsements", "endorsements.missing")


def snp(folder: Path, report: str, vcek: str, now: str = "2025-07-01T00:00:00Z") -> Judged:
    chain = (folder / "amd/ask_ark_milan.pem").read_text()
    return judged(
        tee="amd-sev-snp",
        evidence=encoded(folder / "amd" / report),
        endorsements=[encoded(folder / "amd" / vcek), chain],
        now=now,
    )


def milan(folder: Path) -> None:
    for now in ("2025-07-01T00:00:00Z", "2029-12-31T00:00:00Z"):
        claims = snp(folder, "milan_v2_report.bin", "milan_v2_vcek.der", now).claims
        assert (claims["product"], claims["signing_key"], claims["anchor"]) == ("Milan", "vcek", "ARK-Milan")
        assert (claims["debug"], claims["simulated"], claims["crl_checked"]) == (False, False, False)
    late = snp(folder, "milan_v2_report.bin", "milan_v2_vcek.der", "2030-02-01T00:00:00Z")
    assert late.refusal == ("endorsements", "endorsements.certificate.expired")


def milan_under_others(folder: Path) -> None:
    for vcek in ("milan_v2_vcek_bad_legacy.der", "milan_v2_vcek_bad_new.der"):
        refused = snp(folder, "milan_v2_report.bin", vcek)
        assert refused.refusal == ("endorsements", "endorsements.chain"), vcek


def milan_debug(folder: Path) -> None:
    for now in ("2022-09-25T00:00:00Z", "2029-08-31T00:00:00Z"):
        refused = snp(folder, "milan_v2_debug_report.bin", "milan_v2_debug_vcek.der", now)
        assert refused.refusal == ("debug", "platform.debug")
        outcomes = {check["step"]: check["outcome"] for check in refused.said["checks"]}
        assert outcomes["quote"] == "PASS"
        assert refused.said["claims"]["debug"]


def published_chains(folder: Path) -> None:
    roots = {anchor.name: anchor.spki_sha256 for anchor in AMD_ROOTS}
    files = sorted((folder / "amd").glob("*_ark_*.pem"))
    assert len(files) == 6
    for path in files:
        authority, root = x509.load_pem_x509_certificates(path.read_bytes())
        product = re.sub(r"as.*_ark_([a-z]+).*", r"\1", path.stem).title()
        assert spki_sha256(root) == roots[f"ARK-{product}"], path
        authority.verify_directly_issued_by(root)
        root.verify_directly_issued_by(root)


def azure_snp(folder: Path) -> None:
    evidence = json.loads((folder / "azure/snp_vtpm_evidence.json").read_text())
    chain = (folder / "amd/ask_ark_milan.pem").read_text()
    request = {"tee": "azure-sev-snp", "evidence": evidence, "endorsements": chain}
    nonce = b"challenge"
    for now in ("2025-01-28T16:26:55Z", "2030-05-31T00:00:00Z"):
        found = judged(**request, now=now, expected_report_data=nonce.hex())
        assert found.claims["report_data"] == nonce.hex()
        assert found.claims["measurements"]["pcr0"] == bytes(evidence["quote"]["pcrs"][0]).hex()
    # The row says 2023-05; that is when the certificate of the next row begins. This one begins later.
    early = judged(**request, now="2025-01-28T16:26:54Z")
    assert early.refusal == ("endorsements", "endorsements.certificate.not_yet_valid")
    replayed = judged(**request, now="2025-07-01T00:00:00Z", expected_report_data=bytes(32).hex())
    assert replayed.refusal == ("binding", "binding.report_data")


def azure_report(folder: Path) -> None:
    request = {
        "tee": "azure-sev-snp",
        "evidence": encoded(folder / "azure/snp_hcl_report.bin"),
        "endorsements": (folder / "azure/snp_hcl_vcek.pem").read_text(),
        "now": "2025-07-01T00:00:00Z",
    }
    for now in ("2023-05-03T00:00:00Z", "2030-05-02T00:00:00Z"):
        assert judged(**request | {"now": now}).claims["report_data"].endswith("00" * 32)
    changed = bytearray((folder / "azure/snp_hcl_report.bin").read_bytes())
    at = changed.index(b'"kid":"HCLEkPub"')
    changed[at + 9] ^= 1  # a letter of the runtime data
    refused = judged(**request | {"evidence": changed.hex()})
    assert refused.refusal == ("quote", "quote.runtime_data")


def gpu(folder: Path, report: str, chain: str) -> Judged:
    text = (folder / "nvidia" / report).read_text().strip()
    evidence = {"report": text, "certificates": (folder / "nvidia" / chain).read_text()}
    nonce = bytes.fromhex(text)[4:36].hex()
    return judged(tee="nvidia-gpu", evidence=evidence, now="2025-07-01T00:00:00Z", expected_report_data=nonce)


def hopper(folder: Path) -> None:
    claims = gpu(folder, "hopper_report.hex", "hopper_chain.b64").claims
    assert (claims["architecture"], claims["simulated"]) == ("hopper", False)


def hopper2(folder: Path) -> None:
    genuine = gpu(folder, "hopper2_report.hex", "hopper2_chain_case1.b64").claims
    assert (genuine["architecture"], genuine["simulated"]) == ("hopper", False)
    for case, refusal in HOPPER2_REFUSALS.items():
        refused = gpu(folder, "hopper2_report.hex", f"hopper2_chain_case{case}.b64")
        assert refused.refusal == refusal, case


# 2 and 4: no FWID; 3: issuer mismatch.
HOPPER2_REFUSALS = {
    2: ("devices", "devices.fwid_missing"),
    3: ("devices", "devices.chain"),
    4: ("devices", "devices.fwid_missing"),
}

# First cell of a row, and what it expects, in the README's words.
CHECKS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "intel/sgx_v3_quote.bin + sgx_v3_collateral.json": (
        "genuine; TCB ConfigurationAndSWHardeningNeeded",
        sgx,
    ),
    "intel/tdx_v4_quote.bin + tdx_v4_collateral.json": (
        "genuine; UpToDate; SMT, dynamic platform and cached keys all true",
        tdx,
    ),
    "intel/tdx_v4_spr_e4_quote.bin": ("parses; SEPT_VE_DISABLE missing: policy refusal", without_sept_ve_disable),
    "intel/tdx_v4_other_quote.bin": ("parses; no collateral here: `collateral missing`", without_collateral),
    "intel/ccel_data.bin, ccel_table.bin, ccel_tdx_v4_quote.bin, ccel_nonce.bin": (
        "replay equals the RTMRs in the quote",
        event_log,
    ),
    "amd/milan_v2_report.bin + milan_v2_vcek.der + ask_ark_milan.pem": ("genuine", milan),
    "amd/milan_v2_vcek_bad_legacy.der, milan_v2_vcek_bad_new.der": ("refused: chain signature", milan_under_others),
    "amd/milan_v2_debug_report.bin + milan_v2_debug_vcek.der": (
        "signature good, debug bit set: policy refusal",
        milan_debug,
    ),
    "amd/ask_ark_*.pem, asvk_ark_*_vlek.pem": ("ARK fingerprints as in verification.md", published_chains),
    "azure/snp_vtpm_evidence.json": ("genuine; nonce is the quote's extraData", azure_snp),
    "azure/snp_hcl_report.bin + snp_hcl_vcek.pem": (
        "genuine; report_data[:32] = SHA-256(runtime data)",
        azure_report,
    ),
    "nvidia/hopper_report.hex + hopper_chain.b64": ("genuine", hopper),
    "nvidia/hopper2_report.hex + hopper2_chain_case{1,2,3,4}.b64": (
        "1 genuine; 2 and 4: no FWID; 3: issuer mismatch",
        hopper2,
    ),
}


def rows(folder: Path) -> dict[str, str]:
    """First cell to the cell of what is expected, of every row of the README's table."""
    lines = [line for line in (folder / "README.md").read_text("utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {row[0]: row[3] for row in cells}


@pytest.mark.parametrize("row", CHECKS)
def test_a_row_of_the_readme(vectors: Path, row: str) -> None:
    expected, check = CHECKS[row]
    assert rows(vectors)[row] == expected
    check(vectors)


def test_every_row_has_its_test(vectors: Path) -> None:
    assert set(rows(vectors)) == set(CHECKS)
    assert len(CHECKS) == ROWS


def test_every_file_is_in_a_row(vectors: Path) -> None:
    """By its stem: cells abbreviate with asterisks and braces."""
    cells = " ".join(rows(vectors))
    named = cells + " hopper2_chain_case1 hopper2_chain_case2 hopper2_chain_case3 hopper2_chain_case4"
    files = [path for path in vectors.rglob("*") if path.is_file() and path.name != "README.md"]
    left = [path.name for path in files if path.stem not in named and "_ark_" not in path.stem]
    assert left == ["device_identity_root.pem"]  # NVIDIA's root, which is known by its key
