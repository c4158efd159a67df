"""`blindai custodian audit`: what a person and a script are told of a log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from blindai.cli.app import app
from blindai.cli.console import ExitCode
from lease_world import World, full_life


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def lines(world: World) -> list[bytes]:
    return world.export(full_life(world))


def run(*arguments: str | Path, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(app, ["custodian", "audit", *map(str, arguments)], input=stdin)


def written(folder: Path, lines: list[bytes]) -> Path:
    path = folder / "export.jsonl"
    path.write_bytes(b"".join(lines))
    return path


def fields(result: Result) -> Any:
    return json.loads(result.stdout)


def test_whole_log_is_whole(world: World, lines: list[bytes], tmp_path: Path) -> None:
    ended = run(written(tmp_path, lines), "--custodian-key", world.keys.public_key)
    assert ended.exit_code == 0
    assert "WHOLE" in ended.stdout
    assert "Tumours, lent to A clinic" in ended.stdout
    assert "compare it" not in ended.stdout
    assert "2 simulated" in ended.stdout
    rows = [line.split() for line in ended.stdout.splitlines()]
    assert ["consumer", "budget", "granted", "spent"] in rows


def test_key_of_the_file_is_no_proof(lines: list[bytes], tmp_path: Path) -> None:
    ended = run(written(tmp_path, lines))
    assert ended.exit_code == 0
    assert "compare it" in ended.stdout


def test_json_says_the_same(world: World, lines: list[bytes], tmp_path: Path) -> None:
    ended = run(written(tmp_path, lines), "--json", "--custodian-key", world.keys.public_key.upper())
    told = fields(ended)
    assert ended.exit_code == 0
    assert (told["whole"], told["custodian_known"], told["findings"]) == (True, True, [])
    assert told["entries"] == told["replayed"] == len(lines) - 2
    assert told["spent"] == sum(account["spent"] for account in told["accounts"].values())
    assert told["instances"] == {"admitted": 0, "closed": 1, "quarantined": 1}


def test_broken_log_says_where(lines: list[bytes], tmp_path: Path) -> None:
    path = written(tmp_path, [*lines[:9], *lines[10:]])
    ended = run(path)
    assert ended.exit_code == ExitCode.ATTESTATION
    assert "BROKEN" in ended.stdout
    assert "line 10, entry 10  audit.chain" in ended.stdout
    told = fields(run(path, "--json"))
    assert (told["whole"], told["replayed"]) == (False, 8)
    assert [found["line"] for found in told["findings"]] == [10]


def test_other_key_is_found(lines: list[bytes], tmp_path: Path) -> None:
    told = fields(run(written(tmp_path, lines), "--json", "--custodian-key", "ab" * 32))
    assert "audit.custodian" in {found["code"] for found in told["findings"]}


def test_log_may_come_from_a_pipe(lines: list[bytes], tmp_path: Path) -> None:
    # CliRunner replaces standard input by an object without a file descriptor.
    import subprocess
    import sys

    ended = subprocess.run(
        [sys.executable, "-P", "-m", "blindai", "custodian", "audit", "-", "--json"],
        input=b"".join(lines),
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, json.loads(ended.stdout)["whole"]) == (0, True)


@pytest.mark.parametrize("key", ["", "ab", "zz" * 32, "ab" * 33])
def test_key_that_is_none(lines: list[bytes], tmp_path: Path, key: str) -> None:
    ended = run(written(tmp_path, lines), "--json", "--custodian-key", key)
    assert ended.exit_code == ExitCode.USAGE
    assert fields(ended)["error"]["code"] == "configuration.custodian_key"


@pytest.mark.parametrize("name", ["nowhere.jsonl", "."])
def test_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    ended = run(tmp_path / name, "--json")
    assert ended.exit_code == ExitCode.INVALID
    assert fields(ended)["error"]["code"] == "input.log"


@pytest.mark.parametrize("content", [b"", b"\n", b"hello\n", b"\x00" * 100, b"{}"])
def test_file_that_is_no_log(tmp_path: Path, content: bytes) -> None:
    ended = run(written(tmp_path, [content]))
    assert ended.exit_code == ExitCode.ATTESTATION
    assert "no lease" in ended.stdout


def test_words_of_strangers_do_not_command_the_terminal(tmp_path: Path) -> None:
    world = World(tmp_path)
    lease = world.lend(name="a [bold]lease[/]")
    ended = run(written(tmp_path, world.export(lease)))
    assert "a [bold]lease[/]" in ended.stdout
