"""Predictions of a boot against its log, and logs of real machines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from artefacts import UKI_SECTIONS, boot_log, uki
from blindai.attestation.measure.boot import InnerKernel, confirmed, predict, replayed_pcrs, replayed_rtmrs
from blindai.attestation.measure.pcr import enter, inner_kernel
from blindai.attestation.measure.pe import PeImage
from blindai.attestation.verifiers.intel_quote import parse
from blindai.errors import ConfigurationError

DIRECT = b"#### LoaderInfo: systemd-stub 262 ####\0"


def log_of_boot(image: PeImage, *, twice: bool) -> bytes:
    """What firmware and stub write when they boot `image`."""
    events = [(4, b"Calling EFI Application from Boot Option"), *((number, bytes(4)) for number in range(8))]
    digests = [(register, hashlib.sha256(event).digest()) for register, event in events]
    digests.append((4, image.authenticode))
    for name in (".linux", ".osrel", ".cmdline", ".initrd", ".pcrpkey"):
        digests += [(11, hashlib.sha256(part).digest()) for part in (name.encode() + b"\0", UKI_SECTIONS[name])]
    if twice:
        digests.append((4, inner_kernel(image).authenticode))
    return boot_log(digests)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("phases", [(), ("enter-initrd",)])
def test_a_prediction_is_what_the_log_of_the_boot_gives(twice: bool, phases: tuple[str, ...]) -> None:
    image = PeImage.parse(uki())
    logged = replayed_pcrs(log_of_boot(image, twice=twice), phases)
    predicted = predict([image], InnerKernel.AUTO, phases)
    assert len(predicted) == 2
    assert confirmed(predicted, logged) == {"pcr4": logged["pcr4"], "pcr11": logged["pcr11"]}


def test_a_stub_that_starts_its_kernel_itself_leaves_one_prediction() -> None:
    image = PeImage.parse(uki(sdmagic=DIRECT))
    assert list(predict([image], InnerKernel.AUTO, ())) == [""]
    assert predict([image], InnerKernel.AUTO, ()) == predict([image], InnerKernel.UNMEASURED, ())
    assert predict([image], InnerKernel.MEASURED, ()) != predict([image], InnerKernel.UNMEASURED, ())


def test_the_log_of_another_boot() -> None:
    image = PeImage.parse(uki())
    other = PeImage.parse(uki(cmdline=b"init=/bin/sh"))
    logged = replayed_pcrs(log_of_boot(image, twice=True), ())
    with pytest.raises(ConfigurationError, match="another pcr4 and pcr11") as refused:
        confirmed(predict([other], InnerKernel.AUTO, ()), logged)
    assert refused.value.code == "measure.mismatch"


def test_the_log_of_a_boot_through_another_loader() -> None:
    image = PeImage.parse(uki())
    logged = replayed_pcrs(log_of_boot(image, twice=True), ())
    with pytest.raises(ConfigurationError, match="another pcr4 than") as refused:
        confirmed(predict([image, image], InnerKernel.AUTO, ()), logged)
    assert refused.value.code == "measure.mismatch"


def test_a_log_without_pcr_11_gets_no_phases() -> None:
    assert list(replayed_pcrs(boot_log([(4, bytes(32))]), ("ready",))) == ["pcr4"]


def test_phases_follow_the_log() -> None:
    log = boot_log([(11, bytes(32))])
    assert replayed_pcrs(log, ("ready",))["pcr11"] == enter(replayed_pcrs(log, ())["pcr11"], ("ready",))


def test_rtmrs_of_a_real_machine(vectors: Path) -> None:
    """The log and the quote were taken on the same trust domain."""
    rtmrs = replayed_rtmrs((vectors / "intel" / "ccel_data.bin").read_bytes())
    quote = parse((vectors / "intel" / "ccel_tdx_v4_quote.bin").read_bytes())
    assert rtmrs == {register: quote.measurements[register] for register in rtmrs}


@pytest.mark.parametrize("replayed", [replayed_rtmrs, partial(replayed_pcrs, phases=())])
@pytest.mark.parametrize("log", [b"", b"\0" * 100, boot_log([(4, bytes(32))])[:-1]])
def test_what_is_no_log(replayed: Callable[[bytes], object], log: bytes) -> None:
    with pytest.raises(ConfigurationError) as refused:
        replayed(log)
    assert refused.value.code == "measure.event_log"
