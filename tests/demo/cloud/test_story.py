"""`blindai demo cloud`: the whole story once, and what it does when something in it goes wrong."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from rich.console import Console

from blindai.demo.cloud import resnet18, story
from blindai.demo.cloud.stage import Stage, staged
from blindai.demo.cloud.story import Cast, Summary
from blindai.demo.cloud.visitor import Visitor
from blindai.demo.story import StoryFailed
from blindai.errors import InvalidInput

# Two processes start in it.
pytestmark = pytest.mark.timeout(180)

CODES = [
    "authentication.key_format",
    "model.not_found",
    "permission.namespace",
    "quota.requests_per_minute",
    "authentication.key",
]


def new_console() -> Console:
    return Console(file=io.StringIO(), width=120, soft_wrap=True)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def told() -> tuple[Summary, str]:
    console = new_console()
    return story.tell(console), shown(console)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(new_console(), tmp_path) as empty:
        yield empty


def test_every_step_is_told(told: tuple[Summary, str]) -> None:
    _, text = told
    assert "SIMULATED" in text.splitlines()[0]
    assert re.findall(r"^(\d+)\.", text, re.MULTILINE) == [str(number) for number in range(1, 12)]


def test_the_model_answers_as_it_does_here(told: tuple[Summary, str]) -> None:
    summary, text = told
    assert (summary.simulated, summary.largest_difference) == (True, 0.0)
    assert summary.model_bytes > 46_719_648
    assert text.count(f"label {summary.label}") == 3


def test_everybody_who_may_not_is_refused(told: tuple[Summary, str]) -> None:
    summary, text = told
    assert [refusal.code for refusal in summary.refusals] == CODES
    assert text.count("REFUSED") == len(CODES)
    assert 0 < summary.retry_after_s <= 60


def test_a_revoked_key_is_refused_in_time(told: tuple[Summary, str]) -> None:
    assert 0 < told[0].revoked_ms < 5_000


def test_the_control_plane_has_seen_counts_alone(told: tuple[Summary, str]) -> None:
    summary, _ = told
    assert (summary.found_at_control_plane, summary.queries_counted) == (0, 2)
    assert (summary.rows["users"], summary.rows["api_keys"], summary.rows["models"]) == (2, 2, 1)
    assert summary.control_plane_bytes > 10_000


class Client:
    """A connection whose answers a test makes up."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def predict(self, *_: object) -> Any:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (None, "a theft was answered, and not refused as model.not_found"),
        (InvalidInput("too small", code="input.shape"), "a theft ended as input.shape (too small), not as"),
    ],
)
def test_a_query_that_ends_otherwise(stage: Stage, outcome: Any, words: str) -> None:
    with pytest.raises(StoryFailed, match=re.escape(words)):
        stage.refused(Client(outcome), "model.not_found", "a theft")  # type: ignore[arg-type] # answers the one call


def test_a_refusal_with_another_code(stage: Stage) -> None:
    with pytest.raises(StoryFailed, match="one more ended as"):
        story._refused(stage, Summary(), "one more", InvalidInput("no"), "quota.requests_per_minute")


def test_a_mistyped_key_that_is_taken(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    class Made:
        api_key = "bai_sk_x"
        entry = type("Entry", (), {"id": "bai_sk_x"})

    monkeypatch.setattr(stage, "create_key", lambda *_: Made)
    monkeypatch.setattr(story, "_connect_to", lambda *_: None)
    people = Cast()
    people.owner = None  # type: ignore[assignment] # nobody is asked
    with pytest.raises(StoryFailed, match="a mistyped key was taken"):
        story._make_key(stage, people, Summary())


def test_an_answer_that_differs_from_the_local_run(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    class Output:
        def as_numpy(self) -> Any:
            return np.zeros((1, resnet18.CLASSES), np.float32)

    class Remote:
        simulated = True
        output = (Output(),)
        size = 1

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...
        def upload_model(self, *_: object, **__: object) -> Remote:
            return self

        def predict(self, *_: object) -> Remote:
            return self

    monkeypatch.setattr(stage, "connected", lambda _: Remote())
    with pytest.raises(StoryFailed, match="differs from that of a local run"):
        story._upload(stage, Cast(), Summary())


def test_a_page_that_is_not_what_was_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [
        (404, "nothing"),
        (200, '<input name="csrf" value="t">'),
        (200, '<p role="alert">the name is <b>taken</b></p>'),
    ]
    monkeypatch.setattr(Visitor, "_request", lambda *_: answers.pop(0))
    visitor = Visitor("https://localhost:1", "ab" * 32)
    with pytest.raises(StoryFailed, match="/sign-up shows no form: HTTP status 404"):
        visitor.submit("/sign-up")
    with pytest.raises(StoryFailed, match="answered with HTTP status 200: the name is"):
        visitor.submit("/sign-up")
