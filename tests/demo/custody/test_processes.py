from __future__ import annotations

from pathlib import Path

import pytest

from blindai.demo.custody import processes
from blindai.demo.custody.processes import Hospital, Program, until
from blindai.errors import Unavailable


def test_a_program_that_does_not_start_says_where_the_reason_is(tmp_path: Path) -> None:
    log = tmp_path / "program.log"
    with pytest.raises(Unavailable) as caught:
        Program(["serve", "--no-such-option"], log)
    assert caught.value.code == "unavailable.start"
    assert str(log) in caught.value.hint
    assert "--no-such-option" in log.read_text()


def test_what_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(Unavailable, match="a bus") as caught:
        until(lambda: None, "a bus")
    assert caught.value.code == "unavailable.log"


def test_a_line_of_the_log_that_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "enclave.log"
    log.write_text('{"code": "earlier"}\n')
    options = ["--port", "0", "--platform", "simulated-tdx", "--json", "--log-format", "json"]
    with Program(["serve", *options], log) as program:
        with log.open("a") as file:
            file.write('no json\n{"code": "code.unknown"}\n{"code": "half')
        monkeypatch.setattr(processes, "PATIENCE_SECONDS", 0.05)
        with pytest.raises(Unavailable, match=r"it has code\.unknown "):
            program.logged(event="custodian")


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
