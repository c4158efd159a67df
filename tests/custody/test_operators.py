"""Accounts of operators: who may do what, and who is signed in."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from argon2 import PasswordHasher

from blindai.custody import tables
from blindai.custody.operators import ALLOWED, Action, Operators, Role
from blindai.errors import AuthenticationError, InvalidInput, PermissionDenied
from blindai.web.database import Database
from blindai.web.passwords import Passwords
from blindai.web.sessions import IDLE_SECONDS
from blindai.web.throttle import Throttled
from hand_clock import HandClock

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
GOOD = "correct horse battery staple"
OTHER = "another long pass phrase"
HERE = "192.0.2.1"

# Who may do what, written down a second time: a change of the table must be meant.
MATRIX = {
    Action.VIEW: {Role.VIEWER, Role.OPERATOR, Role.ADMIN},
    Action.STOP: {Role.OPERATOR, Role.ADMIN},
    Action.RESUME: {Role.OPERATOR, Role.ADMIN},
    Action.DECIDE: {Role.OPERATOR, Role.ADMIN},
    Action.CONSUMERS: {Role.OPERATOR, Role.ADMIN},
    Action.OPERATORS: {Role.ADMIN},
}


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def operators(database: Database, clock: HandClock) -> Operators:
    with database.write() as connection:
        for table in (tables.operators, tables.sessions, tables.sign_in_attempts):
            table.create(connection)
    return Operators(database, passwords=Passwords(CHEAP), clock=clock)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("action", Action)
def test_each_role_may_do_what_the_table_says(
    operators: Operators, role: Role, action: Action, database_url: str
) -> None:
    operator = operators.add("ada", role, GOOD)
    assert operator.can(action) == (role in MATRIX[action])
    if operator.can(action):
        operator.require(action)
        return
    with pytest.raises(PermissionDenied) as caught:
        operator.require(action)
    assert caught.value.code == "operator.role"
    assert role.value in caught.value.message


def test_every_role_and_action_is_in_the_table() -> None:
    assert set(ALLOWED) == set(Role)
    assert set(MATRIX) == set(Action) == set().union(*ALLOWED.values())


@pytest.mark.parametrize(
    "name",
    ["", "Ada", "a b", "-ada", "a" * 64, "ada\n", "<script>", "o'hara", "\u0430da", "\u202eada", "ada\x00", "../ada"],
)
def test_a_name_that_could_be_taken_for_another_is_refused(operators: Operators, name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        operators.add(name, Role.VIEWER, GOOD)
    assert caught.value.code == "operator.name"
    assert operators.all() == ()


def test_a_weak_password_makes_no_account(operators: Operators) -> None:
    with pytest.raises(InvalidInput) as caught:
        operators.add("ada", Role.ADMIN, "short")
    assert caught.value.code == "password.length"
    assert operators.all() == ()


def test_a_name_is_not_given_twice_even_once_it_is_shut(operators: Operators) -> None:
    operators.add("ada", Role.OPERATOR, GOOD)
    operators.disable("ada")
    with pytest.raises(InvalidInput) as caught:
        operators.add("ada", Role.ADMIN, GOOD)
    assert caught.value.code == "operator.exists"
    assert [(operator.name, operator.role, operator.disabled) for operator in operators.all()] == [
        ("ada", Role.OPERATOR, True)
    ]


@pytest.mark.parametrize(("name", "password"), [("ada", OTHER), ("ada", ""), ("eve", GOOD), ("", GOOD), ("ADA", GOOD)])
def test_a_wrong_name_and_a_wrong_password_have_one_answer(operators: Operators, name: str, password: str) -> None:
    operators.add("ada", Role.ADMIN, GOOD)
    with pytest.raises(AuthenticationError) as caught:
        operators.sign_in(name, password, address=HERE)
    assert caught.value.code == "authentication.password"
    assert caught.value.message == "the name or the password is wrong"


def test_whoever_signs_in_is_known_until_they_sign_out(operators: Operators) -> None:
    ada = operators.add("ada", Role.ADMIN, GOOD)
    session = operators.sign_in("ada", GOOD, address=HERE)
    assert operators.signed_in(session.id) == ada
    operators.sign_out(session.id)
    assert operators.signed_in(session.id) is None
    operators.sign_out(session.id)


def test_each_sign_in_has_an_id_of_its_own(operators: Operators) -> None:
    operators.add("ada", Role.ADMIN, GOOD)
    assert len({operators.sign_in("ada", GOOD, address=HERE).id for _ in range(5)}) == 5


def test_a_session_in_use_goes_on(operators: Operators, clock: HandClock) -> None:
    operators.add("ada", Role.ADMIN, GOOD)
    session = operators.sign_in("ada", GOOD, address=HERE)
    for _ in range(3):
        clock.now += IDLE_SECONDS - 1
        assert operators.signed_in(session.id) is not None
    clock.now += IDLE_SECONDS
    assert operators.signed_in(session.id) is None


def test_another_password_signs_out_everywhere(operators: Operators) -> None:
    operators.add("ada", Role.ADMIN, GOOD)
    sessions = [operators.sign_in("ada", GOOD, address=HERE).id for _ in range(2)]
    operators.set_password("ada", OTHER)
    assert [operators.signed_in(session) for session in sessions] == [None, None]
    with pytest.raises(AuthenticationError):
        operators.sign_in("ada", GOOD, address=HERE)
    assert operators.signed_in(operators.sign_in("ada", OTHER, address=HERE).id) is not None


def test_a_shut_account_is_signed_out_and_stays_out_until_it_is_opened(operators: Operators) -> None:
    operators.add("root", Role.ADMIN, GOOD)
    operators.add("ada", Role.OPERATOR, GOOD)
    session = operators.sign_in("ada", GOOD, address=HERE)
    operators.disable("ada")
    assert operators.signed_in(session.id) is None
    with pytest.raises(AuthenticationError) as caught:
        operators.sign_in("ada", GOOD, address=HERE)
    assert caught.value.code == "authentication.password"
    assert not operators.find("ada").can(Action.VIEW)
    operators.enable("ada")
    assert operators.signed_in(session.id) is None
    assert operators.signed_in(operators.sign_in("ada", GOOD, address=HERE).id) is not None


def test_the_last_admin_cannot_be_shut_out(operators: Operators) -> None:
    operators.add("root", Role.ADMIN, GOOD)
    operators.add("ada", Role.OPERATOR, GOOD)
    with pytest.raises(InvalidInput) as caught:
        operators.disable("root")
    assert caught.value.code == "operator.last_admin"
    operators.add("grace", Role.ADMIN, GOOD)
    operators.disable("root")
    operators.disable("root")
    assert operators.find("root").disabled


def test_two_admins_who_shut_out_each_other_at_once_do_not_both_succeed(operators: Operators) -> None:
    for number in range(5):
        pair = [f"first{number}", f"second{number}"]
        for name in pair:
            operators.add(name, Role.ADMIN, GOOD)
        for one in operators.all():
            if one.name not in pair and not one.disabled:
                operators.disable(one.name)

        def shut(name: str) -> str:
            try:
                operators.disable(name)
            except InvalidInput as error:
                return error.code
            return "done"

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(shut, pair)) == ["done", "operator.last_admin"]


@pytest.mark.parametrize("method", ["find", "disable", "enable"])
def test_an_unknown_name_is_said_to_be_unknown(operators: Operators, method: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        getattr(operators, method)("eve")
    assert caught.value.code == "operator.unknown"


def test_a_password_of_nobody_is_not_set(operators: Operators) -> None:
    with pytest.raises(InvalidInput) as caught:
        operators.set_password("eve", GOOD)
    assert caught.value.code == "operator.unknown"


def test_guessing_is_slowed_and_the_right_password_has_to_wait_too(operators: Operators, clock: HandClock) -> None:
    operators.add("ada", Role.ADMIN, GOOD)
    for _ in range(5):
        with pytest.raises(AuthenticationError):
            operators.sign_in("ada", OTHER, address=HERE)
    with pytest.raises(Throttled) as caught:
        operators.sign_in("ada", GOOD, address=HERE)
    clock.now += caught.value.retry_after
    assert operators.signed_in(operators.sign_in("ada", GOOD, address=HERE).id) is not None


def test_names_that_do_not_exist_are_slowed_alike(operators: Operators) -> None:
    for _ in range(5):
        with pytest.raises(AuthenticationError):
            operators.check("eve", OTHER, address=HERE)
    with pytest.raises(Throttled):
        operators.check("eve", OTHER, address=HERE)


def test_a_hash_of_older_parameters_is_replaced_at_the_sign_in(operators: Operators, database: Database) -> None:
    operators.add("ada", Role.ADMIN, GOOD)
    later = Operators(
        database, passwords=Passwords(PasswordHasher(time_cost=2, memory_cost=8, parallelism=1)), clock=time.time
    )
    later.check("ada", GOOD, address=HERE)
    with database.read() as connection:
        assert "t=2" in connection.execute(tables.operators.select()).one().password
    later.check("ada", GOOD, address=HERE)


def test_the_database_holds_no_password(operators: Operators, database: Database) -> None:
    operators.add("ada", Role.ADMIN, GOOD)
    session = operators.sign_in("ada", GOOD, address=HERE)
    with database.read() as connection:
        for table in (tables.operators, tables.sessions, tables.sign_in_attempts):
            text = str(connection.execute(table.select()).all())
            assert GOOD not in text
            assert session.id not in text
