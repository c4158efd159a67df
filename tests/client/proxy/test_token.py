"""The proxy's token: its file, and what is none."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from blindai.client.proxy.token import LocalToken
from blindai.errors import ConfigurationError


def test_two_are_never_the_same() -> None:
    first, second = LocalToken.random(), LocalToken.random()
    assert first.reveal() != second.reveal()
    assert first.matches(first.reveal().encode())
    assert not first.matches(second.reveal().encode())
    assert first.reveal() not in repr(first)


def test_a_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    first = LocalToken.kept_in(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert LocalToken.kept_in(path).reveal() == first.reveal() == path.read_text().strip()


@pytest.mark.parametrize("content", ["", "short", "with a space in it, and long", "x" * 5000, "é" * 20])
def test_a_file_that_holds_no_token(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError) as caught:
        LocalToken.kept_in(path)
    assert caught.value.code == "proxy.token_file"


def test_a_file_that_others_may_read(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("x" * 32)
    path.chmod(0o644)
    with pytest.raises(ConfigurationError) as caught:
        LocalToken.kept_in(path)
    assert caught.value.code == "proxy.token_file"
