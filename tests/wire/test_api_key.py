"""Which keys are taken for one, and what of a key is seen."""

from __future__ import annotations

import random
import re
import traceback
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.errors import AuthenticationError
from blindai.wire.api_key import PATTERN, PREFIX, ApiKey

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
LENGTH = len(PREFIX) + 36

# Of the same key everywhere, so that a failure can be repeated.
KEY = ApiKey.parse("bai_sk_KvT2oPzYp0dQwXr8sLmNb4hJ7uGcEa1ptCG1")

# Of 2**32 checksums one fits; as many alterations find none that passes.
ALTERATIONS = 100_000


def keys() -> st.SearchStrategy[ApiKey]:
    return st.builds(ApiKey.new)


def passes(text: str) -> bool:
    try:
        ApiKey.parse(text)
    except AuthenticationError:
        return False
    return True


def test_a_new_key_is_one_and_no_other() -> None:
    made = {ApiKey.new().text for _ in range(1000)}
    assert len(made) == 1000
    for text in made:
        assert len(text) == LENGTH
        assert ApiKey.parse(text).text == text


def test_every_character_of_the_alphabet_is_drawn() -> None:
    drawn = "".join(ApiKey.new().text[len(PREFIX) : -6] for _ in range(500))
    assert set(drawn) == set(ALPHABET)
    # 15,000 draws, 242 of each expected; six standard deviations of 15.
    assert max(abs(drawn.count(one) - 242) for one in ALPHABET) < 95


@given(key=keys(), place=st.integers(len(PREFIX), LENGTH - 1), letter=st.sampled_from(ALPHABET))
def test_one_mistyped_character_is_found(key: ApiKey, place: int, letter: str) -> None:
    mistyped = key.text[:place] + letter + key.text[place + 1 :]
    assert passes(mistyped) is (mistyped == key.text)


def test_every_mistyped_character_of_a_key_is_found(figures: Callable[[str], None]) -> None:
    tried = 0
    for place in range(len(PREFIX), LENGTH):
        for letter in ALPHABET.replace(KEY.text[place], ""):
            assert not passes(KEY.text[:place] + letter + KEY.text[place + 1 :])
            tried += 1
    assert tried == 36 * 61
    figures(f"{tried} keys with one mistyped character, none taken for one")


def test_every_swap_of_neighbours_is_found(figures: Callable[[str], None]) -> None:
    tried = 0
    for key in [KEY, *(ApiKey.new() for _ in range(100))]:
        for place in range(len(PREFIX), LENGTH - 1):
            first, second = key.text[place], key.text[place + 1]
            if first != second:
                assert not passes(key.text[:place] + second + first + key.text[place + 2 :])
                tried += 1
    figures(f"{tried} keys with two neighbours swapped, none taken for one")


def test_random_alterations_are_found(figures: Callable[[str], None]) -> None:
    chance = random.Random(20)
    found = 0
    for _ in range(ALTERATIONS):
        body = list(KEY.text)
        for place in chance.sample(range(len(PREFIX), LENGTH), chance.randint(2, 36)):
            body[place] = chance.choice(ALPHABET)
        altered = "".join(body)
        found += not passes(altered)
        assert altered != KEY.text
    figures(f"{found} of {ALTERATIONS} keys with 2 to 36 random characters, not taken for one")
    assert found == ALTERATIONS


@pytest.mark.parametrize(
    "text",
    [
        "",
        PREFIX,
        KEY.text[:-1],
        KEY.text + "0",
        KEY.text.upper(),
        KEY.text.replace("bai_sk_", "bai-sk-"),
        "Bearer " + KEY.text,
        KEY.text + "\x00",
        KEY.text[:20] + "\u0410" + KEY.text[21:],
        KEY.text[:20] + "\uff11" + KEY.text[21:],
        KEY.text[:20] + "\n" + KEY.text[21:],
        "'; DROP TABLE api_keys; --",
        "\ud800",
        "x" * 1_000_000,
    ],
    ids=lambda text: ascii(text[:50]),
)
def test_what_is_no_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        ApiKey.parse(text)
    assert caught.value.code == "authentication.key_format"
    assert KEY.text[10:20] not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_blanks_and_line_ends_around_it_are_left_out() -> None:
    assert ApiKey.parse(f" {KEY.text}\r\n") == KEY


def test_the_text_stands_in_no_representation() -> None:
    mistyped = KEY.text[:-1] + "0"
    try:
        ApiKey.parse(mistyped)
    except AuthenticationError as error:
        shown = "".join(traceback.format_exception(error))
    for text in (repr(KEY), str(KEY), f"{KEY}", repr([KEY]), shown):
        assert KEY.text[15:] not in text
    assert KEY.text.startswith(KEY.id)
    assert len(KEY.id) == len(PREFIX) + 8
    assert re.fullmatch(r"[0-9a-f]{64}", KEY.digest)


def test_scanners_for_secrets_find_it_wherever_it_stands() -> None:
    """With the pattern that the documentation gives them."""
    scanner = re.compile(r"bai_sk_[0-9A-Za-z]{36}")
    assert scanner.pattern == PATTERN.pattern
    for place in ("BLINDAI_API_KEY={}", 'api_key="{}",', "https://x/?key={}&y", "{}", "  - {}  # production"):
        assert scanner.findall(place.format(KEY.text)) == [KEY.text]
    assert not scanner.search(KEY.id)
