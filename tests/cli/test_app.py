"""The command line as a whole: help, versions, exit codes, and output that ends early."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import blindai
from blindai import errors
from blindai.attestation.policy import Policy
from blindai.cli.console import ExitCode, exit_code

from .conftest import Run


def test_version(program: Run) -> None:
    assert program("--version").out == f"{blindai.__version__}\n"


def test_help_names_every_command(run: Run) -> None:
    ended = run("--help")
    assert ended.code == 0
    for command in ("demo", "serve", "verify", "models", "predict", "manifest", "measure"):
        assert f" {command} " in ended.out
        assert run(command, "--help").code == 0


def test_an_unknown_command(run: Run) -> None:
    assert run("verfy").code == 2


def test_measure_writes_a_manifest(run: Run) -> None:
    text = run("measure").out
    policy = Policy.parse(text, "measure")
    assert policy.to_toml() == text
    told = run("measure", "--json").json
    assert told["simulated_roots"] == policy.simulated_roots
    assert [code["name"] for code in told["code"]] == [code.name for code in policy.code]


def test_measure_overwrites_nothing(run: Run) -> None:
    assert run("measure", "-o", "new.toml").code == 0
    ended = run("measure", "-o", "new.toml")
    assert (ended.code, "configuration.output" in ended.err) == (2, True)
    assert run("measure", "-o", "no/such/folder.toml").code == 2


def test_exit_codes_keep_their_meaning() -> None:
    assert {name: int(code) for name, code in ExitCode.__members__.items()} == {
        "OK": 0,
        "FAILED": 1,
        "USAGE": 2,
        "ATTESTATION": 3,
        "NOT_FOUND": 4,
        "INVALID": 5,
        "DENIED": 6,
        "LIMIT": 7,
        "UNAVAILABLE": 8,
        "INTERRUPTED": 130,
    }


@pytest.mark.parametrize(
    "kind", [kind for kind in errors.BlindAIError.__subclasses__() if kind.__module__ == errors.__name__]
)
def test_every_error_has_an_exit_code(kind: type[errors.BlindAIError]) -> None:
    figures = {"used": 1, "granted": 1, "request_id": "r", "state": "filed"}
    error = kind("why", **figures) if kind is errors.BudgetExhausted else kind("why")  # type: ignore[arg-type]  # mixed types
    assert exit_code(error) not in {ExitCode.OK, ExitCode.FAILED}


def test_colours_stay_out_of_pipes(program: Run, address: str) -> None:
    assert "\x1b" not in program("verify", address, NO_COLOR="").out


def test_a_reader_that_goes_away(run: Run) -> None:
    """As `head` does: no traceback."""
    program = subprocess.Popen(
        [sys.executable, "-P", "-m", "blindai", "measure", "--json"],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    assert program.stderr.read() == b""
    program.stderr.close()
    assert program.wait(20) != 0
