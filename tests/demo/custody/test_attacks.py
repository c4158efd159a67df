"""The attacks are real: where the custodian is careless, they succeed."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from blindai.attestation.anchors import Vendor
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.policy import Policy
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.demo.custody.attacks import install_key_thief
from blindai.demo.custody.stage import own_chip, staged

pytestmark = pytest.mark.timeout(300)


def test_the_back_door_does_steal_the_key_from_a_custodian_who_approves_it(tmp_path: Path) -> None:
    loot = tmp_path / "loot"
    parent = install_key_thief(tmp_path / "package", loot)
    root = SimulatedRoot.load_or_create()
    careless = Policy.simulated({Vendor.INTEL: root.anchor.spki_sha256}, measure_package(parent / "blindai"))
    folder = tmp_path / "stage"
    folder.mkdir()
    with staged(Console(file=io.StringIO()), folder) as stage:
        stage.open_office()
        stage.start_custodian()
        stage.seal_model()
        stage.lend(replace(careless, chips=(own_chip(),)))
        stage.ship()
        stage.new_enclave(package_parent=parent).logged(event="lease", state="serving")
        assert loot.read_bytes() == stage.sealed.key
