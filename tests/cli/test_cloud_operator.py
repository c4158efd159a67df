"""`blindai cloud account`: what accounts may use, at the command line of whoever runs the cloud."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from blindai.cli.app import app
from cloud_scene import CloudScene

Operate = Callable[..., Result]


@pytest.fixture
def operate(tmp_path: Path) -> Operate:
    """Runs a command beside a control plane in which alice has an account."""
    with CloudScene(tmp_path) as scene:
        scene.join("alice")
        place = scene.plane.place

    def operate(*arguments: str) -> Result:
        where = ("--data", str(place.data), "--database", place.database)
        return CliRunner().invoke(app, ["cloud", "account", *arguments, *where])

    return operate


def test_accounts_are_listed(operate: Operate) -> None:
    shown = operate("list")
    assert shown.exit_code == 0, shown.output
    head, row = shown.stdout.splitlines()
    assert head.split()[:2] == ["ACCOUNT", "KIND"]
    assert " ".join(row.split()) == "alice personal 0/20 0 bytes/10.7 GB 0/100,000 open"
    (told,) = json.loads(operate("list", "--json").stdout)
    assert (told["name"], told["quotas"]["requests_per_month"]) == ("alice", 100_000)


def test_quotas_are_shown_and_changed(operate: Operate) -> None:
    before = operate("quotas", "alice").stdout
    assert "100,000 requests" in before
    changed = operate("quotas", "alice", "--models", "2", "--per-month", "unlimited")
    assert (changed.exit_code, "0 of 2" in changed.stdout, "of unlimited requests" in changed.stdout) == (0, True, True)
    told = json.loads(operate("quotas", "alice", "--bytes", "5", "--per-minute", "7", "--json").stdout)
    assert told["quotas"] == {
        "models": 2,
        "model_bytes": 5,
        "requests_per_minute": 7,
        "requests_per_month": None,
    }


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("quotas", "nobody"), "account.unknown"),
        (("quotas", "alice", "--models", "-1"), "account.quotas"),
        (("quotas", "alice", "--per-month", "many"), "account.quotas"),
        (("quotas", "alice", "--per-month", "-1"), "account.quotas"),
    ],
)
def test_what_cannot_be_is_refused(operate: Operate, arguments: tuple[str, ...], code: str) -> None:
    ended = operate(*arguments)
    assert ended.exit_code == 5
    assert code in ended.output


def test_a_place_without_a_control_plane_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "typo"
    ended = CliRunner().invoke(app, ["cloud", "account", "list", "--data", str(folder)])
    assert (ended.exit_code, "configuration.cloud_absent" in ended.output, folder.exists()) == (2, True, False)
