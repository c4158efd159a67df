from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import blindai
from blindai.attestation.evidence import TEE
from blindai.attestation.measure.simulated import TD_REGISTERS, _measure, measure_package


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.py").write_text("A")
    (folder / "sub" / "b.py").write_text("B")
    (folder / "data.json").write_text("{}")
    return folder


def fresh(folder: Path) -> dict[str, str]:
    _measure.cache_clear()
    return measure_package(folder)


def test_the_running_package_has_a_measurement_for_each_tee() -> None:
    registers = measure_package()
    assert set(registers) == {*TD_REGISTERS, "mrenclave", "mrsigner", "launch_digest"}
    assert len(registers["mrtd"]) == 96
    assert len(registers["mrenclave"]) == 64
    assert registers == measure_package(Path(blindai.__file__).parent)
    assert set(measure_package(tee=TEE.INTEL_TDX)) == set(TD_REGISTERS)
    assert set(measure_package(tee=TEE.INTEL_SGX)) == {"mrenclave", "mrsigner"}
    assert set(measure_package(tee=TEE.AMD_SEV_SNP)) == {"launch_digest"}


def test_a_copy_elsewhere_measures_the_same(package: Path, tmp_path: Path) -> None:
    shutil.copytree(package, tmp_path / "other")
    assert fresh(package) == fresh(tmp_path / "other")


def test_compiled_files_do_not_count(package: Path) -> None:
    before = fresh(package)
    for folder in (package, package / "sub"):
        (folder / "__pycache__").mkdir()
        (folder / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"\x01")
    (package / "empty folder").mkdir()
    assert fresh(package) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a.py").write_text("a"),
        lambda folder: (folder / "a.py").rename(folder / "c.py"),
        lambda folder: (folder / "a.py").unlink(),
        lambda folder: (folder / "new.py").write_text(""),
        lambda folder: (folder / "data.json").write_text("[]"),
        lambda folder: (folder / "sub" / "b.py").rename(folder / "b.py"),
    ],
    ids=["edited", "renamed", "removed", "added", "data", "moved"],
)
def test_any_other_change_shows_in_the_code_registers_alone(package: Path, change: object) -> None:
    before = fresh(package)
    change(package)  # type: ignore[operator] # one of the lambdas above
    after = fresh(package)
    assert {name for name in before if before[name] != after[name]} == {"mrtd", "mrenclave", "launch_digest"}


def test_content_that_moves_from_one_file_to_the_next_shows(tmp_path: Path) -> None:
    for name, (first, second) in {"one": ("ab", "c"), "two": ("a", "bc")}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "1").write_text(first)
        (tmp_path / name / "2").write_text(second)
    assert fresh(tmp_path / "one") != fresh(tmp_path / "two")


def test_the_measurement_is_that_of_the_start(package: Path) -> None:
    before = fresh(package)
    (package / "a.py").write_text("changed while running")
    assert measure_package(package) == before


def test_callers_do_not_share_the_registers(package: Path) -> None:
    measure_package(package)["mrtd"] = "changed"
    assert measure_package(package)["mrtd"] != "changed"
