"""What stands before every page: origin, session, token and role; and what is said where there is no page."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from blindai.cloud.console.application import ADDRESSES, OPEN
from blindai.web import csrf
from blindai.web.csrf import VISITOR_COOKIE
from blindai.web.forms import MAX_FORM_BYTES
from blindai.web.sessions import COOKIE, IDLE_SECONDS, LIFETIME_SECONDS
from cloud_scene import CloudScene
from console_world import Person

CHANGES = [one for one in (*OPEN, *ADDRESSES) if one.method == "POST"]


def filled_in(path: str) -> str:
    """A path of the table with something for each of its parts."""
    return path.format(namespace="alice", member="user-aaaaaaaaaaaaaaaa", key="bai_sk_00000000")


def test_every_address_of_an_account_asks_for_something_that_roles_decide() -> None:
    assert all((one.action is not None) == ("{namespace}" in one.path) for one in (*OPEN, *ADDRESSES))


def test_no_address_is_there_twice() -> None:
    named = [(one.method, one.path) for one in (*OPEN, *ADDRESSES)]
    assert len(named) == len(set(named))


def test_nothing_is_changed_for_another_site(alice: Person) -> None:
    token = alice.get("/account").csrf
    for address in CHANGES:
        answer = alice.post(filled_in(address.path), {"csrf": token}, site="cross-site")
        assert (answer.status, "csrf.cross_site" in answer.text) == (403, True), address.path


@pytest.mark.parametrize(("token", "code"), [("", "csrf.missing"), ("0" * 64, "csrf.wrong")])
def test_nothing_is_changed_without_the_token_of_the_session(alice: Person, token: str, code: str) -> None:
    alice.cookies[VISITOR_COOKIE] = "visitor"
    for address in CHANGES:
        answer = alice.post(filled_in(address.path), {"csrf": token})
        assert (answer.status, code in answer.text) == (403, True), address.path


def test_a_form_of_somebody_else_is_refused(alice: Person, bob: Person) -> None:
    answer = alice.post("/account/sign-out-everywhere", {"csrf": bob.get("/account").csrf})
    assert (answer.status, "csrf.wrong" in answer.text) == (403, True)
    assert alice.get("/account").status == 200


def test_a_visitor_without_a_cookie_has_no_token(stranger: Person) -> None:
    answer = stranger.post("/sign-in", {"csrf": csrf.token("")})
    assert (answer.status, "csrf.missing" in answer.text) == (403, True)


def test_whoever_is_not_signed_in_is_sent_to_the_sign_in(stranger: Person) -> None:
    for address in ADDRESSES:
        if address.method == "GET":
            answer = stranger.get(filled_in(address.path))
            assert answer.status == 303
            assert answer.header("location").startswith("/sign-in")
        else:
            assert stranger.post(filled_in(address.path), {}).header("location") == "/sign-in"
    assert stranger.get("/account", hx_request="true").status == 401


def test_a_page_that_was_asked_for_comes_after_the_sign_in(small_scene: CloudScene, stranger: Person) -> None:
    small_scene.join("alice")
    there = "/accounts/alice/audit?before=50"
    asked = stranger.get(there).header("location")
    assert f'name="next" value="{there}"' in stranger.get(asked).text
    form = {"email": "alice@example.com", "password": "correct horse battery staple", "next": there}
    assert stranger.submit(asked, "/sign-in", **form).header("location") == there


@pytest.mark.parametrize(
    "address", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
def test_a_link_to_the_sign_in_leads_nowhere_else(small_scene: CloudScene, stranger: Person, address: str) -> None:
    small_scene.join("alice")
    form = {"email": "alice@example.com", "password": "correct horse battery staple", "next": address}
    assert stranger.submit("/sign-in", "/sign-in", **form).header("location") == "/"


def test_a_link_from_another_site_is_followed_once_more_from_ours(stranger: Person) -> None:
    # The cookies of a session are not sent with it; a page of ours asks again.
    answer = stranger.get("/invitation?link=a%22b", sec_fetch_site="cross-site")
    assert answer.status == 200
    assert '<meta http-equiv="refresh" content="0">' in answer.text
    assert 'href="/invitation?link=a%22b"' in answer.text
    assert stranger.get("/invitation?link=a", sec_fetch_site="same-origin").status == 303


def test_a_stolen_cookie_is_worth_nothing_after_the_sign_out(small_scene: CloudScene, alice: Person) -> None:
    thief = Person(small_scene, "alice")
    thief.cookies = dict(alice.cookies)
    assert thief.get("/account").status == 200
    answer = alice.submit("/account", "/sign-out")
    assert answer.header("location") == "/sign-in"
    assert "cache" in answer.header("clear-site-data")
    assert COOKIE not in alice.cookies
    assert thief.get("/account").status == 303
    assert thief.post("/account/sign-out-everywhere", {}).header("location") == "/sign-in"


@pytest.mark.parametrize("seconds", [IDLE_SECONDS, LIFETIME_SECONDS])
def test_a_session_ends_by_itself(small_scene: CloudScene, alice: Person, seconds: int) -> None:
    small_scene.clock.shift += seconds
    assert alice.get("/account").header("location") == "/sign-in?next=/account"


def test_only_what_people_do_keeps_a_session_alive(small_scene: CloudScene, alice: Person) -> None:
    small_scene.clock.shift += IDLE_SECONDS - 60
    assert alice.get("/account", hx_request="true").status == 200
    small_scene.clock.shift += 60
    assert alice.get("/account").status == 303


def test_the_cookie_is_for_this_server_alone_and_no_script_reads_it(small_scene: CloudScene) -> None:
    small_scene.join("alice")
    answer = Person(small_scene, "alice").enter()
    (line,) = [value for name, value in answer.headers if name == "set-cookie" and value.startswith(COOKIE)]
    parts = {part.strip().lower() for part in line.split(";")[1:]}
    assert {"secure", "httponly", "samesite=strict", "path=/"} <= parts
    assert not any(part.startswith("domain") for part in parts)


def test_a_session_that_was_given_to_the_browser_is_not_used(small_scene: CloudScene, alice: Person) -> None:
    small_scene.join("bob")
    planted = alice.cookies[COOKIE]
    victim = Person(small_scene, "bob")
    victim.cookies[COOKIE] = planted
    assert victim.enter().status == 303
    assert victim.cookies[COOKIE] != planted
    assert alice.get("/account").status == 303


def test_an_account_of_others_looks_like_one_that_does_not_exist(alice: Person, bob: Person) -> None:
    others, nobodys = alice.get("/accounts/bob/members"), alice.get("/accounts/zed/members")
    assert others.status == nobodys.status == 404
    assert "account.unknown" in others.text
    assert others.words.replace("bob", "") == nobodys.words.replace("zed", "")


def test_a_form_that_is_too_large_is_refused(alice: Person) -> None:
    form = {"csrf": alice.get("/organisations/new").csrf, "name": "a" * MAX_FORM_BYTES}
    answer = alice.post("/organisations/new", form)
    assert (answer.status, "input.form" in answer.text) == (400, True)


def test_what_is_not_there_is_said_in_a_page(alice: Person, stranger: Person) -> None:
    known, unknown = alice.get("/nothing"), stranger.get("/nothing")
    assert known.status == unknown.status == 404
    assert "Sign out" in known.words
    assert "Sign in" in unknown.words
    answer = alice.request("PUT", "/device")
    assert answer.status == 405
    assert {"GET", "POST"} <= set(answer.header("allow").split(", "))


def test_no_page_is_kept_by_a_cache_or_runs_a_script_of_its_own(alice: Person) -> None:
    for path in ("/account", "/sign-in", "/nothing", "/account/export"):
        answer = alice.get(path)
        assert answer.header("cache-control") == "no-store"
        assert "script-src 'self'" in answer.header("content-security-policy")
        assert answer.header("referrer-policy") == "same-origin"


def test_head_is_answered_as_get(person: Callable[[str], Person]) -> None:
    assert person("alice").request("HEAD", "/account").status == 200
