"""`blindai measure` for releases on real platforms: files in, manifest out."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from artefacts import boot_log, sigstruct, snp_firmware, tdx_firmware, uki
from blindai.attestation.measure.pcr import pcr4, pcr11
from blindai.attestation.measure.pe import PeImage
from blindai.attestation.measure.tdx import PageOrder, mrtd
from blindai.attestation.policy import Policy
from blindai.cli.console import ExitCode

from .conftest import Run


@pytest.fixture(scope="module")
def signed() -> bytes:
    """By a key of 3072 bits, which takes its time to be made."""
    return sigstruct(rsa.generate_private_key(public_exponent=3, key_size=3072))


@pytest.fixture
def files(folder: Path, signed: bytes) -> Path:
    """Artefacts beside the program, and no manifest."""
    (folder / "manifest.toml").unlink()
    (folder / "amd.fd").write_bytes(snp_firmware())
    (folder / "intel.fd").write_bytes(tdx_firmware())
    (folder / "uki.efi").write_bytes(uki())
    (folder / "enclave.sig").write_bytes(signed)
    return folder


TPM = ("measure", "tpm", "--tpm-root", "AB" * 32)
SNP = ("measure", "snp", "--firmware", "amd.fd", "--vcpus", "1,2", "--vcpu-type", "EPYC-v4")


def test_simulated_is_what_measure_alone_writes(run: Run) -> None:
    assert run("measure", "simulated").out == run("measure").out


def test_options_belong_behind_the_platform(run: Run, files: Path) -> None:
    assert run("measure", "-o", "x.toml", *SNP[1:]).code == ExitCode.USAGE
    assert not (files / "x.toml").exists()


def test_snp(run: Run, files: Path) -> None:
    policy = Policy.parse(run(*SNP, "--name", "r1").out, "measure")
    assert [code.name for code in policy.code] == ["r1, 1 x EPYC-v4", "r1, 2 x EPYC-v4"]
    ec2 = run("measure", "snp", "--firmware", "amd.fd", "--vcpus", "2", "--hypervisor", "ec2", "--json").json
    assert ec2["code"][0]["name"].endswith("2 x ec2")


@pytest.mark.parametrize("page_order", PageOrder)
def test_tdx(run: Run, files: Path, vectors: Path, page_order: PageOrder) -> None:
    log = vectors / "intel" / "ccel_data.bin"
    told = run(
        "measure", "tdx", "--firmware", "intel.fd", "--event-log", log, "--page-order", page_order, "--json"
    ).json
    assert told["code"][0]["mrtd"] == told["hardware"][0]["mrtd"] == mrtd(tdx_firmware(), page_order)
    assert "rtmr0" in told["hardware"][0]


def test_tpm_from_an_image(run: Run, files: Path) -> None:
    told = run(*TPM, "--uki", "uki.efi", "--phases", "", "--inner-kernel", "unmeasured", "--json").json
    image = PeImage.parse(uki())
    assert told["code"][0]["pcr4"] == pcr4([image])
    assert told["code"][0]["pcr11"] == pcr11(image, ())
    assert told["hardware"] == []


def test_a_tpm_needs_a_maker_to_believe(run: Run, files: Path) -> None:
    ended = run("measure", "tpm", "--uki", "uki.efi", "--json")
    assert (ended.code, ended.json["error"]["code"]) == (ExitCode.USAGE, "policy.missing_key")
    assert Policy.parse(run(*TPM, "--uki", "uki.efi").out, "measure").tpm.roots == ("ab" * 32,)


def test_tpm_with_a_loader(run: Run, files: Path) -> None:
    (files / "shim.efi").write_bytes(uki(cmdline=b"x"))
    chosen = ("--uki", "uki.efi", "--loader", "shim.efi", "--inner-kernel", "unmeasured", "--tee", "azure-tdx")
    (code,) = run("measure", "tpm", *chosen, "--json").json["code"]
    assert code["tee"] == "azure-tdx"
    assert code["pcr4"] == pcr4([PeImage.parse(uki(cmdline=b"x")), PeImage.parse(uki())])


def test_tpm_from_a_log(run: Run, files: Path) -> None:
    (files / "log").write_bytes(boot_log((number, bytes(32)) for number in range(12)))
    told = run(*TPM, "--event-log", "log", "--json").json
    assert set(told["code"][0]) == {"name", "tee", "pcr4", "pcr11"}
    assert set(told["hardware"][0]) == {"name", "tee", "pcr0", "pcr2", "pcr7"}


def test_tpm_from_an_image_and_the_log_of_another(run: Run, files: Path) -> None:
    (files / "log").write_bytes(boot_log((number, bytes(32)) for number in range(12)))
    ended = run("measure", "tpm", "--uki", "uki.efi", "--event-log", "log")
    assert (ended.code, "measure.mismatch" in ended.err) == (ExitCode.USAGE, True)


def test_sgx(run: Run, files: Path) -> None:
    assert run("measure", "sgx", "--sigstruct", "enclave.sig", "--json").json["code"][0]["mrenclave"] == "11" * 32
    (signed,) = run("measure", "sgx", "--sigstruct", "enclave.sig", "--by-signer", "--json").json["code"]
    assert (signed["isv_prod_id"], signed["minimum_isv_svn"]) == (7, 3)
    assert run("measure", "sgx", "--mrenclave", "AB" * 32, "--json").json["code"][0]["mrenclave"] == "ab" * 32


@pytest.mark.parametrize(
    "arguments",
    [
        ("snp", "--firmware", "amd.fd", "--vcpus", "two", "--vcpu-type", "EPYC"),
        ("snp", "--firmware", "amd.fd", "--vcpus", "1", "--vcpu-type", "EPYC", "--cmdline", "a"),
        ("snp", "--firmware", "amd.fd", "--vcpus", "1", "--vcpu-type", "EPYC", "--guest-features", "x"),
        ("tpm",),
        ("tpm", "--loader", "uki.efi"),
        ("sgx",),
        ("sgx", "--sigstruct", "enclave.sig", "--mrenclave", "00"),
        ("sgx", "--mrenclave", "00" * 32, "--by-signer"),
    ],
)
def test_options_without_a_meaning(run: Run, files: Path, arguments: tuple[str, ...]) -> None:
    ended = run("measure", *arguments, "--json")
    assert (ended.code, ended.json["error"]["code"]) == (ExitCode.USAGE, "measure.option")


def test_merging_replaces_the_manifest(run: Run, files: Path) -> None:
    assert run(*SNP, "-o", "manifest.toml").code == 0
    assert (
        run("measure", "sgx", "--sigstruct", "enclave.sig", "--merge", "manifest.toml").err == "wrote manifest.toml\n"
    )
    assert [code.tee for code in Policy.load(files / "manifest.toml").code] == ["amd-sev-snp"] * 2 + ["intel-sgx"]
    assert [path.name for path in files.iterdir() if path.name.startswith(".")] == []


def test_a_refused_merge_leaves_the_manifest_as_it_was(run: Run, files: Path) -> None:
    run(*SNP, "-o", "manifest.toml")
    before = (files / "manifest.toml").read_bytes()
    ended = run(*SNP, "--merge", "manifest.toml", "--json")
    assert ended.json["error"]["code"] == "measure.duplicate"
    assert (files / "manifest.toml").read_bytes() == before


def test_merging_into_another_file_leaves_the_first(run: Run, files: Path) -> None:
    run(*SNP, "-o", "manifest.toml")
    before = (files / "manifest.toml").read_bytes()
    run("measure", "sgx", "--sigstruct", "enclave.sig", "--merge", "manifest.toml", "-o", "new.toml")
    assert (files / "manifest.toml").read_bytes() == before
    assert len(Policy.load(files / "new.toml").code) == 3


def test_nothing_is_overwritten(run: Run, files: Path) -> None:
    for output in ("amd.fd", "no/such/folder.toml"):
        ended = run(*SNP, "-o", output, "--json")
        assert (ended.code, ended.json["error"]["code"]) == (ExitCode.USAGE, "configuration.output")
    assert (files / "amd.fd").read_bytes() == snp_firmware()


def test_a_manifest_that_cannot_be_replaced(run: Run, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(*SNP, "-o", "manifest.toml")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    ended = run("measure", "sgx", "--sigstruct", "enclave.sig", "--merge", "manifest.toml", "--json")
    assert ended.json["error"]["code"] == "configuration.output"
    assert [path.name for path in files.iterdir() if path.name.startswith(".")] == []
