"""The program as users start it, in a folder of its own, and an enclave to talk to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blindai.attestation.measure.local import local_policy
from blindai.cli.app import app
from blindai.demo.enclaves import served


@dataclass(frozen=True)
class Ended:
    """A program that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ended]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the program runs: a manifest.toml that accepts the enclave lies there."""
    (tmp_path / "manifest.toml").write_text(local_policy().to_toml(), encoding="utf-8")
    return tmp_path


@pytest.fixture
def program(folder: Path) -> Run:
    """Runs the program in a process of its own, as a user does."""

    def program(*arguments: str | Path, stdin: bytes = b"", **environment: str) -> Ended:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "blindai", *map(str, arguments)],
            cwd=folder,
            env=os.environ | {"COLUMNS": "80", "NO_COLOR": "1"} | environment,
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    return program


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process, which saves the second that Python takes to start."""
    monkeypatch.chdir(folder)
    runner = CliRunner()

    def run(*arguments: str | Path, **environment: str) -> Ended:
        ended = runner.invoke(app, [*map(str, arguments)], env=environment, catch_exceptions=False)
        return Ended(ended.exit_code, ended.stdout, ended.stderr)

    return run


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    with served() as address:
        yield address
