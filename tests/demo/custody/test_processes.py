from __future__ import annotations

from pathlib import Path

import pytest

from blindai.demo.custody.processes import Hospital
from blindai.errors import Unavailable


def test_a_hospital_that_nobody_told_whom_to_ask(tmp_path: Path) -> None:
    log = tmp_path / "hospital.log"
    with Hospital(log) as hospital, pytest.raises(Unavailable) as caught:
        hospital.ask(0)
    assert caught.value.code == "unavailable.start"
    assert log.read_text() == "a question came before the address\n"


def test_a_hospital_whose_enclave_is_not_there(tmp_path: Path) -> None:
    with Hospital(tmp_path / "hospital.log") as hospital:
        hospital.at("https://127.0.0.1:1", policy=tmp_path / "none.toml", token="", model_id="a/b")
        assert hospital.ask(0).code == "policy.missing"
        assert hospital.look().code == "policy.missing"
