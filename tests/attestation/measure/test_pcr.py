"""PCR 4 and PCR 11 of unified kernel images, against values of systemd-measure and a second implementation."""

from __future__ import annotations

import hashlib

import pytest

from artefacts import KERNEL, UKI_SECTIONS, pe_image, uki
from blindai.attestation.measure.pcr import PHASES, enter, inner_kernel, pcr4, pcr11, stub_version, uki_sections
from blindai.attestation.measure.pe import PeImage
from blindai.errors import ConfigurationError

# systemd-measure 252 calculate --linux --osrel --cmdline --initrd --pcrpkey --bank=sha256, with the contents of
# artefacts.UKI_SECTIONS, for --phase=: and --phase=enter-initrd:leave-initrd:sysinit:ready.
SYSTEMD_MEASURE = "481fd9751caa82021515d71520f3675a63cde4bb260c40500108b0b252ca1d5f"
SYSTEMD_MEASURE_READY = "8958fa75e291d353256ae1bf29305dce1cbb1edf51691f090732ea25b5ce649a"


def parsed(**changes: bytes | None) -> PeImage:
    return PeImage.parse(uki(**changes))


def extended(*events: bytes) -> str:
    """A PCR after `events`, whose digests are extended."""
    value = b"\0" * 32
    for event in events:
        value = hashlib.sha256(value + hashlib.sha256(event).digest()).digest()
    return value.hex()


def test_pcr_11_is_that_of_systemd_measure() -> None:
    assert pcr11(parsed(), ()) == SYSTEMD_MEASURE
    assert pcr11(parsed(), PHASES) == pcr11(parsed()) == SYSTEMD_MEASURE_READY


def test_entering_phases_one_by_one() -> None:
    value = SYSTEMD_MEASURE
    for phase in PHASES:
        value = enter(value, [phase])
    assert value == SYSTEMD_MEASURE_READY


def test_sections_are_measured_in_the_order_of_the_stub() -> None:
    """Those that systemd-measure 252 does not know, too; the file's order does not matter."""
    contents = UKI_SECTIONS | {".uname": b"6.12", ".sbat": b"sbat,1", ".ucode": b"code", ".splash": b"BM", ".dtb": b"d"}
    order = (".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey")
    events = [part for name in order for part in (name.encode() + b"\0", contents[name])]
    for sections in (list(contents.items()), list(contents.items())[::-1]):
        assert pcr11(PeImage.parse(pe_image(sections)), ()) == extended(*events)


@pytest.mark.parametrize("name", ["linux", "osrel", "cmdline", "initrd", "pcrpkey"])
def test_each_section_counts(name: str) -> None:
    assert pcr11(parsed(**{name: UKI_SECTIONS[f".{name}"] + b"!"})) != SYSTEMD_MEASURE_READY


def test_signatures_over_the_result_are_left_out() -> None:
    assert pcr11(parsed(pcrsig=b"other")) == SYSTEMD_MEASURE_READY


def test_pcr_4_extends_the_boot_and_each_image() -> None:
    """By hand: TCG PC Client Platform Firmware Profile, 3.3.4.5; with digests that osslsigncode confirms."""
    value = bytes.fromhex(extended(b"Calling EFI Application from Boot Option", b"\0\0\0\0"))
    for image in (uki(), KERNEL):
        value = hashlib.sha256(value + PeImage.parse(image).authenticode).digest()
    assert pcr4([parsed(), inner_kernel(parsed())]) == value.hex()
    assert pcr4([parsed()]) != value.hex()


def test_the_inner_kernel_is_the_section() -> None:
    assert inner_kernel(parsed()).data == KERNEL


@pytest.mark.parametrize(
    ("magic", "version"),
    [
        (b"#### LoaderInfo: systemd-stub 257.13-1 ####\0", 257),
        (b"#### LoaderInfo: systemd-stub 262 ####\0", 262),
        (b"#### LoaderInfo: other 9 ####\0", None),
        (None, None),
    ],
)
def test_the_version_of_the_stub(magic: bytes | None, version: int | None) -> None:
    assert stub_version(parsed(sdmagic=magic)) == version


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (uki(linux=None), "no section .linux"),
        (uki(profile=b"ID=a"), "section .profile depends"),
        (uki(hwids=b"x"), "section .hwids depends"),
        (uki(dtbauto=b"x"), "section .dtbauto depends"),
        (uki(efifw=b"x"), "section .efifw depends"),
        (pe_image([(".linux", KERNEL), (".initrd", b"a"), (".initrd", b"b")]), "two sections .initrd"),
        (pe_image([(".linux", KERNEL), (".initrd", b"a")], memory={".initrd": 1 << 31}), "not all in the file"),
    ],
)
def test_what_cannot_be_predicted_is_refused(image: bytes, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as refused:
        uki_sections(PeImage.parse(image))
    assert refused.value.code == "measure.uki"


def test_a_kernel_that_is_no_image() -> None:
    with pytest.raises(ConfigurationError) as refused:
        inner_kernel(parsed(linux=b"ELF"))
    assert refused.value.code == "measure.pe"


@pytest.mark.parametrize("phases", [("",), ("Ready",), ("a b",), ("x" * 65,), ("ready",) * 17])
def test_impossible_phases(phases: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        pcr11(parsed(), phases)
    assert refused.value.code == "measure.option"
