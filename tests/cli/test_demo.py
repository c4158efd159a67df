"""`blindai demo`: the whole story, and that its attacks are real."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from blindai import Connection
from blindai.attestation.anchors import Vendor
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.policy import Policy
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.demo.attacks import ATTACKS
from blindai.demo.cloud import story as cloud
from blindai.demo.custody import story as custody
from blindai.demo.enclaves import install_back_door, served
from blindai.demo.story import StoryFailed

from .conftest import Run
from .test_serve import announced, started

CODES = ["code.unknown", "binding.key", "binding.exporter", "binding.nonce", "platform.debug"]


def test_the_story_for_machines(run: Run) -> None:
    ended = run("demo", "--json")
    assert ended.code == 0, ended.err
    story = ended.json
    assert story["simulated"] is True
    assert (story["patients"], story["correct"], story["largest_difference"]) == (114, 111, 0.0)
    assert [refusal["code"] for refusal in story["refusals"]] == CODES
    assert [refusal["application_bytes"] for refusal in story["refusals"]] == [0] * len(CODES)


def test_the_story_for_people(program: Run, folder: Path) -> None:
    ended = program("demo")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("BlindAI")
    assert "SIMULATED" in ended.out.splitlines()[0]
    assert ended.out.count("REFUSED") == len(ATTACKS)
    assert ended.out.count("the attacker received 0 bytes of application data") == len(ATTACKS)
    for code in CODES:
        assert f"code {code}" in ended.out
    assert 'client.predict("clinic/breast-cancer", load_patients().features)' in ended.out
    # What it tells the reader to start does start; only the port may be taken here.
    (command,) = (line.split() for line in ended.out.splitlines() if " serve " in line and line.startswith("   "))
    assert command[command.index("--platform") + 1] == "simulated-tdx"
    with started(folder, "--json", *command[command.index("serve") + 1 :]) as process:
        assert announced(process).startswith("https://127.0.0.1:")
        process.terminate()
        process.communicate(timeout=20)


def test_the_back_door_does_work_on_a_client_that_approves_it(tmp_path: Path) -> None:
    """The attack is real: whoever lists the altered code in the policy loses what is sent."""
    loot = tmp_path / "loot"
    parent = install_back_door(tmp_path / "package", loot)
    root = SimulatedRoot.load_or_create()
    careless = Policy.simulated({Vendor.INTEL: root.anchor.spki_sha256}, measure_package(parent / "blindai"))
    with served(parent) as address, Connection(address, policy=careless) as client:
        client.server()
    assert loot.read_bytes().startswith(b"GET /v2 HTTP/1.1\r\n")


@pytest.mark.parametrize("arguments", [("custody", "--json"), ("--json", "custody")])
def test_the_story_of_a_model_on_loan_for_machines(
    run: Run, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custody, "tell", lambda _: custody.Summary(budget=100, scans=[custody.Scan("late", 0, 0)]))
    ended = run("demo", *arguments)
    assert (ended.code, ended.err) == (0, "")
    assert ended.json["simulated"] is True
    assert (ended.json["budget"], ended.json["scans"]) == (100, [{"when": "late", "key": 0, "weights": 0}])


def test_the_story_of_a_model_on_loan_for_people(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(console: Console) -> custody.Summary:
        console.print("once upon a time")
        return custody.Summary()

    monkeypatch.setattr(custody, "tell", tell)
    ended = run("demo", "custody")
    assert (ended.code, ended.out, ended.err) == (0, "once upon a time\n", "")


def test_a_story_of_a_model_on_loan_that_goes_wrong(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Console) -> custody.Summary:
        raise StoryFailed("a clone was served")

    monkeypatch.setattr(custody, "tell", fail)
    ended = run("demo", "custody")
    assert ended.code == 1
    assert "the story went wrong: a clone was served" in ended.err


@pytest.mark.parametrize("arguments", [("cloud", "--json"), ("--json", "cloud")])
def test_the_story_of_a_cloud_for_machines(
    run: Run, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud, "tell", lambda _: cloud.Summary(label=7, refusals=[cloud.Ended("a", "b.c", "d")]))
    ended = run("demo", *arguments)
    assert (ended.code, ended.err) == (0, "")
    assert (ended.json["simulated"], ended.json["label"]) == (True, 7)
    assert ended.json["refusals"] == [{"title": "a", "code": "b.c", "message": "d"}]


def test_a_story_of_a_cloud_that_goes_wrong(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Console) -> cloud.Summary:
        raise StoryFailed("a stranger was answered")

    monkeypatch.setattr(cloud, "tell", fail)
    ended = run("demo", "cloud")
    assert ended.code == 1
    assert "the story went wrong: a stranger was answered" in ended.err
