from __future__ import annotations

from pathlib import Path

import pytest

from blindai.demo import processes
from blindai.demo.processes import Program, until
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
