"""What the story does when something in it goes wrong: it says so, and does not end well."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from blindai import Connection
from blindai.cli.app import app
from blindai.demo import story
from blindai.demo.attacks import ATTACKS, Attack, Trap
from blindai.demo.enclaves import served
from blindai.demo.story import StoryFailed


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def test_a_prediction_that_differs(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    original = story._local_run

    def different(*arguments: Any) -> list[Any]:
        labels, probabilities = original(*arguments)
        return [labels, np.nextafter(probabilities, np.float32(2))]

    monkeypatch.setattr(story, "_local_run", different)
    with pytest.raises(StoryFailed, match="differ from those of a local run"):
        story.tell(console)


def test_an_attack_that_is_not_refused(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "predict", lambda *arguments: None)

    @contextmanager
    def no_trap() -> Iterator[Trap]:
        with served() as address:
            yield Trap(address, lambda: 0)

    with pytest.raises(StoryFailed, match="was not refused"):
        story._attack(console, Attack("no attack", "", no_trap, "code.unknown"))


@pytest.mark.parametrize(("code", "stolen"), [("code.unknown", 0), ("platform.debug", 1)])
def test_an_attack_that_ends_otherwise(console: Console, code: str, stolen: int) -> None:
    debug = next(attack for attack in ATTACKS if attack.code == "platform.debug")

    @contextmanager
    def trap() -> Iterator[Trap]:
        with debug.trap() as genuine:
            yield Trap(genuine.address, lambda: stolen)

    with pytest.raises(StoryFailed, match=f"refused as platform.debug after {stolen} bytes, not as {code}"):
        story._attack(console, Attack("debug", "", trap, code))


def test_the_program_says_that_the_story_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(console: Console) -> None:
        raise StoryFailed("an attack was not refused")

    monkeypatch.setattr(story, "tell", fail)
    ended = CliRunner().invoke(app, ["demo"])
    assert ended.exit_code == 1
    assert "the story went wrong: an attack was not refused" in ended.stderr
