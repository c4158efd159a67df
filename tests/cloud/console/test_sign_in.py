"""Signing in by password: what is not said, and what is slowed."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from blindai.web import calls
from cloud_scene import PASSWORD, CloudScene
from console_world import Person

OTHER = "another long pass phrase"


def test_what_is_wrong_is_not_said(small_scene: CloudScene) -> None:
    small_scene.join("alice")
    known, unknown = Person(small_scene, "alice").enter(OTHER), Person(small_scene, "eve").enter(OTHER)
    assert known.status == unknown.status == 401
    assert known.words.replace("alice", "") == unknown.words.replace("eve", "")
    assert known.text.replace("alice", "eve").replace(known.csrf, "") == unknown.text.replace(unknown.csrf, "")


def test_guessing_is_slowed_and_says_for_how_long(small_scene: CloudScene) -> None:
    small_scene.join("alice")
    thief = Person(small_scene, "alice")
    answers = [thief.enter(OTHER) for _ in range(8)]
    assert [one.status for one in answers] == [401] * 5 + [429] * 3
    assert int(answers[-1].header("retry-after")) >= 1
    assert "authentication.throttled" in answers[-1].text
    assert Person(small_scene, "alice", address="198.51.100.7").enter().status == 303


def test_a_crowd_that_signs_in_does_not_keep_others_from_the_pages(
    alice: Person, small_scene: CloudScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MAX_WAITING_PASSWORDS", 0)
    crowded = Person(small_scene, "alice").enter()
    assert (crowded.status, "busy" in crowded.text) == (503, True)
    assert alice.get("/account").status == 200


@pytest.mark.parametrize(
    "typed", ["<script>alert(1)</script>", '"><img src=x>', "\u202ealice", "a" * 5000, "'; DROP--"]
)
def test_what_was_typed_comes_back_as_text_and_stands_in_no_log(stranger: Person, typed: str) -> None:
    with capture_logs() as logs:
        answer = stranger.submit("/sign-in", "/sign-in", email=typed, password=PASSWORD)
    assert answer.status == 401
    assert "<script>alert" not in answer.text
    assert "<img" not in answer.text
    assert PASSWORD not in answer.text
    assert typed not in str(logs)
    assert PASSWORD not in str(logs)


def test_before_the_address_is_confirmed_nobody_is_let_in(small_scene: CloudScene) -> None:
    small_scene.plane.people.sign_up("ann@example.com", PASSWORD, "ann", address="192.0.2.1")
    ann = Person(small_scene, "ann")
    answer = ann.enter()
    assert (answer.status, "identity.unverified" in answer.text) == (403, True)
    assert ann.get("/account").status == 303
    # The link came once more.
    assert len(small_scene.mails("ann@example.com")) == 2


def test_options_for_a_passkey_are_json_and_name_no_one(small_scene: CloudScene, stranger: Person) -> None:
    small_scene.join("alice")
    answer = stranger.submit("/sign-in", "/sign-in/passkey/options", email="alice@example.com")
    assert answer.status == 200
    assert answer.header("content-type").startswith("application/json")
    assert "alice" not in answer.text


@pytest.mark.parametrize("response", ["", "{}", "null", '{"id": 1}', "x" * 4000])
def test_an_answer_that_is_none_is_refused(stranger: Person, response: str) -> None:
    stranger.submit("/sign-in", "/sign-in/passkey/options")
    answer = stranger.submit("/sign-in", "/sign-in/passkey", response=response)
    assert (answer.status, "identity.passkey" in answer.text) == (400, True)
    # A challenge is answered once.
    answer = stranger.submit("/sign-in", "/sign-in/passkey", response="{}")
    assert (answer.status, "identity.ceremony" in answer.text) == (400, True)
