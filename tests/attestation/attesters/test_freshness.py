from __future__ import annotations

import pytest
from tests.attestation.simulation import REPORT_DATA

from blindai.attestation.attesters.freshness import intel_quote_over, snp_report_over
from blindai.attestation.evidence import TEE, require_report_data
from blindai.attestation.simulated.amd import SimulatedAmd
from blindai.attestation.simulated.intel import SimulatedIntel
from blindai.errors import Unavailable

OTHER = bytes(64)


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_of_another_size_is_a_mistake_of_the_caller(size: int) -> None:
    with pytest.raises(ValueError, match="report_data is 64 bytes"):
        require_report_data(bytes(size))


@pytest.mark.parametrize("padding", [0, 1, 3000])
def test_zeros_that_fill_up_the_buffer_are_cut_off(tdx: SimulatedIntel, padding: int) -> None:
    quote = tdx.quote(REPORT_DATA)
    assert intel_quote_over(REPORT_DATA, quote + bytes(padding), tee=TEE.INTEL_TDX) == quote


def test_other_bytes_after_the_quote(tdx: SimulatedIntel) -> None:
    with pytest.raises(Unavailable, match="nothing vouches for") as caught:
        intel_quote_over(REPORT_DATA, tdx.quote(REPORT_DATA) + b"\0x", tee=TEE.INTEL_TDX)
    assert caught.value.code == "attester.quote"


def test_a_quote_of_another_tee(tdx: SimulatedIntel, sgx: SimulatedIntel) -> None:
    for platform, tee in ((tdx, TEE.INTEL_SGX), (sgx, TEE.INTEL_TDX)):
        with pytest.raises(Unavailable, match=f"not of {tee}") as caught:
            intel_quote_over(REPORT_DATA, platform.quote(REPORT_DATA), tee=tee)
        assert caught.value.code == "attester.quote"


@pytest.mark.parametrize("end", [0, 1, 500, 1000, -1])
def test_no_quote(tdx: SimulatedIntel, end: int) -> None:
    with pytest.raises(Unavailable) as caught:
        intel_quote_over(REPORT_DATA, tdx.quote(REPORT_DATA)[:end], tee=TEE.INTEL_TDX)
    assert caught.value.code == "attester.quote"


def test_a_quote_of_another_request(tdx: SimulatedIntel, milan: SimulatedAmd) -> None:
    with pytest.raises(Unavailable, match="another request") as caught:
        intel_quote_over(REPORT_DATA, tdx.quote(OTHER), tee=TEE.INTEL_TDX)
    assert caught.value.code == "attester.stale"
    with pytest.raises(Unavailable, match="another request") as caught:
        snp_report_over(REPORT_DATA, milan.report(OTHER))
    assert caught.value.code == "attester.stale"


@pytest.mark.parametrize("size", [0, 1183, 1185])
def test_no_report(milan: SimulatedAmd, size: int) -> None:
    with pytest.raises(Unavailable, match="got") as caught:
        snp_report_over(REPORT_DATA, milan.report(REPORT_DATA).ljust(size, b"\0")[:size])
    assert caught.value.code == "attester.quote"


def test_the_report_is_taken_apart(milan: SimulatedAmd, with_vlek: SimulatedAmd) -> None:
    for platform, key in ((milan, "vcek"), (with_vlek, "vlek")):
        raw = platform.report(REPORT_DATA)
        report = snp_report_over(REPORT_DATA, raw)
        assert (report.raw, report.signing_key) == (raw, key)
