"""A verdict in few lines, however many checks it has, and a long one on a narrow terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from blindai.attestation.result import STEPS, AttestationResult, Check, Mode, Outcome, Range, Status
from blindai.cli import verdict


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(verdict, "out", Console(file=text, width=80, highlight=False, soft_wrap=True))
    return text


def check(step: str, outcome: str = "PASS", *, name: str = "", got: str = "seen", **more: object) -> Check:
    return Check(step=step, name=name or STEPS[step], outcome=Outcome(outcome), got=got, **more)  # type: ignore[arg-type]  # the rest is for one test


def result(*checks: Check) -> AttestationResult:
    return AttestationResult(status=Status.AFFIRMING, checks=checks, mode=Mode.FRESH, policy_digest="")


def every_step(*devices: Check) -> list[Check]:
    return [*(check(step) for step in STEPS if step != "devices"), *devices]


def test_eight_gpus_that_pass_are_one_line(screen: io.StringIO) -> None:
    devices = [check("devices", got="8 GPUs, 0 switches"), *(check("devices", name=f"GPU {n}") for n in range(1, 9))]
    verdict.print_checks(result(*every_step(*devices)))
    lines = screen.getvalue().splitlines()
    assert len(lines) <= verdict.MAX_ROWS
    assert lines[-1].split() == ["PASS", "GPUs", "and", "switches", "8", "GPUs,", "0", "switches"]


def test_of_gpus_that_fail_the_first_is_shown_and_the_rest_counted(screen: io.StringIO) -> None:
    devices = [check("devices"), *(check("devices", "FAIL", name=f"GPU {n}", got="old") for n in (3, 4, 5))]
    verdict.print_checks(result(*every_step(*devices)))
    assert screen.getvalue().splitlines()[-1].split() == ["FAIL", "GPU", "3", "and", "2", "more", "old"]


def test_one_gpu_that_fails_keeps_its_name(screen: io.StringIO) -> None:
    devices = [check("devices"), check("devices", "FAIL", name="GPU 3", got="old")]
    verdict.print_checks(result(*every_step(*devices)))
    assert screen.getvalue().splitlines()[-1].split() == ["FAIL", "GPU", "3", "old"]


def test_what_a_stranger_wrote_moves_no_cursor(screen: io.StringIO) -> None:
    part = Range("certificate \x1b[2J[bold]", 0, 5, "use\x07 [red]", "value\r")
    verdict.print_explained(result(check("quote", got="\x1b[1m[bold]", name="a\x1b[0m", ranges=(part,))), None)
    shown = screen.getvalue()
    assert not set(shown) & {"\x1b", "\x07", "\r"}
    assert "[bold]" in shown
    assert "[red]" in shown
