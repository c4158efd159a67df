from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from blindai.demo import processes
from blindai.demo.custody.stage import entropy, own_chip, staged
from blindai.errors import Unavailable


@pytest.mark.parametrize(("data", "bits"), [(b"aaaa", 0.0), (b"abab", 1.0), (bytes(range(256)), 8.0)])
def test_entropy(data: bytes, bits: float) -> None:
    assert entropy(data) == bits


def test_the_chip_of_this_machine_stays_the_same() -> None:
    chip = bytes.fromhex(own_chip())
    assert (len(chip), own_chip()) == (16, chip.hex())


def test_each_party_has_a_folder_of_its_own(tmp_path: Path) -> None:
    with staged(Console(file=io.StringIO()), tmp_path):
        assert {folder.name: folder.stat().st_mode & 0o777 for folder in tmp_path.iterdir()} == {
            "custodian": 0o700,
            "borrower": 0o700,
            "hospital": 0o700,
        }


def test_the_sealed_model_opens_with_its_key_alone(tmp_path: Path) -> None:
    with staged(Console(file=io.StringIO()), tmp_path) as stage:
        stage.open_office()
        stage.seal_model()
        stage.lend()
        shipped = stage.ship()
        config = stage.enclave_config.read_text()
    assert stage.sealed.key not in shipped
    assert stage.model not in shipped
    assert stage.lease_id in config
    assert stage.sealed.key.hex() not in config


def test_a_query_that_never_ends_as_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE_SECONDS", 0.1)
    with staged(Console(file=io.StringIO()), tmp_path) as stage:
        stage.start_hospital()
        stage.hospital.at("https://127.0.0.1:1", policy=stage.manifest, token="bct_", model_id="a/b")
        with pytest.raises(Unavailable, match="a query that ends with an answer"):
            stage.ask_until("")
    assert not stage.ran
