"""Signing in and out: fixed and stolen sessions, guessing, links that lead elsewhere; and the accounts' own pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from asgi_browser import Browser
from blindai.custody.dashboard.visit import HOME
from blindai.custody.operators import Role
from blindai.web import calls
from blindai.web.csrf import VISITOR_COOKIE
from blindai.web.sessions import COOKIE, IDLE_SECONDS, LIFETIME_SECONDS
from custodian_scene import PASSWORD, Scene

OTHER = "another long pass phrase"


@pytest.fixture
def visitor(application: Any) -> Browser:
    return Browser(application)


def test_the_cookie_is_for_this_server_alone_and_no_script_reads_it(visitor: Browser) -> None:
    answer = visitor.sign_in("ada", PASSWORD)
    (line,) = [value for name, value in answer.headers if name == "set-cookie" and value.startswith(COOKIE)]
    parts = {part.strip().lower() for part in line.split(";")[1:]}
    assert {"secure", "httponly", "samesite=strict", "path=/"} <= parts
    assert COOKIE.startswith("__Host-")
    assert not any(part.startswith("domain") for part in parts)


def test_a_session_that_somebody_gave_the_browser_is_not_used(visitor: Browser) -> None:
    visitor.cookies[COOKIE] = "fixed-by-an-attacker"
    assert visitor.sign_in("ada", PASSWORD).status == 303
    assert visitor.cookies[COOKIE] != "fixed-by-an-attacker"
    attacker = Browser(visitor.application)
    attacker.cookies[COOKIE] = "fixed-by-an-attacker"
    assert attacker.get("/leases").status == 303


def test_a_session_of_the_attackers_own_is_left_and_ended(signed_in: Callable[[str], Browser]) -> None:
    attacker = signed_in("vera")
    planted = attacker.cookies[COOKIE]
    victim = Browser(attacker.application)
    victim.cookies[COOKIE] = planted
    assert victim.sign_in("root", PASSWORD).status == 303
    assert victim.cookies[COOKIE] != planted
    assert attacker.get("/leases").status == 303


def test_a_stolen_cookie_is_worth_nothing_after_the_sign_out(ada: Browser) -> None:
    thief = Browser(ada.application)
    thief.cookies = dict(ada.cookies)
    assert thief.get("/leases").status == 200
    answer = ada.submit("/account", "/sign-out")
    assert answer.header("location") == "/sign-in"
    assert COOKIE not in ada.cookies
    assert "cache" in answer.header("clear-site-data")
    assert thief.get("/leases").status == 303
    assert thief.get("/leases", hx_request="true").status == 401
    assert thief.get("/leases/changes", accept="text/event-stream").status == 401


@pytest.mark.parametrize("seconds", [IDLE_SECONDS, LIFETIME_SECONDS])
def test_a_session_ends_by_itself(scene: Scene, ada: Browser, seconds: int) -> None:
    scene.sign_in_clock.now += seconds
    assert ada.get("/leases").header("location") == "/sign-in"


def test_guessing_is_slowed_and_says_for_how_long(scene: Scene, visitor: Browser) -> None:
    statuses = []
    for _ in range(8):
        answer = visitor.sign_in("ada", OTHER)
        statuses.append(answer.status)
    assert statuses == [401] * 5 + [429] * 3
    assert answer.header("retry-after") == "1"
    assert "authentication.throttled" in answer.text
    assert visitor.sign_in("ada", PASSWORD).status == 429
    assert Browser(visitor.application, address="198.51.100.7").sign_in("ada", PASSWORD).status == 303
    scene.sign_in_clock.now += 1
    assert visitor.sign_in("ada", PASSWORD).status == 303


def test_a_hundred_guesses_in_a_minute_are_a_dozen(scene: Scene, visitor: Browser) -> None:
    taken = 0
    for _ in range(100):
        scene.sign_in_clock.now += 0.6
        taken += visitor.sign_in("ada", OTHER).status == 401
    assert taken <= 12


def test_a_crowd_that_signs_in_does_not_keep_operators_from_the_pages(
    scene: Scene, ada: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MAX_WAITING_PASSWORDS", 0)
    crowded = Browser(ada.application).sign_in("ada", PASSWORD)
    assert (crowded.status, "busy" in crowded.text) == (503, True)
    lease = scene.lease().id
    assert ada.submit(f"/leases/{lease}/stop", f"/leases/{lease}/stop").status == 303


def test_what_is_wrong_is_not_said(visitor: Browser) -> None:
    known = visitor.sign_in("ada", OTHER)
    unknown = visitor.sign_in("eve", OTHER)
    assert known.status == unknown.status == 401
    assert known.words.replace("ada", "") == unknown.words.replace("eve", "")


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '"><img src=x>', "\u202eada", "a" * 5000, "'; DROP--", ""]
)
def test_the_name_that_was_typed_comes_back_as_text(visitor: Browser, name: str) -> None:
    answer = visitor.sign_in(name, OTHER)
    assert answer.status == 401
    assert "<script>alert" not in answer.text
    assert "<img" not in answer.text
    assert OTHER not in answer.text


def test_the_sign_in_needs_the_visitors_own_token(visitor: Browser) -> None:
    other = Browser(visitor.application)
    foreign = other.get("/sign-in").csrf
    visitor.get("/sign-in")
    form = {"name": "ada", "password": PASSWORD}
    assert "csrf.wrong" in visitor.post("/sign-in", form | {"csrf": foreign}).text
    assert "csrf.missing" in visitor.post("/sign-in", form).text
    assert "csrf.cross_site" in visitor.post("/sign-in", form, site="cross-site").text
    assert COOKIE not in visitor.cookies
    assert VISITOR_COOKIE in visitor.cookies


def test_the_page_that_was_asked_for_comes_after_the_sign_in(scene: Scene, visitor: Browser) -> None:
    lease = scene.lease()
    asked = visitor.get(f"/leases/{lease.id}/log?to=50").header("location")
    assert asked == f"/sign-in?next=/leases/{lease.id}/log%3Fto%3D50"
    assert f'name="next" value="/leases/{lease.id}/log?to=50"' in visitor.get(asked).text
    answer = visitor.sign_in("ada", PASSWORD, next_page=f"/leases/{lease.id}/log?to=50")
    assert answer.header("location") == f"/leases/{lease.id}/log?to=50"


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "\t//evil.example",
        " //evil.example",
        "javascript:alert(1)",
        "data:text/html,x",
        "evil.example",
        "",
        "/\u2044evil.example",
        "https:/evil.example",
        "/leases\r\nset-cookie: a=b",
    ],
)
def test_a_link_to_the_sign_in_leads_nowhere_else(visitor: Browser, address: str) -> None:
    assert visitor.sign_in("ada", PASSWORD, next_page=address).header("location") == HOME


def test_changing_ones_password_takes_the_old_one_and_signs_out(ada: Browser) -> None:
    wrong = ada.submit("/account", "/account/password", old=OTHER, new=OTHER, again=OTHER)
    assert (wrong.status, "authentication.password" in wrong.text) == (401, True)
    differ = ada.submit("/account", "/account/password", old=PASSWORD, new=OTHER, again=OTHER + "x")
    assert "password.repeat" in differ.text
    weak = ada.submit("/account", "/account/password", old=PASSWORD, new="short", again="short")
    assert (weak.status, "password.length" in weak.text) == (400, True)
    done = ada.submit("/account", "/account/password", old=PASSWORD, new=OTHER, again=OTHER)
    assert "signed out everywhere" in ada.get(done.header("location")).words
    assert ada.get("/leases").status == 303
    assert ada.sign_in("ada", PASSWORD).status == 401
    assert ada.sign_in("ada", OTHER).status == 303


def test_guessing_the_old_password_is_slowed_too(ada: Browser) -> None:
    statuses = [ada.submit("/account", "/account/password", old=OTHER, new=OTHER, again=OTHER).status for _ in range(8)]
    assert statuses[-1] == 429


def test_an_admin_makes_shuts_and_opens_accounts(scene: Scene, signed_in: Callable[[str], Browser]) -> None:
    root = signed_in("root")
    made = root.submit("/operators", "/operators", name="eve", role="viewer", new=OTHER, again=OTHER)
    assert made.header("location") == "/operators?done=added"
    assert scene.operators.find("eve").role is Role.VIEWER
    assert "The account was made." in root.get("/operators?done=added").words
    eve = Browser(root.application)
    eve.sign_in("eve", OTHER)
    assert eve.get("/leases").status == 200
    root.submit("/operators", "/operators/eve/disable")
    assert eve.get("/leases").status == 303
    assert "shut" in root.get("/operators").words
    root.submit("/operators", "/operators/eve/enable")
    root.submit("/operators", "/operators/eve/password", new=PASSWORD, again=PASSWORD)
    assert eve.sign_in("eve", PASSWORD).status == 303


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"name": "<b>eve</b>"}, "operator.name"),
        ({"name": "ada"}, "operator.exists"),
        ({"role": "god"}, "operator.unknown_role"),
        ({"again": PASSWORD}, "password.repeat"),
        ({"new": "short", "again": "short"}, "password.length"),
        ({"name": "another"}, "password.name"),
    ],
)
def test_an_account_that_cannot_be_made(
    scene: Scene, signed_in: Callable[[str], Browser], form: dict[str, str], code: str
) -> None:
    root = signed_in("root")
    before = scene.operators.all()
    answer = root.submit(
        "/operators", "/operators", **({"name": "eve", "role": "viewer", "new": OTHER, "again": OTHER} | form)
    )
    assert 400 <= answer.status < 500
    assert code in answer.text
    assert "<b>eve" not in answer.text
    assert OTHER not in answer.text
    assert scene.operators.all() == before


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/operators/root/disable", "operator.last_admin"),
        ("/operators/nobody/disable", "operator.unknown"),
        ("/operators/nobody/enable", "operator.unknown"),
        ("/operators/nobody/password", "operator.unknown"),
        ("/operators/%3Cscript%3E/disable", "operator.unknown"),
    ],
)
def test_an_account_that_cannot_be_changed(signed_in: Callable[[str], Browser], path: str, code: str) -> None:
    root = signed_in("root")
    answer = root.submit("/operators", path, new=OTHER, again=OTHER)
    assert 400 <= answer.status < 500
    assert code in answer.text
    assert "<script>" not in answer.text


def test_the_log_tells_who_came_and_what_became_of_accounts_and_no_secret(
    signed_in: Callable[[str], Browser], visitor: Browser
) -> None:
    with capture_logs() as lines:
        root = signed_in("root")
        visitor.sign_in(PASSWORD, "typed into the wrong field")
        root.submit("/operators", "/operators", name="eve", role="viewer", new=OTHER, again=OTHER)
        root.submit("/operators", "/operators/eve/password", new=PASSWORD, again=PASSWORD)
        root.submit("/operators", "/operators/eve/disable")
        root.submit("/operators", "/operators/eve/enable")
        cookie = root.cookies[COOKIE]
        root.submit("/account", "/sign-out")
    told = [(line["event"], line.get("operator", ""), line.get("by", "")) for line in lines]
    assert told == [
        ("signed_in", "root", ""),
        ("sign_in_refused", "", ""),
        ("operator_added", "eve", "root"),
        ("password_changed", "eve", "root"),
        ("operator_disabled", "eve", "root"),
        ("operator_enabled", "eve", "root"),
        ("signed_out", "root", ""),
    ]
    for secret in (PASSWORD, OTHER, cookie, "wrong field"):
        assert secret not in str(lines)


def test_words_in_an_address_are_not_shown(ada: Browser) -> None:
    lease_page = ada.get("/sign-in?done=<script>alert(1)</script>&next=<script>")
    assert "<script>alert" not in lease_page.text
    assert "alert(1)" not in lease_page.text
