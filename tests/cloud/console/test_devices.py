"""Letting a command line in."""

from __future__ import annotations

import pytest

from blindai.errors import BlindAIError
from cloud_scene import PLACE, CloudScene
from console_world import Person


def test_what_asks_is_shown_before_it_is_let_in(small_scene: CloudScene, alice: Person) -> None:
    people = small_scene.plane.people
    codes = people.device_codes("<b>laptop</b>", address=PLACE)
    page = f"/device?code={codes.user_code}"
    asked = alice.get(page)
    assert "<b>laptop</b>" in asked.words
    assert "<b>laptop" not in asked.text
    assert codes.user_code in asked.words
    # Looking at it is no approval.
    with pytest.raises(BlindAIError) as caught:
        people.device_token(codes.device_code)
    assert caught.value.code == "device.authorization_pending"
    answer = alice.submit(page, "/device", code=codes.user_code, decision="approve")
    assert answer.header("location") == "/device?done=approved"
    small_scene.clock.shift += 60
    token = people.device_token(codes.device_code)
    found = people.user_of_token(token.access_token)
    assert found is not None
    assert found.id == alice.id


@pytest.mark.parametrize("decision", ["deny", "", "Approve", "true"])
def test_whatever_is_no_approval_is_a_refusal(small_scene: CloudScene, alice: Person, decision: str) -> None:
    codes = small_scene.plane.people.device_codes("laptop", address=PLACE)
    answer = alice.submit("/device", "/device", code=codes.user_code, decision=decision)
    assert answer.header("location") == "/device?done=denied"
    with pytest.raises(BlindAIError) as caught:
        small_scene.plane.people.device_token(codes.device_code)
    assert caught.value.code == "device.access_denied"


@pytest.mark.parametrize("code", ["ABCD-EFGH", "x", "'; DROP--", "<script>", "a" * 3000])
def test_a_wrong_code_stands_with_the_reason(alice: Person, code: str) -> None:
    answer = alice.get(f"/device?code={code}")
    assert answer.status == 404
    place = answer.text[answer.text.index('id="code-wrong"') :]
    assert "device.code" in place[: place.index("</small>")]
    assert "<script>" not in answer.text
    assert alice.submit("/device", "/device", code=code, decision="approve").status == 404


def test_a_code_is_decided_about_once(small_scene: CloudScene, alice: Person, bob: Person) -> None:
    codes = small_scene.plane.people.device_codes("laptop", address=PLACE)
    alice.submit("/device", "/device", code=codes.user_code, decision="deny")
    answer = bob.submit("/device", "/device", code=codes.user_code, decision="approve")
    assert (answer.status, "device.code" in answer.text) == (404, True)


def test_guessing_codes_is_slowed(alice: Person) -> None:
    statuses = [alice.get(f"/device?code=ABCD-EFG{letter}").status for letter in "BCDFGHJKLMNPQ"]
    assert statuses[0] == 404
    assert statuses[-1] == 429


def test_the_link_of_the_command_line_asks_to_sign_in_first(stranger: Person) -> None:
    assert stranger.get("/device?code=ABCD-EFGH").header("location") == "/sign-in?next=/device%3Fcode%3DABCD-EFGH"
