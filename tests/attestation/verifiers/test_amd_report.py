from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.attestation import snp
from tests.attestation.snp import REPORT_DATA, good, resigned, step_and_code, with_report

from blindai.attestation.verifiers.amd_report import PLACES, REPORT_BYTES, parse
from blindai.errors import AttestationError

MALFORMED = ("evidence", "evidence.malformed")
UNSUPPORTED = ("evidence", "evidence.unsupported")


def le(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


@pytest.mark.parametrize("kind", snp.KINDS, ids=str)
def test_every_kind_of_report_parses_to_what_was_laid_out(kind: tuple[Any, ...]) -> None:
    product, version, key = kind
    registers = {"launch_digest": "1a" * 48, "host_data": "2b" * 32, "id_key_digest": "3c" * 48}
    registers |= {"author_key_digest": "4d" * 48, "family_id": "5e" * 16, "image_id": "6f" * 16}
    source = snp.platform(
        product=product, report_version=version, signing_key=key, measurements=registers, guest_svn=7, vmpl=2
    )
    report = parse(source.attest(REPORT_DATA).quote)
    assert (report.version, report.signing_key, report.vmpl, report.guest_svn) == (version, key, 2, 7)
    assert report.field("report_data") == REPORT_DATA
    assert {name: report.field(name).hex() for name in registers} == registers
    assert report.policy == {"smt"}
    assert report.platform == {"smt", "ecc", "alias_check"}
    cpu = {"Milan": (0x19, 0x01), "Genoa": (0x19, 0x11), "Turin": (0x1A, 0x02)}[product]
    assert report.cpu == (None if version == 2 else cpu)
    assert any(report.chip_id[:8])
    assert any(report.chip_id[8:]) is (product != "Turin")
    assert len(report.signed) == 0x2A0


@pytest.mark.parametrize("size", [0, 1, 0x29F, 0x2A0, REPORT_BYTES - 1, REPORT_BYTES + 1, 4096, 1 << 20])
def test_a_report_of_another_length_is_refused(size: int) -> None:
    report = (good().quote * 1000)[:size]
    assert step_and_code(with_report(good(), report)) == MALFORMED


@pytest.mark.parametrize("version", [0, 1, 4, 6, 0x02000000])
def test_another_version_is_refused(version: int) -> None:
    assert step_and_code(resigned(snp.healthy(), {0: le(version, 4)})) == UNSUPPORTED


@pytest.mark.parametrize("algorithm", [0, 2, 0x101])
def test_another_signature_algorithm_is_refused(algorithm: int) -> None:
    assert step_and_code(resigned(snp.healthy(), {0x34: le(algorithm, 4)})) == UNSUPPORTED


@pytest.mark.parametrize(
    ("vmpl", "got"), [(4, "VMPL 4"), (0xFFFFFFFF, "a report that the host asked for"), (1 << 31, "VMPL 2147483648")]
)
def test_a_report_that_no_guest_asked_for_is_refused(vmpl: int, got: str) -> None:
    error = snp.refused(resigned(snp.healthy(), {0x30: le(vmpl, 4)}))
    assert ((error.step, error.code), error.got) == (UNSUPPORTED, got)


def test_a_guest_policy_without_the_bit_that_must_be_one_is_refused() -> None:
    assert step_and_code(resigned(snp.healthy(), {0x08: le(0x10137, 8)})) == MALFORMED


@pytest.mark.parametrize("bit", range(26, 64))
def test_unknown_bits_of_the_guest_policy_are_refused(bit: int) -> None:
    assert step_and_code(resigned(snp.healthy(), {0x08: le(0x30137 | 1 << bit, 8)})) == UNSUPPORTED


@pytest.mark.parametrize("bit", range(8, 64))
def test_unknown_bits_of_the_platform_are_refused(bit: int) -> None:
    assert step_and_code(resigned(snp.healthy(), {0x40: le(0x25 | 1 << bit, 8)})) == UNSUPPORTED


@pytest.mark.parametrize("bit", range(5, 32))
def test_reserved_bits_of_the_key_information_are_refused(bit: int) -> None:
    assert step_and_code(resigned(snp.healthy(), {0x48: le(1 << bit, 4)})) == MALFORMED


@pytest.mark.parametrize("number", range(2, 7))
def test_a_signing_key_that_does_not_exist_is_refused(number: int) -> None:
    assert step_and_code(resigned(snp.healthy(), {0x48: le(number << 2, 4)})) == UNSUPPORTED


@pytest.mark.parametrize("info", [7 << 2, 7 << 2 | 2, 0b10, 0b11], ids=["none", "none, masked", "masked", "author"])
def test_a_report_that_nothing_signed_is_refused(info: int) -> None:
    assert step_and_code(resigned(snp.healthy(), {0x48: le(info, 4)})) == ("evidence", "evidence.unsigned")


def test_a_platform_that_signs_nothing_is_refused() -> None:
    evidence = snp.platform(masked_key=True).attest(REPORT_DATA)
    assert not any(evidence.quote[0x2A0:])
    assert step_and_code(evidence) == ("evidence", "evidence.unsigned")


def test_a_cloud_may_sign_with_its_vlek_where_the_chips_key_is_masked() -> None:
    claims = snp.accepted(resigned(snp.healthy("Milan", 3, "vlek"), {0x48: le(1 << 2 | 0b10, 4)}))
    assert claims.signing_key == "vlek"


def test_the_author_key_bit_is_allowed() -> None:
    snp.accepted(resigned(snp.healthy(), {0x48: le(1, 4)}))


ALWAYS = [(0x04C, 0x050), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, 0x2A0)]


@pytest.mark.parametrize(
    ("version", "at"),
    [(version, at) for version in (2, 3, 5) for start, end in ALWAYS for at in range(start, end)]
    + [(2, at) for at in range(0x188, 0x18B)]
    + [(version, at) for version in (2, 3) for at in range(0x1F8, 0x208)],
)
def test_a_reserved_byte_that_is_set_is_refused_although_it_is_signed(version: int, at: int) -> None:
    assert step_and_code(resigned(snp.healthy("Milan", version), {at: b"\x01"})) == MALFORMED


def test_version_5_says_which_weaknesses_are_mitigated() -> None:
    snp.accepted(resigned(snp.healthy("Milan", 5), {0x1F8: bytes(range(16))}))


@pytest.mark.parametrize("at", [*range(0x2A0 + 48, 0x2A0 + 72), *range(0x2E8 + 48, 0x2E8 + 72), 0x330, 0x400, 0x49F])
def test_bytes_around_the_signature_that_nothing_covers_are_refused(at: int) -> None:
    report = bytearray(good().quote)
    report[at] = 1
    assert step_and_code(with_report(good(), bytes(report))) == MALFORMED


def test_the_places_follow_each_other_and_fill_what_is_signed_and_the_signature() -> None:
    ends = sorted(PLACES.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(ends))
    assert ends[-1][1] == 0x330


@given(st.binary(max_size=2 * REPORT_BYTES))
def test_no_input_makes_the_parser_fail_in_another_way(data: bytes) -> None:
    with pytest.raises(AttestationError) as caught:
        parse(data)
    assert caught.value.step == "evidence"


@given(st.binary(min_size=REPORT_BYTES - 4, max_size=REPORT_BYTES - 4))
def test_no_report_makes_the_parser_fail_in_another_way(data: bytes) -> None:
    with pytest.raises(AttestationError) as caught:
        parse(b"\x03\0\0\0" + data)
    assert caught.value.step == "evidence"
