from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from blindai.attestation.anchors import INTEL_SGX_ROOT
from blindai.attestation.simulated import root as root_module
from blindai.attestation.simulated.root import ROOT_FILE, SimulatedRoot, default_directory
from blindai.errors import ConfigurationError


def test_the_root_is_made_once_and_then_loaded(tmp_path: Path) -> None:
    first = SimulatedRoot.load_or_create(tmp_path / "deep" / "folder")
    second = SimulatedRoot.load_or_create(tmp_path / "deep" / "folder")
    assert first.anchor == second.anchor
    assert first.certificate == second.certificate


def test_the_anchor_says_that_it_is_simulated() -> None:
    anchor = SimulatedRoot.generate().anchor
    assert anchor.simulated
    assert anchor.name == "SIMULATED SGX Root CA"
    assert anchor.spki_sha256 != INTEL_SGX_ROOT.spki_sha256
    assert not INTEL_SGX_ROOT.simulated


def test_two_installations_do_not_trust_each_other(tmp_path: Path) -> None:
    one, two = (SimulatedRoot.load_or_create(tmp_path / name) for name in ("one", "two"))
    assert one.anchor.spki_sha256 != two.anchor.spki_sha256


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_can_read_the_key(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        SimulatedRoot.load_or_create(tmp_path / "root")
    finally:
        os.umask(before)
    mode = stat.S_IMODE((tmp_path / "root" / ROOT_FILE).stat().st_mode)
    assert mode == 0o600 & ~umask


def test_nothing_else_is_left_in_the_folder(tmp_path: Path) -> None:
    SimulatedRoot.load_or_create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [ROOT_FILE]


def test_the_default_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(root_module, "user_data_dir", lambda name, **_: str(tmp_path / name))
    assert default_directory() == tmp_path / "blindai" / "simulated"
    SimulatedRoot.load_or_create()
    assert (default_directory() / ROOT_FILE).is_file()


def _race(directory: Path, barrier: object, results: object) -> None:
    barrier.wait()  # type: ignore[attr-defined] # multiprocessing proxies have no common type
    results.put(SimulatedRoot.load_or_create(directory).anchor.spki_sha256)  # type: ignore[attr-defined] # as above


def test_processes_that_start_together_end_up_with_one_root(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    count = 6
    barrier, results = spawn.Barrier(count), spawn.Queue()
    processes = [spawn.Process(target=_race, args=(tmp_path / "root", barrier, results)) for _ in range(count)]
    for process in processes:
        process.start()
    anchors = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(anchors) == 1
    assert [path.name for path in (tmp_path / "root").iterdir()] == [ROOT_FILE]


def test_the_loser_of_a_race_takes_the_winners_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    winner = SimulatedRoot.load_or_create(tmp_path)
    monkeypatch.setattr(Path, "exists", lambda self: False)  # as it looked before the winner was done
    assert SimulatedRoot.load_or_create(tmp_path).anchor == winner.anchor


def damaged(content: bytes, tmp_path: Path) -> tuple[str, str]:
    (tmp_path / ROOT_FILE).write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        SimulatedRoot.load_or_create(tmp_path)
    return caught.value.code, caught.value.hint


def test_a_damaged_root_is_reported_not_replaced(tmp_path: Path) -> None:
    code, hint = damaged(b"garbage", tmp_path)
    assert code == "simulated.root"
    assert ROOT_FILE in hint
    assert (tmp_path / ROOT_FILE).read_bytes() == b"garbage"


def test_a_key_that_is_not_the_certificates_is_reported(tmp_path: Path) -> None:
    one, two = SimulatedRoot.generate(), SimulatedRoot.generate()
    assert damaged(SimulatedRoot(one.key, two.certificate).to_pem(), tmp_path)[0] == "simulated.root"


def test_a_key_of_another_kind_is_reported(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = SimulatedRoot.generate().certificate.public_bytes(Encoding.PEM)
    assert damaged(key + certificate, tmp_path)[0] == "simulated.root"


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError) as caught:
        SimulatedRoot.load_or_create(tmp_path / "file" / "below")
    assert caught.value.code == "simulated.root"


def test_a_root_survives_its_file() -> None:
    root = SimulatedRoot.generate()
    assert SimulatedRoot.from_pem(root.to_pem()).anchor == root.anchor
