from __future__ import annotations

from pathlib import Path

from cryptography import x509

from blindai.attestation.anchors import INTEL_SGX_ROOT
from blindai.attestation.verifiers.certificates import common_name, spki_sha256
from blindai.attestation.verifiers.intel_quote import parse


def test_intels_root_is_the_one_at_the_end_of_genuine_chains(vectors: Path) -> None:
    for name in ("sgx_v3_quote.bin", "tdx_v4_quote.bin", "tdx_v4_other_quote.bin", "tdx_v4_spr_e4_quote.bin"):
        chain = parse((vectors / "intel" / name).read_bytes()).pck_chain
        root = x509.load_pem_x509_certificates(chain)[-1]
        assert common_name(root) == INTEL_SGX_ROOT.name
        assert spki_sha256(root) == INTEL_SGX_ROOT.spki_sha256
    assert not INTEL_SGX_ROOT.simulated
