from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from blindai.attestation.verifiers import azure_report
from blindai.errors import AttestationError

AK_NUMBERS = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
HEADER = 32
REQUEST = HEADER + 1184


def base64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8)).rstrip(b"=").decode()


def ak(**changes: object) -> dict[str, object]:
    key = {"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": "AQAB", "n": base64url(AK_NUMBERS.n)}
    return key | changes


def runtime(**changes: object) -> dict[str, Any]:
    configuration = {"console-enabled": False, "secure-boot": True, "tpm-enabled": True, "vmUniqueId": "x"}
    return {"keys": [ak()], "vm-configuration": configuration, "user-data": "00"} | changes


def report(data: object = None, *, kind: int = 2, hardware: bytes = b"\x5a" * 1184, padding: int = 16) -> bytearray:
    variable = json.dumps(runtime() if data is None else data).encode()
    size = 20 + len(variable)
    head = struct.pack("<4sIIII12x", b"HCLA", 1, REQUEST + size, 2, 0)
    request = struct.pack("<IIIII", size, 1, kind, 1, len(variable))
    return bytearray(head + hardware + request + variable + bytes(padding))


def refused(data: bytes, words: str) -> None:
    with pytest.raises(AttestationError) as caught:
        azure_report.parse(data)
    assert (caught.value.code, caught.value.step) == ("evidence.hcl", "evidence")
    assert words in caught.value.got


def test_a_report_of_sev_snp() -> None:
    parsed = azure_report.parse(bytes(report()))
    assert parsed.kind == azure_report.SNP_REPORT
    assert parsed.hardware_report == b"\x5a" * 1184
    assert json.loads(parsed.runtime_data) == runtime()
    assert parsed.ak.public_numbers() == AK_NUMBERS
    assert (parsed.configuration.secure_boot, parsed.configuration.console_enabled) == (True, False)


def test_a_report_of_tdx_holds_a_shorter_hardware_report() -> None:
    parsed = azure_report.parse(bytes(report(kind=4, hardware=b"\x5a" * 1024 + bytes(160))))
    assert parsed.kind == azure_report.TD_REPORT
    assert parsed.hardware_report == b"\x5a" * 1024


def test_the_real_report(vectors: Path) -> None:
    parsed = azure_report.parse((vectors / "azure" / "snp_hcl_report.bin").read_bytes())
    parsed.require_vouched(parsed.hardware_report[0x50:0x90])
    assert parsed.ak.key_size == 2048


def test_runtime_data_that_the_processor_does_not_vouch_for() -> None:
    parsed = azure_report.parse(bytes(report()))
    parsed.require_vouched(parsed.report_data)
    for position in (0, 31, 32, 63):
        other = bytearray(parsed.report_data)
        other[position] ^= 1
        with pytest.raises(AttestationError) as caught:
            parsed.require_vouched(bytes(other))
        assert (caught.value.code, caught.value.step) == ("quote.runtime_data", "quote")


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (0, b"HCLB", "does not begin"),
        (4, b"\x03", "does not begin"),
        (8, b"\0", "lengths"),
        (12, b"\x01", "request type 1"),
        (16, b"\x01", "status 0x1"),
        (31, b"\x01", "reserved"),
        (REQUEST, b"\0", "lengths"),
        (REQUEST + 4, b"\x02", "report of type 2"),
        (REQUEST + 8, b"\x03", "report of type 3"),
        (REQUEST + 12, b"\x02", "hash 2"),
        (REQUEST + 16, b"\xff\xff\xff\x7f", "lengths"),
        (-1, b"\x01", "something follows it"),
    ],
)
def test_a_wrong_field(offset: int, value: bytes, words: str) -> None:
    data = report()
    end = offset + len(value)
    data[offset : end or None] = value
    refused(bytes(data), words)


def test_something_behind_a_td_report() -> None:
    refused(bytes(report(kind=4)), "something follows its TD report")


def test_too_large() -> None:
    refused(bytes(report(padding=azure_report.MAX_REPORT_BYTES)), "bytes")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "runtime data"),
        ([], "runtime data"),
        (runtime(keys=[]), "one RSA key"),
        (runtime(keys=[ak(), ak()]), "one RSA key"),
        (runtime(keys=[ak(kid="HCLEkPub")]), "one RSA key"),
        (runtime(keys=[ak(kty="EC")]), "one RSA key"),
        (runtime(keys=[ak(n=base64url(AK_NUMBERS.n >> 1024))]), "has 1024 bits"),
        (runtime(keys=[ak(n=base64url(1 << 5000))]), "has 5001 bits"),
        (runtime(keys=[ak(n="*")]), "not base64url"),
        (runtime(keys=[ak(e="AQ")]), "is no key"),
        (runtime(keys=[ak(n="A" * 1025)]), "runtime data"),
        (runtime(**{"vm-configuration": {}}), "runtime data"),
    ],
)
def test_wrong_runtime_data(data: object, words: str) -> None:
    refused(bytes(report(data)), words)


def test_every_truncation() -> None:
    whole = bytes(report(padding=0))
    for length in range(len(whole)):
        with pytest.raises(AttestationError) as caught:
            azure_report.parse(whole[:length])
        assert caught.value.code == "evidence.hcl"


@given(st.binary(max_size=3000))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(AttestationError):
        azure_report.parse(data)
