"""Storing, checking and refusing passwords."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher

from blindai.errors import AuthenticationError, InvalidInput
from blindai.web.passwords import MAX_BYTES, MIN_CHARACTERS, Passwords, require_strength

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
DEARER = PasswordHasher(time_cost=2, memory_cost=8, parallelism=1)

GOOD = "correct horse battery staple"


class CountingHasher(PasswordHasher):
    """Counts how often a password was put through the function that takes so long."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.verified = 0

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]  # noqa: A002 - its name
        self.verified += 1
        return bool(super().verify(hash, password))


def refused(passwords: Passwords, stored: str | None, password: str) -> str:
    with pytest.raises(AuthenticationError) as caught:
        passwords.verify(stored, password)
    assert caught.value.code == "authentication.password"
    return caught.value.message


def test_the_password_matches_its_hash_and_no_other_does() -> None:
    passwords = Passwords(CHEAP)
    stored = passwords.hash(GOOD)
    assert passwords.verify(stored, GOOD) is None
    refused(passwords, stored, GOOD + " ")
    refused(passwords, stored, "")


def test_the_hash_is_argon2id_of_the_parameters_of_rfc_9106() -> None:
    assert Passwords().hash(GOOD).startswith("$argon2id$v=19$m=65536,t=3,p=4$")


def test_two_hashes_of_one_password_differ() -> None:
    passwords = Passwords(CHEAP)
    assert passwords.hash(GOOD) != passwords.hash(GOOD)


def test_an_unknown_name_costs_one_check_and_has_the_same_answer() -> None:
    hasher = CountingHasher()
    passwords = Passwords(hasher)
    stored = passwords.hash(GOOD)
    known = refused(passwords, stored, "wrong")
    assert hasher.verified == 1
    assert refused(passwords, None, "wrong") == known
    assert hasher.verified == 2


def test_the_password_that_stands_in_for_nobody_signs_nobody_in() -> None:
    refused(Passwords(CHEAP), None, "the password of nobody")


def test_a_hash_of_older_parameters_is_made_anew() -> None:
    stored = Passwords(CHEAP).hash(GOOD)
    renewed = Passwords(DEARER).verify(stored, GOOD)
    assert renewed is not None
    assert "t=2" in renewed
    assert Passwords(DEARER).verify(renewed, GOOD) is None


def test_a_damaged_hash_matches_nothing() -> None:
    refused(Passwords(CHEAP), "$argon2id$v=19$m=8,t=1,p=1$damaged", GOOD)


def test_composed_and_decomposed_letters_are_one_password() -> None:
    passwords = Passwords(CHEAP)
    assert passwords.verify(passwords.hash("caf\u00e9 in the early morning"), "cafe\u0301 in the early morning") is None


def test_a_password_too_long_to_be_one_is_refused_before_it_is_hashed() -> None:
    hasher = CountingHasher()
    refused(Passwords(hasher), None, "x" * (MAX_BYTES + 1))
    assert hasher.verified == 0


@pytest.mark.parametrize("half", ["\ud800", "\x00", "\u202e"])
def test_odd_characters_are_characters(half: str) -> None:
    passwords = Passwords(CHEAP)
    assert passwords.verify(passwords.hash(GOOD + half), GOOD + half) is None
    refused(passwords, passwords.hash(GOOD + half), GOOD)


@pytest.mark.parametrize(
    ("password", "code"),
    [
        ("", "password.length"),
        ("short", "password.length"),
        ("x" * (MIN_CHARACTERS - 1), "password.length"),
        ("abcdefgh" * MAX_BYTES, "password.length"),
        ("a" * MIN_CHARACTERS, "password.repetition"),
        ("12121212121212121212", "password.repetition"),
        ("my name is Grace Hopper", "password.name"),
    ],
)
def test_a_weak_password_is_refused_with_the_reason(password: str, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        require_strength(password, name="grace")
    assert caught.value.code == code
    assert not password or password not in str(caught.value)


@pytest.mark.parametrize("password", [GOOD, "x7!kQ2#vB9$mN4%", "ein langes Wort \u00fcber Stra\u00dfen"])
def test_a_long_password_is_good_enough(password: str) -> None:
    require_strength(password, name="ada")


def test_a_short_name_may_occur_in_a_password() -> None:
    require_strength("the crusader rides a canal boat", name="ada")
