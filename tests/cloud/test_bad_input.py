"""What strangers send to a control plane: nothing of it is run, believed, or tells them who else is there.

The routes come from the program itself, and what is sent from `cloud_rules`: a new form is tried without a word here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any, Final
from urllib.parse import quote, urlencode

import pytest
from sqlalchemy import func, select

from asgi_browser import HOST, Answer, Browser
from blindai.cloud import tables
from blindai.cloud.accounts import Role
from blindai.web import csrf
from blindai.web.passwords import Passwords
from blindai.web.sessions import COOKIE
from blindai.wire.cloud_api import PREFIX
from cloud_callers import VISITOR, Callers, organisation, user_id, ways
from cloud_rules import RULES
from cloud_scene import PASSWORD, CloudScene

WAYS: Final = {str(way): way for way in ways()}
CHANGING_PAGES: Final = [way for way in WAYS.values() if way.changes and way.kind != "api"]

PRODUCT: Final = str(1337 * 7331)

PAYLOADS: Final = {
    "what others run": (
        "'; DROP TABLE users; -- \" OR 1=1 UNION SELECT email, password FROM users -- "
        "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> "
        "{{1337*7331}}${1337*7331}#{1337*7331}<%= 1337*7331 %>{%raw%}%s%n"
    ),
    "line ends": "x\r\nSet-Cookie: stolen=1\r\nX-Injected: 1\r\n\r\nBcc: victim@example.com",
    "NUL": "x\0y",
    "look-alikes": "\u0430cme\u2024\uff41\u00e9\u202egpj.exe\u2066\u200f",
}
# Fits into the fields that have 64 characters, and comes back in pages.
SHORT: Final = "<script>alert(1)</script>\"'><b>{{1337*7331}}</b>' OR 1=1 --"


class World:
    """A control plane with one organisation and its admin, who is signed in."""

    def __init__(self, scene: CloudScene) -> None:
        self.scene = scene
        self.callers = Callers(scene)
        self.admin = scene.join("someone")
        scene.join("member")
        organisation(scene, self.admin, "ours", {"member": Role.VIEWER})
        self.parts = {
            "namespace": "ours",
            "member": user_id(scene, "member"),
            "key": scene.key(self.admin, "ours").id,
        }

    def sent(self, route: str) -> dict[str, Any]:
        """What is sent to a route where all is right."""
        rule = RULES[route]
        values = rule.form if WAYS[route].kind != "api" else (rule.body or {})
        return {name: str(value).replace("{role}", "somebody") for name, value in values.items()}

    def kept(self) -> dict[str, int]:
        """How many rows there are of what matters."""
        counted = (tables.namespaces, tables.members, tables.invitations, tables.api_keys, tables.access_tokens)
        with self.scene.plane.database.read() as connection:
            return {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in counted
            }


@pytest.fixture(scope="module")
def world(module_scene: CloudScene) -> World:
    return World(module_scene)


@pytest.fixture(scope="module")
def quiet_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """For tests after which all is as it was before."""
    with CloudScene(tmp_path_factory.mktemp("quiet")) as scene:
        yield World(scene)


@pytest.fixture
def small_world(small_scene: CloudScene) -> World:
    return World(small_scene)


def assert_harmless(answer: Answer, payload: str, route: str) -> None:
    """Whatever the answer is, it is one of ours, and the payload is text in it."""
    assert answer.status < 500, (route, answer.status)
    names = {name for name, _ in answer.headers}
    assert not names & {"x-injected", "bcc"}, route
    assert "stolen" not in answer.header("set-cookie"), route
    text = answer.body.decode()
    assert PRODUCT not in text, route
    if "<" in payload and "json" not in answer.header("content-type"):
        assert payload not in text, route
    location = answer.header("location")
    assert not location or (location.startswith("/") and not location.startswith("//")), (route, location)


# Injection.


def test_no_field_of_a_form_or_message_runs_anything(world: World, figures: Callable[[str], None]) -> None:
    statuses: Counter[int] = Counter()
    session = world.callers.session(world.admin)
    token = world.callers.token(world.admin)
    for route in (str(way) for way in WAYS.values() if way.changes):
        right = world.sent(route)
        for field in right:
            for name, payload in (PAYLOADS | {"short": SHORT}).items():
                wrong = right | {field: payload}
                answer = world.callers.call(
                    WAYS[route], parts=world.parts, session=session, token=token, form=wrong, body=wrong
                )
                assert_harmless(answer, payload, f"{route} {field} {name}")
                statuses[int(answer.status)] += 1
    assert world.scene.plane.people.user_of(session) is not None
    # All that came in stands in the pages as text.
    for way in WAYS.values():
        if way.method == "GET":
            answer = world.callers.call(way, parts=world.parts, session=session, token=token)
            assert_harmless(answer, SHORT, str(way))
            assert answer.status in {200, 303}
    assert SHORT in unescape(
        world.callers.call(WAYS["GET /accounts/{namespace}/keys"], parts=world.parts, session=session).text
    )
    figures(f"{statuses.total()} requests with something else in one field: {dict(sorted(statuses.items()))}")


def test_no_part_of_a_path_or_query_runs_anything(world: World) -> None:
    session, token = world.callers.session(world.admin), world.callers.token(world.admin)
    for way in WAYS.values():
        for part in (part for part in world.parts if f"{{{part}}}" in way.path):
            for payload in PAYLOADS.values():
                parts = world.parts | {part: quote(payload, safe="/")}
                form, body = RULES[str(way)].form, RULES[str(way)].body
                answer = world.callers.call(way, parts=parts, session=session, token=token, form=form, body=body)
                assert_harmless(answer, payload, str(way))
                assert answer.status == 404, (str(way), part, answer.status)
        if way.method == "GET":
            query = "?" + urlencode(dict.fromkeys(("next", "link", "code", "done", "before", "model"), SHORT))
            answer = world.callers.call(way, parts=world.parts, session=session, token=token, query=query)
            assert_harmless(answer, SHORT, str(way))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"csrf=%ff&email=%ff", "input.form"),
        (b"\xff\xfe", "input.form"),
        (b"a=1&" * 1000, "input.form"),
        (b"email=" + b"A" * (1 << 20), "input.form"),
        (b"{}", "csrf.missing"),
        (b"", "csrf.missing"),
        (b"csrf=&csrf=", "csrf.missing"),
        (b"--x\r\nContent-Disposition: form-data; name=csrf\r\n\r\n1\r\n--x--", "csrf.missing"),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else value,
)
def test_what_is_no_form_of_ours(quiet_world: World, body: bytes, code: str) -> None:
    session = quiet_world.callers.session(quiet_world.admin)
    for way in CHANGING_PAGES:
        browser = Browser(quiet_world.callers.application)
        browser.cookies |= {COOKIE: session, csrf.VISITOR_COOKIE: VISITOR}
        path = way.path.format(**quiet_world.parts)
        headers = {"sec-fetch-site": "same-origin", "content-type": "application/x-www-form-urlencoded"}
        answer = browser.request("POST", path, headers=headers, body=body)
        assert 400 <= answer.status < 500, str(way)
        assert code in answer.text, str(way)


# Enumeration.


class Work:
    """Counts what is dear: passwords that are hashed, and mails that are sent."""

    def __init__(self, scene: CloudScene, patch: pytest.MonkeyPatch) -> None:
        self.hashed = 0
        self._scene = scene
        self._mails = len(scene.mails())
        hash_one, verify = Passwords.hash, Passwords.verify

        def counting_hash(passwords: Passwords, password: str) -> str:
            self.hashed += 1
            return hash_one(passwords, password)

        def counting_verify(passwords: Passwords, stored: str | None, password: str) -> str | None:
            self.hashed += 1
            return verify(passwords, stored, password)

        patch.setattr(Passwords, "hash", counting_hash)
        patch.setattr(Passwords, "verify", counting_verify)

    def done(self) -> tuple[int, int]:
        """Passwords that were hashed and mails that were sent since the last time."""
        mails = len(self._scene.mails())
        done = (self.hashed, mails - self._mails)
        self.hashed, self._mails = 0, mails
        return done


def plain(answer: Answer, *repeated: str) -> tuple[int, str, list[tuple[str, str]]]:
    """An answer without what it repeats of the question, or says of this visit alone."""
    text = unescape(answer.text)
    for value in filter(None, (*repeated, answer.csrf)):
        text = text.replace(value, "-")
    return answer.status, text, [(name, value) for name, value in answer.headers if name != "content-length"]


@pytest.mark.parametrize(
    ("route", "form", "work"),
    [
        ("POST /sign-in", {"password": "not the password"}, [(1, 0), (1, 0)]),
        ("POST /sign-up", {"password": PASSWORD}, [(1, 1), (1, 1)]),
        ("POST /sign-up/passkey/options", {}, [(0, 0), (0, 0)]),
        # Nobody waits for this mail: `cloud.mail.Post` sends it in the background.
        ("POST /forgotten", {}, [(0, 1), (0, 0)]),
    ],
)
def test_nobody_hears_whether_an_address_is_known(
    small_world: World, monkeypatch: pytest.MonkeyPatch, route: str, form: dict[str, str], work: list[tuple[int, int]]
) -> None:
    """The same answer after the same work, byte for byte; only a mail tells, to whoever reads it."""
    assert small_world.scene.plane.people._passwords._nobody, "made once, and not counted"
    counted = Work(small_world.scene, monkeypatch)
    answers, done = {}, {}
    for number, email in enumerate(("someone@example.com", "nobody-at-all@example.com")):
        name = f"a-new-name-{number}"
        sent = form | {"email": email, "name": name}
        answer = small_world.callers.call(WAYS[route], form=sent)
        if route == "POST /sign-up/passkey/options":
            # Both are drawn: the challenge, and the id of the user to be.
            options = json.loads(answer.body)
            for drawn in (options.pop("challenge"), options["user"].pop("id")):
                assert len(drawn) >= 20
            answer = Answer(answer.status, answer.headers, json.dumps(options).encode())
        answers[email], done[email] = plain(answer, email, name), counted.done()
    one, other = answers.values()
    assert one == other
    assert list(done.values()) == work


def test_nobody_hears_which_token_or_code_there_was(small_world: World) -> None:
    callers, people = small_world.callers, small_world.scene.plane.people
    gone = callers.token(small_world.admin)
    people.give_token_back(gone)
    leaver = small_world.scene.join("leaver")
    left = callers.token(leaver)
    people.leave(leaver, confirm_email="leaver@example.com")
    unknown = gone[:-4] + "AAAA"
    for way in WAYS.values():
        if way.kind == "api" and way.needs_sign_in:
            answers = {
                plain(callers.call(way, parts=small_world.parts, token=token))[:2] for token in (gone, left, unknown)
            }
            assert len(answers) == 1
            assert answers.pop()[0] == 401
    codes = people.device_codes("laptop", address="192.0.2.1")
    small_world.scene.clock.shift += 3600
    taken = WAYS[f"POST {PREFIX}/device/tokens"]
    expired = callers.call(taken, body={"device_code": codes.device_code})
    never = callers.call(taken, body={"device_code": "A" * 43})
    assert plain(expired) == plain(never)
    typed = WAYS["POST /device"]
    session = callers.session(small_world.admin)
    answers = {
        plain(callers.call(typed, session=session, form={"code": code, "decision": "approve"}), code)[:2]
        for code in (codes.user_code, "BCDF-GHJK")
    }
    assert len(answers) == 1


def test_nobody_hears_which_links_there_were(small_world: World) -> None:
    callers, scene = small_world.callers, small_world.scene
    scene.plane.people.request_reset("someone@example.com", address="192.0.2.1")
    used = scene.mails("someone@example.com")[-1].link
    scene.plane.people.reset(used, PASSWORD + "!")
    again = {"new": PASSWORD + "?", "again": PASSWORD + "?"}
    for route in ("POST /verify", "POST /reset"):
        answers = {plain(callers.call(WAYS[route], form={"link": link} | again), link)[:2] for link in (used, "A" * 43)}
        assert len(answers) == 1, route


# Open redirects.

ELSEWHERE: Final = [
    "https://evil.example",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "javascript:alert(1)",
    "http:evil.example",
    "https:/evil.example",
    " //evil.example",
    "/%0a/evil.example\r\nLocation: https://evil.example",
    "data:text/html,x",
    "\u2044\u2044evil.example",
]


@pytest.mark.parametrize("address", ELSEWHERE, ids=ascii)
def test_signing_in_leads_nowhere_else(quiet_world: World, address: str) -> None:
    callers = quiet_world.callers
    page = callers.call(WAYS["GET /sign-in"], query="?" + urlencode({"next": address}))
    assert "evil.example" not in page.text
    assert "javascript:" not in page.text
    form = {"email": "someone@example.com", "password": PASSWORD, "next": address}
    answer = callers.call(WAYS["POST /sign-in"], form=form, headers={"referer": "https://evil.example/"})
    assert (answer.status, answer.header("location")) == (303, "/")


def test_a_page_that_was_asked_for_leads_to_itself_at_most(quiet_world: World) -> None:
    """Who is not signed in comes back to the page that they asked for, which is one of ours."""
    for way in WAYS.values():
        if way.kind != "page" or way.method != "GET":
            continue
        answer = quiet_world.callers.call(
            way, parts=quiet_world.parts, query="?x=//evil.example", headers={"host": "evil.example"}
        )
        location = answer.header("location")
        assert location == "/sign-in" or location.startswith("/sign-in?next=/"), str(way)
    browser = Browser(quiet_world.callers.application)
    for path in ("//evil.example/", "/%2f/evil.example", "/\\evil.example", "/..//evil.example"):
        for headers in ({}, {"sec-fetch-site": "cross-site"}):
            answer = browser.get(path, **headers)
            assert answer.status == 404
            assert "location" not in dict(answer.headers)


# Sessions.


def test_a_session_is_dead_after_it_was_ended(small_world: World) -> None:
    callers, people, admin = small_world.callers, small_world.scene.plane.people, small_world.admin
    pages = [way for way in WAYS.values() if way.kind == "page"]
    ends: dict[str, Callable[[str], object]] = {
        "signed out": lambda session: callers.call(WAYS["POST /sign-out"], session=session),
        "signed out everywhere": lambda session: callers.call(
            WAYS["POST /account/sign-out-everywhere"], session=callers.session(admin)
        ),
        "password changed": lambda session: people.change_password(
            admin, PASSWORD, PASSWORD + "!", keep=callers.session(admin)
        ),
        "password reset": lambda session: _reset(small_world),
        "left": lambda session: _left(small_world),
    }
    for name, end in ends.items():
        session, token = callers.session(admin), callers.token(admin)
        assert people.user_of(session) is not None
        end(session)
        for way in pages:
            answer = callers.call(way, parts=small_world.parts, session=session)
            assert (answer.status, answer.header("location")[:8]) == (303, "/sign-in"), (name, str(way))
        if name != "signed out":
            assert people.user_of_token(token) is None, name


def _reset(world: World) -> None:
    world.scene.plane.people.request_reset("someone@example.com", address="192.0.2.1")
    world.scene.plane.people.reset(world.scene.mails("someone@example.com")[-1].link, PASSWORD + "?")


def _left(world: World) -> None:
    world.scene.plane.accounts.close(world.admin, "ours")
    world.scene.plane.people.leave(world.admin, confirm_email="someone@example.com")


def test_a_session_that_was_planted_is_not_taken_over(quiet_world: World) -> None:
    """Signing in makes a new id, whatever the browser had before (session fixation)."""
    planted = "planted-by-somebody-else"
    form = {"email": "someone@example.com", "password": PASSWORD}
    answer = quiet_world.callers.call(WAYS["POST /sign-in"], session=planted, form=form)
    cookies = [value for name, value in answer.headers if name == "set-cookie"]
    given = next(value for value in cookies if value.startswith(f"{COOKIE}="))
    assert planted not in given
    for attribute in ("Secure", "HttpOnly", "SameSite=strict", "Path=/"):
        assert attribute in given
    assert "Domain" not in given
    assert quiet_world.scene.plane.people.user_of(planted) is None


# Requests of other sites.


@pytest.mark.parametrize(
    ("headers", "token", "code"),
    [
        ({"sec-fetch-site": "same-origin"}, None, "csrf.missing"),
        ({"sec-fetch-site": "same-origin"}, "", "csrf.missing"),
        ({"sec-fetch-site": "same-origin"}, "0" * 64, "csrf.wrong"),
        ({"sec-fetch-site": "same-origin"}, "of another session", "csrf.wrong"),
        ({"sec-fetch-site": "same-origin"}, "\u0430" * 64, "csrf.wrong"),
        ({"sec-fetch-site": "cross-site"}, "right", "csrf.cross_site"),
        ({"sec-fetch-site": "same-site"}, "right", "csrf.cross_site"),
        ({"sec-fetch-site": "none"}, "right", "csrf.cross_site"),
        ({"origin": "https://evil.example"}, "right", "csrf.cross_site"),
        ({"origin": f"http://{HOST}"}, "right", "csrf.cross_site"),
        ({"origin": "null"}, "right", "csrf.cross_site"),
        ({}, "right", "csrf.origin"),
    ],
)
def test_no_other_site_changes_anything(
    quiet_world: World, headers: dict[str, str], token: str | None, code: str
) -> None:
    callers = quiet_world.callers
    session, other = callers.session(quiet_world.admin), callers.session(quiet_world.admin)
    before = quiet_world.kept()
    for way in CHANGING_PAGES:
        cookie = VISITOR if way.kind == "open page" else session
        tokens = {"right": csrf.token(cookie), "of another session": csrf.token(other)}
        browser = Browser(callers.application)
        browser.cookies |= {COOKIE: session, csrf.VISITOR_COOKIE: VISITOR}
        form = quiet_world.sent(str(way)) | ({} if token is None else {csrf.FIELD: tokens.get(token, token)})
        sent = {"content-type": "application/x-www-form-urlencoded"} | headers
        path = way.path.format(**quiet_world.parts)
        answer = browser.request("POST", path, headers=sent, body=urlencode(form).encode())
        assert answer.status == 403, (str(way), answer.status)
        assert code in answer.text, str(way)
    assert quiet_world.kept() == before
    assert quiet_world.scene.plane.people.user_of(session) is not None


def test_a_page_that_is_only_looked_at_changes_nothing(small_world: World) -> None:
    """Programs that look at mails, and browsers that fetch ahead, follow every link."""
    session, token = small_world.callers.session(small_world.admin), small_world.callers.token(small_world.admin)
    scene = small_world.scene
    scene.plane.people.sign_up("newcomer@example.com", PASSWORD, "newcomer", address="192.0.2.1")
    link = scene.mails("newcomer@example.com")[-1].link
    before = small_world.kept()
    for way in WAYS.values():
        if way.method == "GET":
            answer = small_world.callers.call(
                way, parts=small_world.parts, session=session, token=token, query=f"?link={link}"
            )
            assert answer.status < 400
    assert small_world.kept() == before
    # The link still does what it is for.
    assert scene.plane.people.verify(link).verified


# The Host header.


def test_no_header_says_where_a_link_leads(small_world: World) -> None:
    """Links in mails and codes come from the site's own address."""
    scene, callers = small_world.scene, small_world.callers
    lies = {
        "host": "evil.example",
        "x-forwarded-host": "evil.example",
        "forwarded": "host=evil.example;proto=http",
        "x-original-url": "https://evil.example/",
    }
    session = callers.session(small_world.admin)
    before = len(scene.mails())
    answers = [
        callers.call(
            WAYS["POST /sign-up"],
            form={"email": "a@b.example", "password": PASSWORD, "name": "new-one"},
            headers=lies,
        ),
        callers.call(WAYS["POST /forgotten"], form={"email": "someone@example.com"}, headers=lies),
        callers.call(
            WAYS["POST /accounts/{namespace}/invitations"],
            parts=small_world.parts,
            session=session,
            form={"email": "guest@example.com", "role": "viewer"},
            headers=lies,
        ),
        callers.call(WAYS[f"POST {PREFIX}/device/codes"], body={"name": "laptop"}, headers=lies),
        *(
            callers.call(way, parts=small_world.parts, session=session, headers=lies)
            for way in WAYS.values()
            if way.method == "GET"
        ),
    ]
    for answer in answers:
        assert "evil.example" not in answer.text
        assert all("evil.example" not in field for _, field in answer.headers)
    sent = scene.mails()[before:]
    assert len(sent) == 3
    for mail in sent:
        assert "evil.example" not in mail.text
        assert f"{scene.plane.site.url}/" in mail.text


# Caches.


def test_no_cache_keeps_an_answer(quiet_world: World) -> None:
    session, token = quiet_world.callers.session(quiet_world.admin), quiet_world.callers.token(quiet_world.admin)
    for way in WAYS.values():
        for who in (session, ""):
            rule = RULES[str(way)]
            answer = quiet_world.callers.call(
                way, parts=quiet_world.parts, session=who, token=token if who else "", body=rule.body
            )
            assert answer.header("cache-control") == "no-store", str(way)
            assert answer.header("x-content-type-options") == "nosniff", str(way)
            assert answer.header("x-frame-options") == "DENY", str(way)
            assert "default-src 'none'" in answer.header("content-security-policy"), str(way)
            assert answer.header("access-control-allow-origin") == "", str(way)
            if way.path in {"/sign-out", "/account/sign-out-everywhere"}:
                session = quiet_world.callers.session(quiet_world.admin)
                token = quiet_world.callers.token(quiet_world.admin)
