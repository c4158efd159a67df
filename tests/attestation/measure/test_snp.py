"""Launch digests of SEV-SNP guests, and firmware that no guest can be launched with."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artefacts import SEV_ES_RESET_BLOCK, SEV_METADATA, SNP_SECTIONS, image_with, snp_firmware, tdx_firmware
from blindai.attestation.measure.snp import Boot, Hypervisor, LaunchDigest, launch_digests, require_snp_firmware
from blindai.errors import ConfigurationError


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    path = tmp_path / "OVMF.fd"
    path.write_bytes(snp_firmware())
    return path


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    (tmp_path / "kernel").write_bytes(b"kernel")
    (tmp_path / "initrd").write_bytes(b"initrd")
    return Boot(tmp_path / "kernel", tmp_path / "initrd", "console=ttyS0")


def said_by_the_tool(*arguments: str | Path) -> str:
    """What sev-snp-measure's own command prints."""
    command = [sys.executable, "-m", "sevsnpmeasure.cli", "--mode", "snp", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


def test_a_table_per_count_and_type(firmware: Path) -> None:
    table = list(launch_digests(firmware, vcpus=[1, 4], vcpu_types=["EPYC-v4", "EPYC-Genoa"]))
    assert [(entry.vcpus, entry.vcpu_type) for entry in table] == [
        (1, "EPYC-v4"), (4, "EPYC-v4"), (1, "EPYC-Genoa"), (4, "EPYC-Genoa"),
    ]  # fmt: skip
    assert len({entry.value for entry in table}) == 4
    said = said_by_the_tool("--ovmf", firmware, "--vcpus", "4", "--vcpu-type", "EPYC-Genoa")
    assert table[3] == LaunchDigest(4, "EPYC-Genoa", said)


def test_every_input_counts(firmware: Path, boot: Boot) -> None:
    def digest(boot: Boot | None = None, guest_features: int = 1) -> str:
        (entry,) = launch_digests(
            firmware, vcpus=[2], vcpu_types=["EPYC-Milan"], boot=boot, guest_features=guest_features
        )
        return entry.value

    digests = [digest(), digest(boot), digest(boot._replace(initrd=None)), digest(boot._replace(cmdline=""))]
    digests.append(digest(guest_features=0x21))
    boot.kernel.write_bytes(b"Kernel")
    digests.append(digest(boot))
    firmware.write_bytes(snp_firmware()[:-1] + b"!")
    digests.append(digest())
    assert len(set(digests)) == 7


def test_a_kernel_as_the_tool_measures_it(firmware: Path, boot: Boot) -> None:
    (entry,) = launch_digests(firmware, vcpus=[1], vcpu_types=["EPYC-v4"], boot=boot, guest_features=0x21)
    assert boot.initrd is not None
    arguments: list[str | Path] = ["--kernel", boot.kernel, "--initrd", boot.initrd, "--append", boot.cmdline]
    machine = ["--vcpus", "1", "--vcpu-type", "EPYC-v4", "--guest-features", "0x21"]
    assert entry.value == said_by_the_tool("--ovmf", firmware, *arguments, *machine)


@pytest.mark.parametrize("hypervisor", [Hypervisor.EC2, Hypervisor.GCE])
def test_other_hypervisors(firmware: Path, hypervisor: Hypervisor) -> None:
    (entry,) = launch_digests(firmware, vcpus=[2], hypervisor=hypervisor)
    assert entry.value == said_by_the_tool("--ovmf", firmware, "--vcpus", "2", "--vmm-type", hypervisor)
    assert entry.vcpu_type == ""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"vcpus": []}, "numbers of vCPUs"),
        ({"vcpus": [0]}, "numbers of vCPUs"),
        ({"vcpus": [1025]}, "numbers of vCPUs"),
        ({"vcpus": [2, 2]}, "numbers of vCPUs"),
        ({"vcpu_types": []}, "given for QEMU"),
        ({"vcpu_types": ["EPYC"], "hypervisor": Hypervisor.EC2}, "given for QEMU"),
        ({"vcpu_types": ["Xeon"]}, "unknown type of vCPU 'Xeon'"),
        ({"vcpu_types": ["EPYC", "EPYC"]}, "given twice"),
        ({"guest_features": 0}, "SNPActive"),
        ({"guest_features": 2}, "SNPActive"),
        ({"guest_features": 1 << 64 | 1}, "SNPActive"),
    ],
)
def test_options_without_a_meaning(firmware: Path, options: dict[str, object], reason: str) -> None:
    given_options: dict[str, object] = {"vcpus": [1], "vcpu_types": ["EPYC"]} | options
    with pytest.raises(ConfigurationError, match=reason) as refused:
        list(launch_digests(firmware, **given_options))  # type: ignore[arg-type]  # one of them is wrong on purpose
    assert refused.value.code == "measure.option"


def test_without_the_package(firmware: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sevsnpmeasure.guest", None)
    with pytest.raises(ConfigurationError, match="sev-snp-measure") as refused:
        next(launch_digests(firmware, vcpus=[1], vcpu_types=["EPYC"]))
    assert refused.value.code == "measure.dependency"
    assert "blindai[measure]" in refused.value.hint


@pytest.mark.parametrize("missing", ["firmware", "kernel", "initrd"])
def test_a_file_that_is_not_there(firmware: Path, boot: Boot, missing: str) -> None:
    (firmware.parent / ("OVMF.fd" if missing == "firmware" else missing)).unlink()
    with pytest.raises(ConfigurationError) as refused:
        next(launch_digests(firmware, vcpus=[1], vcpu_types=["EPYC"], boot=boot))
    assert refused.value.code == "measure.unreadable"


MEMORY = SNP_SECTIONS[0]


def distant(distance: int) -> bytes:
    """Firmware whose table says that the SEV metadata begin `distance` bytes before its end."""
    return image_with([(SEV_METADATA, struct.pack("<I", distance)), (SEV_ES_RESET_BLOCK, bytes(4))])


@pytest.mark.parametrize(
    ("image", "kernel_hashes", "code"),
    [
        (tdx_firmware(), False, "measure.metadata"),
        (image_with([(SEV_METADATA, struct.pack("<I", 1024))]), False, "measure.metadata"),
        (snp_firmware(signature=b"ASEW"), False, "measure.metadata"),
        (snp_firmware([MEMORY] * 65), False, "measure.metadata"),
        (snp_firmware([(0x800001, 4096, 1)]), False, "measure.metadata"),
        (snp_firmware([(0x800000, 4095, 1)]), False, "measure.metadata"),
        (snp_firmware([(0x800000, 0xFFFFF000, 1)]), False, "measure.metadata"),
        (snp_firmware([(0x800000, 4096, 7)]), False, "measure.metadata"),
        (snp_firmware(SNP_SECTIONS[:4]), True, "measure.metadata"),
        (snp_firmware(hash_table=0), True, "measure.metadata"),
        (snp_firmware(hash_table=0x810FF0), True, "measure.metadata"),
        (snp_firmware()[:-4096], False, "measure.firmware"),
        (b"firmware", False, "measure.firmware"),
        (distant(15), False, "measure.firmware"),
    ],
)
def test_firmware_that_launches_no_guest(image: bytes, kernel_hashes: bool, code: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        require_snp_firmware(image, kernel_hashes=kernel_hashes)
    assert refused.value.code == code


@given(at=st.integers(len(snp_firmware()) - 1024, len(snp_firmware()) - 33), value=st.integers(0, 255))
def test_what_is_accepted_can_be_measured(tmp_path_factory: pytest.TempPathFactory, at: int, value: int) -> None:
    """Whatever damage the check lets through, the package computes a digest for it."""
    image = bytearray(snp_firmware())
    image[at] = value
    path = tmp_path_factory.getbasetemp() / "damaged.fd"
    path.write_bytes(image)
    try:
        (entry,) = launch_digests(path, vcpus=[1], vcpu_types=["EPYC"])
    except ConfigurationError:
        return
    assert len(entry.value) == 96
