"""`blindai demo custody`: the whole story once, and what it does when something in it goes wrong."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from blindai.demo.custody import memory, story
from blindai.demo.custody.attacks import ATTACKS, Attack, Outcome
from blindai.demo.custody.hospital import Answer
from blindai.demo.custody.stage import HOSPITAL_BUDGET, LEASE_BUDGET, Sealed, Stage, staged
from blindai.demo.custody.story import Scan, Summary
from blindai.demo.story import StoryFailed

# Seven processes start in it, and a dead man's switch runs out twice.
pytestmark = pytest.mark.timeout(300)

CODES = [
    "custodian.signature",
    "lease.grant",
    "lease.instances",
    "lease.budget_exhausted",
    "lease.budget_exhausted",
    "audit.signature",
    "code.unknown",
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


def test_the_hospital_gets_what_a_local_run_gives(told: tuple[Summary, str]) -> None:
    summary, _ = told
    assert (summary.simulated, summary.answered, summary.largest_difference) == (True, HOSPITAL_BUDGET, 0.0)


def test_the_eleventh_query_is_refused_with_the_figures_of_the_budget(told: tuple[Summary, str]) -> None:
    exhausted = told[0].exhausted
    assert (exhausted["used"], exhausted["granted"], exhausted["state"]) == (10, 10, "pending")
    assert re.fullmatch(r"request-[a-z2-7]{16}", exhausted["request_id"])


def test_weights_are_in_memory_while_the_model_serves_and_never_after(told: tuple[Summary, str]) -> None:
    serving, stopped, expired = told[0].scans
    assert serving.weights
    assert (stopped, expired) == (Scan("after the stop", 0, 0), Scan("after the expiry", 0, 0))


def test_every_attack_is_refused(told: tuple[Summary, str]) -> None:
    summary, text = told
    assert [refusal.code for refusal in summary.refusals] == CODES
    assert [refusal.application_bytes for refusal in summary.refusals] == [0] * len(CODES)
    assert text.count("REFUSED") == len(ATTACKS)
    assert all(attack.title in text for attack in ATTACKS)


def test_nothing_is_overspent(told: tuple[Summary, str]) -> None:
    summary, _ = told
    assert summary.budget == LEASE_BUDGET
    assert HOSPITAL_BUDGET < summary.ran <= summary.granted <= summary.budget
    assert summary.spent <= summary.granted


def test_an_attack_that_succeeds(stage: Stage) -> None:
    attack = Attack("a bribe", "", lambda _: Outcome("", "", ()), "lease.grant")
    with pytest.raises(StoryFailed, match=r"^a bribe ended as a success, not as lease\.grant$"):
        story._attack(stage, attack)


def test_an_attack_that_ends_otherwise(stage: Stage) -> None:
    attack = Attack("a bribe", "", lambda _: Outcome("lease.waiting", "", ()), "lease.grant")
    with pytest.raises(StoryFailed, match=r"^a bribe ended as lease\.waiting, not as lease\.grant$"):
        story._attack(stage, attack)


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (Answer(0.0), "lease.stopped", "a query ended as a success, not as lease.stopped"),
        (
            Answer(0.0, code="lease.expired", message="late"),
            "",
            "a query ended as lease.expired (late), not as a success",
        ),
    ],
)
def test_a_query_that_ends_otherwise(stage: Stage, answer: Answer, code: str, words: str) -> None:
    with pytest.raises(StoryFailed, match=re.escape(words)):
        stage.expect(answer, code, "a query")


class TestMemory:
    @pytest.fixture
    def seen(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
        """What searches of the enclave's memory find: first of the key, then of the weights."""
        found: list[int] = []
        stage.sealed = Sealed(Path(), b"k" * 32, "")
        monkeypatch.setattr(Stage, "enclave", type("Enclave", (), {"id": 1}), raising=False)
        monkeypatch.setattr(memory, "occurrences", lambda *_: found.pop(0))
        yield found
        assert found == []

    @pytest.mark.parametrize("left", [(1, 0), (0, 1)])
    def test_what_is_left_after_a_stop(self, stage: Stage, seen: list[int], left: tuple[int, int]) -> None:
        seen += left
        with pytest.raises(StoryFailed, match=f"holds {left[1]} pieces of the weights and {left[0]} of the key"):
            story._scan(stage, Summary(), "after the stop", expected=False)

    def test_a_search_that_finds_nothing_of_what_is_there(self, stage: Stage, seen: list[int]) -> None:
        seen += (0, 0)
        with pytest.raises(StoryFailed, match="does not find weights that are there"):
            story._scan(stage, Summary(), "while it serves", expected=True)

    def test_a_system_that_cannot_be_searched(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "searchable", lambda: False)
        summary = Summary()
        story._scan(stage, summary, "after the stop", expected=False)
        assert (summary.scans, "is not searched" in shown(stage.console)) == ([], True)

    def test_a_system_that_lets_nobody_look(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: object) -> int:
            raise PermissionError

        stage.sealed = Sealed(Path(), b"k" * 32, "")
        monkeypatch.setattr(Stage, "enclave", type("Enclave", (), {"id": 1}), raising=False)
        monkeypatch.setattr(memory, "occurrences", refused)
        summary = Summary()
        story._scan(stage, summary, "after the stop", expected=False)
        assert (summary.scans, "ptrace_scope" in shown(stage.console)) == ([], True)
