"""Every route of the control plane is tried by everybody: what each of them gets is said by a table of rules.

A route without a rule (`cloud_rules.RULES`) fails, and so does a rule without a route.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
from sqlalchemy import insert, select, update

from blindai.cloud import tables
from blindai.cloud.accounts import Role
from cloud_callers import Callers, Way, organisation, user_id, ways
from cloud_rules import ACCOUNT, RULES, Least, Rule
from cloud_scene import CloudScene

# Who there is, and up to where they get. None: nowhere where one must be signed in.
ROLES: Final[dict[str, Least | None]] = {
    "nobody": None,
    "unverified": None,
    "gone": None,
    "expired": None,
    "api-key": None,
    "stranger": Least.SIGNED_IN,
    "removed": Least.SIGNED_IN,
    "viewer": Least.VIEWER,
    "developer": Least.DEVELOPER,
    "admin": Least.ADMIN,
}

SIGN_IN: Final = "sign in"


@dataclass
class Person:
    """Somebody who tries the routes, the account that they try them on, and what is in it."""

    name: str
    user: str
    parts: dict[str, str]
    key: str = ""


class World:
    """A control plane with one person of each role.

    Each member has an organisation of their own to spoil; all others try one that is no business of theirs.
    """

    def __init__(self, scene: CloudScene) -> None:
        self.scene = scene
        self.callers = Callers(scene)
        self.boss = scene.join("boss")
        self.target = scene.join("target")
        users = {name: "" if name == "nobody" else scene.join(f"a-{name}", f"{name}@example.com") for name in ROLES}
        self.people = {name: self._person(name, user) for name, user in users.items()}
        # What they were comes to an end after it began.
        scene.plane.people.leave(users["gone"], confirm_email="gone@example.com")
        scene.plane.accounts.remove_member(self.boss, "of-removed", users["removed"])
        with scene.plane.database.write() as connection:
            unverified = update(tables.users).where(tables.users.c.id == users["unverified"])
            connection.execute(unverified.values(verified_at=None))

    def _person(self, name: str, user: str) -> Person:
        members = {"target": Role.VIEWER}
        own = {"viewer": Role.VIEWER, "developer": Role.DEVELOPER, "admin": Role.ADMIN, "removed": Role.ADMIN}
        namespace = f"of-{name}" if name in own else "of-boss"
        if name in own or name == "nobody":
            organisation(self.scene, self.boss, namespace, members | ({name: own[name]} if name in own else {}))
        maker = user if name == "developer" else self.boss
        parts = {"namespace": namespace, "member": self.target, "key": self.scene.key(maker, namespace).id}
        secret = self.scene.key(self.boss, namespace).text if name == "api-key" else ""
        return Person(name, user, parts, secret)

    def tried(self, way: Way, rule: Rule, name: str) -> str:
        """What somebody is answered."""
        person = self.people[name]
        form = {field: value.replace("{role}", name) for field, value in rule.form.items()}
        answer = self.callers.call(
            way,
            parts=person.parts,
            session=self._session(person),
            token=self._token(person),
            form=form,
            body=rule.body,
        )
        away = answer.header("location").startswith("/sign-in") and not answer.header("clear-site-data")
        return SIGN_IN if answer.status == 303 and away else str(answer.status)

    def _session(self, person: Person) -> str:
        if person.key:
            return person.key
        session = self.callers.session(person.user) if person.user else ""
        if person.name == "expired":
            self._age(tables.sessions, "seen_at")
        return session

    def _token(self, person: Person) -> str:
        if person.key:
            return person.key
        token = self.callers.token(person.user) if person.user else ""
        if person.name == "expired":
            self._age(tables.access_tokens, "used_at")
        return token

    def _age(self, table: Any, column: str) -> None:
        """Of this person's, as nobody else's is kept from one request to the next."""
        owner = table.c.account if table is tables.sessions else table.c.user
        with self.scene.plane.database.write() as connection:
            old = update(table).where(owner == self.people["expired"].user)
            connection.execute(old.values({column: 0, "created_at": 0}))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with CloudScene(tmp_path_factory.mktemp("matrix")) as scene:
        yield World(scene)


def expected(way: Way, rule: Rule, name: str) -> str:
    """The rule, for one role."""
    reach = ROLES[name]
    if rule.least is Least.ANYBODY or (reach is not None and reach >= rule.least):
        return str(rule.answer)
    if reach is None:
        return "401" if way.kind == "api" else SIGN_IN
    # To who is no member, there is no such account.
    return "404" if reach is Least.SIGNED_IN else "403"


def test_every_route_has_a_rule_and_every_rule_a_route() -> None:
    routes = [str(way) for way in ways()]
    assert len(routes) == len(set(routes)), "two handlers have one address"
    assert set(routes) == RULES.keys()


def test_signing_in_is_asked_for_where_the_rules_say_so() -> None:
    assert {str(way) for way in ways() if way.needs_sign_in} == {
        route for route, rule in RULES.items() if rule.least > Least.ANYBODY
    }


def test_every_route_answers_every_role_by_its_rule(world: World, figures: Callable[[str], None]) -> None:
    by_name = {str(way): way for way in ways()}
    wrong = []
    head = " ".join(f"{name:>10}" for name in ROLES)
    figures(f"{'route':<52} {head}")
    for route, rule in RULES.items():
        way = by_name[route]
        got = {name: world.tried(way, rule, name) for name in ROLES}
        wrong += [
            f"{route} by {name}: {answer}, not {expected(way, rule, name)}"
            for name, answer in got.items()
            if answer != expected(way, rule, name)
        ]
        figures(f"{route:<52} " + " ".join(f"{answer:>10}" for answer in got.values()))
    figures(
        f"{len(RULES)} routes by {len(ROLES)} roles: {len(RULES) * len(ROLES)} requests, {len(wrong)} against the rules"
    )
    assert wrong == []


class Tenants:
    """Two organisations that have nothing to do with each other, and the ids of what is in the second one.

    Attributes:
        admin: of the first one.
        parts: of paths, in the first one.
        theirs: of paths, in the second one.
        forms: routes to forms that name something of the second one, or of its admin.
    """

    def __init__(self, scene: CloudScene) -> None:
        self.scene = scene
        self.callers = Callers(scene)
        self.admin, self.rival = scene.join("ours-admin"), scene.join("theirs-admin")
        for name in ("ours-member", "theirs-member"):
            scene.join(name)
        organisation(scene, self.admin, "ours", {"ours-member": Role.VIEWER})
        organisation(scene, self.rival, "theirs", {"theirs-member": Role.VIEWER})
        accounts = scene.plane.accounts
        accounts.invite(self.rival, "theirs", "guest@example.org", Role.ADMIN)
        self.callers.token(self.rival)
        with scene.plane.database.write() as connection:
            connection.execute(insert(tables.passkeys).values(**_passkey(self.rival)))
        token = scene.plane.people.tokens(self.rival)[0].id
        invitation = scene.mails("guest@example.org")[-1].link
        self.parts = _parts(scene, "ours", self.admin, user_id(scene, "ours-member"))
        self.theirs = _parts(scene, "theirs", self.rival, user_id(scene, "theirs-member"))
        self.forms = {
            "POST /account/passkeys/remove": {"passkey": "cGFzc2tleQ"},
            "POST /account/tokens/revoke": {"token": token},
            "POST /invitation": {"link": invitation},
            f"POST {ACCOUNT}/invitations/withdraw": {"email": "guest@example.org"},
        }

    def kept(self) -> dict[str, list[Any]]:
        """All rows but those of what was only looked at."""
        mine = (
            tables.namespaces,
            tables.members,
            tables.invitations,
            tables.api_keys,
            tables.passkeys,
            tables.users,
            tables.audit,
        )
        with self.scene.plane.database.read() as connection:
            rows = {table.name: list(connection.execute(select(table))) for table in mine}
        return rows | {"tokens": list(self.scene.plane.people.tokens(self.rival))}


def _parts(scene: CloudScene, namespace: str, admin: str, member: str) -> dict[str, str]:
    return {"namespace": namespace, "member": member, "key": scene.key(admin, namespace).id}


def _passkey(user: str) -> dict[str, Any]:
    return {
        "id": "cGFzc2tleQ",
        "user": user,
        "name": "theirs",
        "public_key": b"key",
        "sign_count": 0,
        "transports": "[]",
        "created_at": 0,
    }


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    with CloudScene(tmp_path_factory.mktemp("tenants")) as scene:
        yield Tenants(scene)


def in_paths() -> list[tuple[Way, str]]:
    """Every route with a part in its path, and each of these parts to be another tenant's."""
    return [(way, part) for way in ways() for part in ("namespace", "member", "key") if f"{{{part}}}" in way.path]


def test_an_id_of_another_tenant_in_a_path_is_as_one_that_there_is_not(
    tenants: Tenants, figures: Callable[[str], None]
) -> None:
    before = tenants.kept()
    unknown = {"namespace": "nowhere", "member": "user-" + "a" * 16, "key": "bai_sk_00000000"}
    for way, part in in_paths():
        rule = RULES[str(way)]
        answers = {}
        for name, value in (("theirs", tenants.theirs[part]), ("unknown", unknown[part])):
            # A namespace of theirs has ids of theirs below it.
            others = tenants.theirs if part == "namespace" else tenants.parts
            session, token = tenants.callers.session(tenants.admin), tenants.callers.token(tenants.admin)
            answer = tenants.callers.call(
                way, parts={**others, part: value}, session=session, token=token, form=rule.form, body=rule.body
            )
            # What the answer repeats of the question, and the token of this session's forms.
            plain = answer.text.replace(value, "-").replace(answer.csrf or "no token", "-")
            answers[name] = (answer.status, plain)
        assert answers["theirs"][0] == 404, (str(way), part, answers["theirs"])
        assert answers["theirs"] == answers["unknown"], (str(way), part)
    assert tenants.kept() == before
    figures(f"{len(in_paths())} parts of paths with an id of another tenant: all answered as one that does not exist")


def test_an_id_of_another_tenant_in_a_form_changes_nothing(tenants: Tenants) -> None:
    by_name = {str(way): way for way in ways()}
    before = tenants.kept()
    for route, form in tenants.forms.items():
        answers = {}
        for name, sent in (("theirs", form), ("unknown", dict.fromkeys(form, "x@unknown.example"))):
            session = tenants.callers.session(tenants.admin)
            answer = tenants.callers.call(by_name[route], parts=tenants.parts, session=session, form=sent)
            assert 400 <= answer.status < 500, (route, name, answer.status)
            answers[name] = answer.status
        # That a link was sent to somebody else, whoever has the link may know.
        assert route == "POST /invitation" or answers["theirs"] == answers["unknown"], route
    assert tenants.kept() == before
