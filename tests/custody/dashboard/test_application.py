"""What stands before every page: sign-in, role, origin, token; and what every answer carries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from asgi_browser import HOST, Browser
from blindai.custody.dashboard.application import ADDRESSES, OPEN, Address
from blindai.custody.operators import ALLOWED, Action
from blindai.web.sessions import COOKIE
from custodian_scene import OPERATORS, PASSWORD, Scene

UNSAFE = [one for one in ADDRESSES if one.method == "POST"]
STREAMS = {"/leases/changes", "/leases/{lease}/changes"}


def called(address: Address) -> str:
    return f"{address.method} {address.path}"


def path_of(address: Address, scene: Scene) -> str:
    leases = scene.ledger.leases()
    lease = leases[0].id if leases else scene.lease().id
    return address.path.format(
        lease=lease,
        request="request-aaaaaaaaaaaaaaaa",
        proposal="proposal-aaaaaaaaaaaaaaaa",
        consumer="alice",
        name="vera",
    )


def test_every_address_that_changes_something_is_a_post_and_no_get_does() -> None:
    words = {"stop", "pause", "resume", "raise", "approve", "deny", "agree", "withdraw", "token", "verify"}
    for address in ADDRESSES:
        last = address.path.rpartition("/")[2]
        if address.method == "GET":
            assert last not in words - {"stop", "pause", "resume"}
            assert address.action is not None or address.path in {"/", "/account"}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("address", [one for one in ADDRESSES if one.path not in STREAMS], ids=called)
def test_each_role_gets_to_what_it_may_do_and_no_further(
    scene: Scene, signed_in: Callable[[str], Browser], name: str, address: Address
) -> None:
    browser = signed_in(name)
    path = path_of(address, scene)
    entries = scene.ledger.entries()
    answer = browser.get(path) if address.method == "GET" else browser.submit("/account", path)
    allowed = address.action is None or address.action in ALLOWED[OPERATORS[name]]
    if allowed:
        assert "operator.role" not in answer.text
        assert answer.status in {200, 303, 400, 401, 404, 409}, answer.words
    else:
        assert answer.status == 403
        assert "operator.role" in answer.text
        assert scene.ledger.entries() == entries


@pytest.mark.parametrize("address", ADDRESSES, ids=called)
def test_nobody_gets_anywhere_without_signing_in(scene: Scene, application: Any, address: Address) -> None:
    path = path_of(address, scene)
    entries = scene.ledger.entries()
    for cookie in ("", "forged", "A" * 43):
        browser = Browser(application)
        if cookie:
            browser.cookies[COOKIE] = cookie
        answer = browser.get(path) if address.method == "GET" else browser.post(path)
        assert answer.status == 303
        assert answer.header("location").startswith("/sign-in")
    assert scene.ledger.entries() == entries


FORGED = [
    ("mine", "cross-site", "csrf.cross_site"),
    ("mine", "same-site", "csrf.cross_site"),
    ("mine", "none", "csrf.cross_site"),
    ("mine", None, "csrf.origin"),
    ("", "same-origin", "csrf.missing"),
    ("0" * 64, "same-origin", "csrf.wrong"),
    ("another's", "same-origin", "csrf.wrong"),
]


@pytest.mark.parametrize("address", UNSAFE, ids=called)
def test_a_request_that_our_pages_did_not_make_is_refused(
    scene: Scene, signed_in: Callable[[str], Browser], address: Address
) -> None:
    browser = signed_in("root")
    tokens = {"mine": browser.get("/account").csrf, "another's": signed_in("root").get("/account").csrf}
    path = path_of(address, scene)
    entries = scene.ledger.entries()
    for token, site, code in FORGED:
        answer = browser.post(path, {"csrf": tokens.get(token, token)}, site=site)
        assert answer.status == 403
        assert code in answer.text
    assert scene.ledger.entries() == entries
    assert browser.get("/account").status == 200


def test_an_older_browser_is_known_by_its_origin(scene: Scene, ada: Browser) -> None:
    lease = scene.lease()
    form = {"csrf": ada.get("/account").csrf}
    foreign = ada.post(f"/leases/{lease.id}/stop", form, site=None, origin="https://evil.example")
    assert (foreign.status, "csrf.cross_site" in foreign.text) == (403, True)
    assert ada.post(f"/leases/{lease.id}/stop", form, site=None, origin=f"https://{HOST}").status == 303


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_do_nothing(scene: Scene, ada: Browser, method: str) -> None:
    lease = scene.lease()
    assert ada.request(method, f"/leases/{lease.id}/stop").status == 405


@pytest.mark.parametrize(
    "path", ["/leases", "/sign-in", "/nothing", "/leases/nothing", "/operators", "/assets/nothing.css"]
)
def test_every_answer_forbids_what_no_page_does(ada: Browser, path: str) -> None:
    answer = ada.get(path)
    policy = dict(part.split(" ", 1) for part in answer.header("content-security-policy").split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert not any(word in answer.header("content-security-policy") for word in ("unsafe", "*", "http"))
    assert answer.header("x-content-type-options") == "nosniff"
    assert answer.header("referrer-policy") == "same-origin"
    assert answer.header("cache-control") == "no-store"
    assert len([name for name, _ in answer.headers if name == "content-security-policy"]) == 1


@pytest.mark.parametrize("path", ["/leases", "/sign-in", "/operators", "/account", "/nothing"])
def test_no_page_holds_a_script_or_a_style_of_its_own(signed_in: Callable[[str], Browser], path: str) -> None:
    text = signed_in("root").get(path).text
    assert "<style" not in text
    assert " style=" not in text
    assert " onclick" not in text
    assert all(" src=" in part[:60] for part in text.split("<script")[1:])


def test_assets_may_be_kept(ada: Browser) -> None:
    text = ada.get("/leases").text
    address = text.partition('href="/assets/dashboard.')[2].partition('"')[0]
    answer = ada.get("/assets/dashboard." + address)
    assert answer.status == 200
    assert "immutable" in answer.header("cache-control")


@pytest.mark.parametrize(
    "path", ["/nothing", "/leases/" + "a" * 5000, "/leases/%00", "/leases/%ff", "/leases/..%2f..%2fetc"]
)
def test_what_is_not_there_is_said_in_words(ada: Browser, path: str) -> None:
    answer = ada.get(path)
    assert answer.status == 404
    assert "<h1>Not Found</h1>" in answer.text


@pytest.mark.parametrize(
    "body", [b"%", b"\xff\xfe", b"csrf=%ff", b"&" * 50 + b"a=1" * 20, b"a=" + b"1" * 20_000, b"{}", b"a=1&" * 100]
)
def test_a_body_that_is_no_form_of_ours(ada: Browser, body: bytes) -> None:
    answer = ada.request("POST", "/sign-out", headers={"sec-fetch-site": "same-origin"}, body=body)
    assert answer.status in {400, 403}
    assert "input.form" in answer.text or "csrf." in answer.text
    assert ada.get("/leases").status == 200


def test_the_open_pages_are_the_sign_in_alone() -> None:
    assert {one.path for one in OPEN} == {"/sign-in"}
    assert {one.action for one in ADDRESSES} == {None, *Action}


def test_a_page_that_refreshes_itself_does_not_keep_the_session_alive(scene: Scene, ada: Browser) -> None:
    for _ in range(4):
        scene.sign_in_clock.now += 10 * 60
        last = ada.get("/leases", hx_request="true")
    assert last.status == 401
    assert ada.sign_in("ada", PASSWORD).status == 303
    for _ in range(4):
        scene.sign_in_clock.now += 10 * 60
        assert ada.get("/leases").status == 200
