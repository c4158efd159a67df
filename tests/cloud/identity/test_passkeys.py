"""Passkeys: made, used, removed, and each way in which an answer is refused."""

from __future__ import annotations

import json
import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from account_world import SITE, new_name
from blindai.cloud import tables
from blindai.cloud.identity import authenticators
from blindai.cloud.identity.ceremonies import LIFETIME_SECONDS
from blindai.cloud.identity.passkeys import MAX_PASSKEYS
from blindai.cloud.identity.rates import CHALLENGES
from blindai.errors import InvalidInput, PermissionDenied
from people_world import PASSWORD, PeopleWorld, code_of
from software_authenticator import SoftwareAuthenticator, encoded

CHALLENGE = b"c" * 32


def test_somebody_signs_up_and_in_with_a_passkey_alone(world: PeopleWorld) -> None:
    user = world.passkey_user()
    assert not user.has_password
    assert world.people.user_of(world.sign_in_passkey().id) == user
    (passkey,) = world.people.passkeys(user.id)
    assert passkey.used_at is not None
    assert code_of(world.people.sign_in, user.email, "", address=world.place) == "authentication.password"


def test_before_the_mail_is_answered_a_passkey_signs_nobody_in(world: PeopleWorld) -> None:
    email = world.address()
    options = world.people.sign_up_passkey_options(email, new_name("bob"), visitor="bob", address=world.place)
    world.people.sign_up_passkey("bob", world.authenticator.create(options), address=world.place)
    with pytest.raises(PermissionDenied) as caught:
        world.sign_in_passkey()
    assert caught.value.code == "identity.unverified"
    assert world.mails(email) == ["Confirm your address"] * 2
    world.people.verify(world.link(email))
    world.sign_in_passkey()


@pytest.mark.parametrize("known", ["unknown", "unverified", "verified"])
def test_a_sign_up_by_passkey_does_not_tell_whether_the_address_is_known(world: PeopleWorld, known: str) -> None:
    email = world.address()
    if known != "unknown":
        world.sign_up(email)
    if known == "verified":
        world.people.verify(world.link(email))
    sent, visitor = len(world.mail.sent), new_name("visitor")
    options = world.people.sign_up_passkey_options(email, new_name("bob"), visitor=visitor, address=world.place)
    said = json.loads(options)
    assert said["user"]["name"] == email
    assert said.get("excludeCredentials", []) == []
    world.people.sign_up_passkey(visitor, world.authenticator.create(options), address=world.place)
    assert len(world.mail.sent) == sent + 1
    if known == "verified":
        assert world.mails(email)[-1] == "You have signed up before"
        assert code_of(world.sign_in_passkey) == "authentication.passkey"


def test_a_name_that_is_taken_is_refused_before_a_passkey_is_made(world: PeopleWorld) -> None:
    name = new_name("alice")
    email = world.sign_up(name=name)

    def options(email: str, name: str) -> str:
        return world.people.sign_up_passkey_options(email, name, visitor="v", address=world.place)

    assert code_of(options, world.address(), name) == "account.taken"
    assert code_of(options, world.address(), "No Name") == "account.name"
    assert code_of(options, "no address", "bob") == "identity.email"
    # Whoever lost the mail of their own sign-up can do it again, now with a passkey.
    assert options(email, name)
    # Nothing of it was kept.
    assert world.people.verify(world.link(email)).has_password


def test_the_options_ask_for_a_passkey_that_knows_its_user_and_checks_who_holds_it(world: PeopleWorld) -> None:
    user = world.user()
    session = world.sign_in(user)
    mine = world.add_passkey(user, session)
    made = json.loads(world.people.add_passkey_options(user.id, session.id))
    assert made["rp"] == {"name": SITE.name, "id": "cloud.example"}
    assert made["user"]["id"] == encoded(user.id.encode())
    assert made["authenticatorSelection"]["residentKey"] == "required"
    assert made["authenticatorSelection"]["userVerification"] == "required"
    assert made["attestation"] == "none"
    assert [one["id"] for one in made["excludeCredentials"]] == [mine]
    used = json.loads(world.people.sign_in_options("v", address=world.place))
    assert (used["rpId"], used["userVerification"]) == ("cloud.example", "required")
    assert used["allowCredentials"] == []
    assert len(used["challenge"]) == 43


def test_a_passkey_is_added_and_removed_and_mails_say_so(world: PeopleWorld) -> None:
    user = world.user()
    session = world.sign_in(user)
    passkey = world.add_passkey(user, session, "my phone")
    assert [(one.id, one.name, one.used_at) for one in world.people.passkeys(user.id)] == [(passkey, "my phone", None)]
    assert world.sign_in_passkey().account == user.id
    world.people.remove_passkey(user.id, passkey)
    assert code_of(world.sign_in_passkey) == "authentication.passkey"
    assert world.mails(user.email)[-2:] == ["A passkey was added", "A passkey was removed"]
    assert code_of(world.people.remove_passkey, user.id, passkey) == "identity.passkey_unknown"


def test_nobody_removes_the_only_way_in_or_what_is_somebody_elses(world: PeopleWorld) -> None:
    user, another = world.passkey_user(), world.user()
    (passkey,) = world.people.passkeys(user.id)
    assert code_of(world.people.remove_passkey, user.id, passkey.id) == "identity.last_passkey"
    assert code_of(world.people.remove_passkey, another.id, passkey.id) == "identity.passkey_unknown"
    second = world.add_passkey(user, world.sign_in_passkey())
    world.people.remove_passkey(user.id, passkey.id)
    assert code_of(world.people.remove_passkey, user.id, second) == "identity.last_passkey"


WRONG = {
    "challenge": ({"challenge": encoded(b"another challenge" * 2)}, "identity.ceremony"),
    "no challenge": ({"challenge": ""}, "identity.ceremony"),
    "origin": ({"origin": "https://cloud.example.evil.example"}, "identity.origin"),
    "plain origin": ({"origin": "http://cloud.example"}, "identity.origin"),
    "port": ({"origin": "https://cloud.example:8443"}, "identity.origin"),
    "inside of another page": ({"cross_origin": True}, "identity.origin"),
    "rp id": ({"rp_id": "evil.example"}, "identity.origin"),
    "type": ({"type": "webauthn.other"}, "identity.passkey"),
}


@pytest.mark.parametrize(("wrong", "code"), WRONG.values(), ids=WRONG.keys())
def test_an_answer_that_was_not_made_for_us_is_refused(world: PeopleWorld, wrong: dict[str, object], code: str) -> None:
    user = world.user()
    session = world.sign_in(user)
    assert code_of(world.add_passkey, user, session, **wrong) == code
    assert world.people.passkeys(user.id) == ()
    world.add_passkey(user, session)
    assert code_of(world.sign_in_passkey, **wrong) == code
    assert world.sign_in_passkey().account == user.id


def test_a_passkey_that_does_not_check_who_holds_it_is_refused(world: PeopleWorld) -> None:
    user = world.user()
    session = world.sign_in(user)
    world.authenticator.verifies = False
    assert code_of(world.add_passkey, user, session) == "identity.user_verification"
    world.authenticator.verifies = True
    world.add_passkey(user, session)
    world.authenticator.verifies = False
    assert code_of(world.sign_in_passkey) == "identity.user_verification"


def test_a_signature_of_another_key_is_refused(world: PeopleWorld) -> None:
    user = world.user()
    world.add_passkey(user, world.sign_in(user))
    assert code_of(world.sign_in_passkey, key=ec.generate_private_key(ec.SECP256R1())) == "identity.passkey"


@pytest.mark.parametrize("user", [None, b"", b"user-aaaaaaaaaaaaaaaa"])
def test_a_passkey_that_says_another_user_is_refused(world: PeopleWorld, user: bytes | None) -> None:
    mine = world.user()
    world.add_passkey(mine, world.sign_in(mine))
    assert code_of(world.sign_in_passkey, user=user) == "authentication.passkey"


def test_a_passkey_that_nobody_added_signs_nobody_in(world: PeopleWorld) -> None:
    user = world.user()
    options = world.people.add_passkey_options(user.id, world.sign_in(user).id)
    world.authenticator.create(options)
    assert code_of(world.sign_in_passkey) == "authentication.passkey"


def test_a_challenge_is_good_once_even_for_an_answer_that_was_refused(world: PeopleWorld) -> None:
    user = world.user()
    session = world.sign_in(user)
    options = world.people.add_passkey_options(user.id, session.id)
    bad, good = world.authenticator.create(options, origin="https://evil.example"), world.authenticator.create(options)
    assert code_of(world.people.add_passkey, user.id, session.id, bad, "phone") == "identity.origin"
    assert code_of(world.people.add_passkey, user.id, session.id, good, "phone") == "identity.ceremony"
    world.add_passkey(user, session)
    options = world.people.sign_in_options("visitor", address=world.place)
    answer = world.authenticator.get(options)
    world.people.sign_in_passkey("visitor", answer, address=world.place)
    assert code_of(world.people.sign_in_passkey, "visitor", answer, address=world.place) == "identity.ceremony"


def test_a_challenge_runs_out(world: PeopleWorld) -> None:
    user = world.user()
    world.add_passkey(user, world.sign_in(user))
    options = world.people.sign_in_options("late", address=world.place)
    world.clock.now += LIFETIME_SECONDS
    answer = world.authenticator.get(options)
    assert code_of(world.people.sign_in_passkey, "late", answer, address=world.place) == "identity.ceremony"


def test_a_challenge_belongs_to_one_browser_and_one_purpose(world: PeopleWorld) -> None:
    user, another = world.user(), world.user()
    session, theirs = world.sign_in(user), world.sign_in(another)
    world.add_passkey(user, session)
    options = world.people.sign_in_options("mine", address=world.place)
    answer = world.authenticator.get(options)
    assert code_of(world.people.sign_in_passkey, "yours", answer, address=world.place) == "identity.ceremony"
    assert code_of(world.people.sign_up_passkey, "mine", answer, address=world.place) == "identity.ceremony"
    assert code_of(world.people.add_passkey, user.id, "mine", answer, "phone") == "identity.ceremony"
    world.people.sign_in_passkey("mine", answer, address=world.place)
    # What one session began, no other can finish, and nobody else with the same session either.
    options = world.people.add_passkey_options(user.id, session.id)
    made = world.authenticator.create(options)
    assert code_of(world.people.add_passkey, another.id, theirs.id, made, "phone") == "identity.ceremony"
    assert code_of(world.people.add_passkey, another.id, session.id, made, "phone") == "identity.ceremony"
    assert world.people.passkeys(another.id) == ()


def test_a_session_that_has_ended_adds_no_passkey(world: PeopleWorld) -> None:
    user = world.user()
    session = world.sign_in(user)
    made = world.authenticator.create(world.people.add_passkey_options(user.id, session.id))
    world.people.sign_out(session.id)
    assert code_of(world.people.add_passkey, user.id, session.id, made, "phone") == "identity.ceremony"
    assert world.people.passkeys(user.id) == ()


def test_of_many_who_send_one_answer_at_once_one_gets_in(world: PeopleWorld) -> None:
    user = world.user()
    world.add_passkey(user, world.sign_in(user))
    answer = world.authenticator.get(world.people.sign_in_options("shared", address=world.place))

    def sign_in(_: int) -> str:
        try:
            return world.people.sign_in_passkey("shared", answer, address=world.place).account
        except InvalidInput as error:
            return error.code

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(sign_in, range(4))) == [*["identity.ceremony"] * 3, user.id]


def test_a_copy_of_a_passkey_is_noticed(world: PeopleWorld) -> None:
    user = world.user()
    world.add_passkey(user, world.sign_in(user))
    (key,) = world.authenticator.credentials
    key.count = 7
    world.sign_in_passkey()  # 8
    key.count = 7
    assert code_of(world.sign_in_passkey) == "identity.passkey_cloned"  # 8 again
    key.count = 3
    assert code_of(world.sign_in_passkey) == "identity.passkey_cloned"
    key.count = None
    assert code_of(world.sign_in_passkey) == "identity.passkey_cloned"
    assert world.mails(user.email)[-1] == "A sign-in was refused"
    key.count = 8
    world.sign_in_passkey()


def test_a_passkey_that_counts_nothing_can_be_used(world: PeopleWorld) -> None:
    user = world.user()
    world.add_passkey(user, world.sign_in(user))
    world.authenticator.credentials[0].count = None
    assert [world.sign_in_passkey().account for _ in range(2)] == [user.id] * 2


def test_a_passkey_of_somebody_else_cannot_be_taken_over(world: PeopleWorld) -> None:
    user, thief = world.user(), world.user()
    world.add_passkey(user, world.sign_in(user))
    taken = world.authenticator.credentials[0].id
    assert code_of(world.add_passkey, thief, world.sign_in(thief), id=taken) == "identity.passkey_taken"
    assert world.people.passkeys(thief.id) == ()
    email, visitor = world.address(), new_name("visitor")
    options = world.people.sign_up_passkey_options(email, new_name("bob"), visitor=visitor, address=world.place)
    answer = world.authenticator.create(options, id=taken)
    assert code_of(world.people.sign_up_passkey, visitor, answer, address=world.place) == "identity.passkey_taken"
    assert world.mails(email) == []


@pytest.mark.parametrize("wrong", [{"format": "android-key"}, {"format": "tpm"}, {"id": b"x" * 1024}, {"id": b""}])
def test_a_passkey_of_another_form_is_refused(world: PeopleWorld, wrong: dict[str, object]) -> None:
    user = world.user()
    assert code_of(world.add_passkey, user, world.sign_in(user), **wrong) == "identity.passkey"


def test_a_passkey_is_called_by_what_can_be_seen(world: PeopleWorld) -> None:
    user = world.user()
    assert code_of(world.add_passkey, user, world.sign_in(user), "\u202eenohp") == "identity.passkey_name"


def test_one_user_has_so_many(world: PeopleWorld) -> None:
    user = world.user()
    session = world.sign_in(user)
    for _ in range(MAX_PASSKEYS):
        world.add_passkey(user, session)
    assert code_of(world.add_passkey, user, session) == "identity.passkeys"


def test_one_place_asks_for_so_many_challenges(world: PeopleWorld) -> None:
    for number in range(CHALLENGES.size):
        world.people.sign_in_options(f"{world.place} {number}", address=world.place)
    assert code_of(world.people.sign_in_options, "v", address=world.place) == "quota.rate"
    assert code_of(world.people.sign_in_passkey, "v", "{}", address=world.place) == "quota.rate"
    assert code_of(world.people.sign_up_passkey_options, world.address(), new_name(), visitor="v", address=world.place)


def test_a_challenge_is_kept_under_the_digest_of_its_cookie(world: PeopleWorld) -> None:
    visitor = secrets.token_urlsafe(32)
    world.people.sign_in_options(visitor, address=world.place)
    with world.database.read() as connection:
        rows = connection.execute(sa.select(tables.ceremonies)).all()
    assert rows
    assert not any(visitor in str(value) for row in rows for value in row)


def test_a_passkey_has_the_id_that_its_authenticator_says() -> None:
    made, used = json.loads(a_response("made")), json.loads(a_response("used"))
    for other in (b"another id", b"x" * 1024):
        made["id"] = made["rawId"] = used["id"] = used["rawId"] = encoded(other)
        assert code_of(authenticators.registered, SITE, CHALLENGE, json.dumps(made)) == "identity.passkey"
    assert code_of(authenticators.presented, json.dumps(used)) == "identity.passkey"


def a_response(kind: str) -> str:
    device = SoftwareAuthenticator(SITE.url)
    made = device.create(authenticators.creation_options(SITE, CHALLENGE, user_id="user-a", email="a@b.c"))
    return made if kind == "made" else device.get(authenticators.request_options(SITE, CHALLENGE))


MADE, USED = json.loads(a_response("made")), json.loads(a_response("used"))

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40) | st.binary(max_size=80).map(encoded),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def twisted(draw: st.DrawFn, response: dict[str, object]) -> str:
    """A response in which something was replaced."""
    copy = json.loads(json.dumps(response))
    place = draw(st.sampled_from([copy, copy["response"]]))
    place[draw(st.sampled_from(sorted(place)))] = draw(anything)
    return json.dumps(copy)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(twisted(MADE) | st.text(max_size=50) | anything.map(json.dumps))
def test_whatever_is_sent_in_place_of_a_new_passkey_is_refused_with_a_code(response: str) -> None:
    try:
        authenticators.registered(SITE, CHALLENGE, response)
    except InvalidInput as error:
        assert error.code.startswith("identity.")  # noqa: PT017 - some of them are only different, not wrong


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(twisted(USED) | st.text(max_size=50) | anything.map(json.dumps))
def test_whatever_is_sent_in_place_of_an_answer_is_refused_with_a_code(response: str) -> None:
    try:
        answer = authenticators.presented(response)
        authenticators.sign_count(SITE, CHALLENGE, answer, secrets.token_bytes(77))
    except InvalidInput as error:
        assert error.code.startswith("identity.")  # noqa: PT017 - a refusal, and no fault


@pytest.mark.parametrize("response", ["[" * 10_000, "x" * 100_000, "null", "[]", "{}", '"id"', "1e999", "\udcff"])
def test_what_is_no_answer_is_refused(response: str) -> None:
    for call in (
        lambda: authenticators.registered(SITE, CHALLENGE, response),
        lambda: authenticators.presented(response),
    ):
        assert code_of(call) == "identity.passkey"


def test_a_passkey_user_still_knows_no_password(world: PeopleWorld) -> None:
    user = world.passkey_user()
    assert code_of(world.people.sign_in, user.email, PASSWORD, address=world.place) == "authentication.password"
