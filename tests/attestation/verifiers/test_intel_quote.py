from __future__ import annotations

import struct

import dcap_qvl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attestation.simulation import KINDS, REPORT_DATA, good, platform

from blindai.attestation.evidence import TEE
from blindai.attestation.simulated import quote as layout
from blindai.attestation.simulated.intel import Faults
from blindai.attestation.verifiers.intel_quote import (
    MAX_QUOTE_BYTES,
    UnverifiedQuote,
    parse,
    require_no_trailing_data,
    require_strict_attributes,
)
from blindai.errors import AttestationError

END_OF_BODY = {"sgx-v3": 432, "tdx-v4": 632, "tdx-v5": 702}


def refused(quote: bytes) -> tuple[str, str]:
    with pytest.raises(AttestationError) as caught:
        parse(quote)
    return caught.value.step, caught.value.code


def patched(kind: str, offset: int, value: bytes) -> bytes:
    quote = good(kind).quote
    return quote[:offset] + value + quote[offset + len(value) :]


@pytest.mark.parametrize("kind", KINDS)
def test_every_register_stands_where_the_library_reads_it(kind: str) -> None:
    """Registers with values of their own, so that two swapped offsets show."""
    names = (
        ("mrenclave", "mrsigner")
        if kind == "sgx-v3"
        else tuple(name for name in parse(good(kind).quote).measurements if name.startswith(("mr", "rtmr")))
    )
    size = 32 if kind == "sgx-v3" else 48
    registers = {name: f"{index:02x}" * size for index, name in enumerate(names, 1)}
    quote = platform(kind, measurements=registers).quote(REPORT_DATA)
    parsed = parse(quote)
    assert registers.items() <= parsed.measurements.items()
    report = dcap_qvl.parse_quote(quote).report
    theirs = {
        "mrenclave": "mr_enclave",
        "mrsigner": "mr_signer",
        "mrtd": "mr_td",
        "mrseam": "mr_seam",
        "mrsignerseam": "mr_signer_seam",
        "mrconfigid": "mr_config_id",
        "mrowner": "mr_owner",
        "mrownerconfig": "mr_owner_config",
        "mrservicetd": "mr_service_td",
        "rtmr0": "rt_mr0",
        "rtmr1": "rt_mr1",
        "rtmr2": "rt_mr2",
        "rtmr3": "rt_mr3",
    }
    for name in names:
        assert getattr(report, theirs[name]).hex() == parsed.measurements[name]
    assert report.report_data == parsed.report_data == REPORT_DATA


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_a_quote_make_the_whole(kind: str) -> None:
    quote = good(kind).quote
    parsed = parse(quote)
    assert (parsed.tee, parsed.version) == KINDS[kind]
    size = struct.pack("<I", len(parsed.signature) + len(parsed.authentication))
    assert parsed.signed + size + parsed.signature + parsed.authentication == quote
    assert parsed.authentication.startswith(parsed.attestation_key)
    assert parsed.pck_chain.startswith(b"-----BEGIN CERTIFICATE-----")
    assert parsed.pck_chain.endswith(b"-----END CERTIFICATE-----\n")
    assert len(parsed.identity) == len(parsed.signed) - 64
    assert REPORT_DATA not in parsed.identity
    assert parsed.trailing == b""


def test_a_version_5_quote_may_carry_a_td_report_1_0() -> None:
    quote = good("tdx-v5").quote
    body = struct.pack("<HI", 2, 584) + quote[54 : 54 + 584]
    parsed = parse(quote[:48] + body + quote[54 + 648 :])
    assert parsed.report_data == REPORT_DATA
    assert "mrservicetd" not in parsed.measurements
    assert parsed.identity + REPORT_DATA == parsed.signed


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_quote_is_refused_at_every_length(kind: str) -> None:
    quote = good(kind).quote
    for length in range(len(quote)):
        assert refused(quote[:length])[1] in {"evidence.malformed", "evidence.unsupported"}


def test_a_quote_beyond_any_genuine_size_is_refused_unread() -> None:
    assert refused(bytes(MAX_QUOTE_BYTES + 1)) == ("evidence", "evidence.too_large")


@pytest.mark.parametrize(
    ("kind", "offset", "value"),
    [
        ("tdx-v4", 0, b"\x06\x00"),
        ("tdx-v4", 0, b"\x03\x00"),
        ("sgx-v3", 0, b"\x04\x00"),
        ("sgx-v3", 4, b"\x81"),
        ("tdx-v4", 2, b"\x03\x00"),
        ("tdx-v4", 4, b"\x82"),
        ("tdx-v4", 12, bytes(16)),
        ("tdx-v5", 48, b"\x01\x00"),
        ("tdx-v5", 48, b"\x04\x00"),
        ("tdx-v4", END_OF_BODY["tdx-v4"] + 4 + 128, b"\x05\x00"),
        ("sgx-v3", END_OF_BODY["sgx-v3"] + 4 + 128 + 384 + 64 + 2 + 32, b"\x03\x00"),
    ],
    ids=[
        "version 6",
        "TDX version 3",
        "SGX version 4",
        "version 3 of TDX",
        "P-384 key",
        "TEE type",
        "vendor",
        "SGX body",
        "1.5ex body",
        "outer certification type",
        "inner certification type",
    ],
)
def test_a_kind_of_quote_that_is_not_known_is_refused(kind: str, offset: int, value: bytes) -> None:
    assert refused(patched(kind, offset, value)) == ("evidence", "evidence.unsupported")


@pytest.mark.parametrize(
    ("kind", "offset", "value"),
    [
        ("tdx-v5", 50, struct.pack("<I", 647)),
        ("tdx-v4", END_OF_BODY["tdx-v4"], b"\xff\xff\xff\xff"),
        ("tdx-v4", END_OF_BODY["tdx-v4"], bytes(4)),
        ("tdx-v4", END_OF_BODY["tdx-v4"] + 4 + 130, bytes(4)),
        ("tdx-v4", END_OF_BODY["tdx-v4"] + 4 + 134 + 448, b"\x10\x00"),
        ("sgx-v3", END_OF_BODY["sgx-v3"] + 4 + 128 + 484, bytes(4)),
    ],
    ids=["body size", "huge authentication", "no authentication", "no certification", "QE data", "no chain"],
)
def test_a_length_that_does_not_fit_is_refused(kind: str, offset: int, value: bytes) -> None:
    assert refused(patched(kind, offset, value)) == ("evidence", "evidence.malformed")


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_hidden_inside_the_authentication_data_are_refused(kind: str) -> None:
    quote, at = good(kind).quote, END_OF_BODY[kind]
    (size,) = struct.unpack_from("<I", quote, at)
    assert refused(quote[:at] + struct.pack("<I", size + 3) + quote[at + 4 :] + b"\0\0\0")[1] == "evidence.malformed"


def test_zero_padding_after_a_quote_is_allowed_and_data_is_not() -> None:
    quote = good().quote
    require_no_trailing_data(parse(quote + bytes(1000)))
    with pytest.raises(AttestationError) as caught:
        require_no_trailing_data(parse(quote + bytes(10) + b"\x01"))
    assert (caught.value.step, caught.value.code) == ("evidence", "evidence.trailing_data")


@pytest.mark.parametrize("kind", KINDS)
def test_usual_attributes_are_strict_enough(kind: str) -> None:
    require_strict_attributes(parse(good(kind).quote))


def test_debug_is_named_before_anything_else() -> None:
    quote = platform(faults=Faults(attributes=frozenset({"debug", "sept_ve_disable", "tpa"}))).quote(REPORT_DATA)
    parsed = parse(quote)
    assert parsed.debug
    with pytest.raises(AttestationError) as caught:
        require_strict_attributes(parsed)
    assert caught.value.code == "platform.debug"


def test_several_unsafe_attributes_are_all_named() -> None:
    quote = parse(platform(faults=Faults(attributes=frozenset({"migratable", "tpa"}))).quote(REPORT_DATA))
    with pytest.raises(AttestationError) as caught:
        require_strict_attributes(quote)
    assert caught.value.got == "migratable, tpa"


def _parse(data: bytes) -> UnverifiedQuote | None:
    try:
        return parse(data)
    except AttestationError as error:
        refusal = error
    assert refusal.step == "evidence"
    assert refusal.code.startswith("evidence.")
    return None


@given(st.binary(max_size=1500))
def test_arbitrary_bytes_are_parsed_or_refused(data: bytes) -> None:
    assert _parse(data) is None


@settings(max_examples=200)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_a_mangled_quote_is_parsed_or_refused(kind: str, data: st.DataObject) -> None:
    quote = bytearray(good(kind).quote)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(quote)))
        quote[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    parsed = _parse(bytes(quote))
    if parsed is not None:
        assert parsed.tee in TEE
        assert len(parsed.report_data) == 64


def test_the_layout_that_the_parser_reads_is_the_layout_that_intel_documents() -> None:
    """The encoder was written on its own: header 48 bytes, SGX report 384, TD report 584."""
    assert len(layout.header(4, layout.TDX, platform=bytes(16))) == 48
    assert [len(parse(good(kind).quote).signed) for kind in KINDS] == [48 + 384, 48 + 584, 48 + 6 + 648]
