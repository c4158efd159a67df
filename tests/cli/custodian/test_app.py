"""The custodian's commands as a whole, and the pages that describe them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from blindai.cli.custodian.app import app

DOCS = Path(__file__).parents[3] / "docs"

GROUP = typer.main.get_command(app)


def _commands(group: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(group, "commands"):
        yield words, group
        return
    for name, one in group.commands.items():
        yield from _commands(one, *words, name)


COMMANDS = dict(_commands(GROUP))


def test_every_command_is_on_the_reference_page() -> None:
    page = (DOCS / "reference" / "cli.md").read_text("utf-8")
    section = page.partition("## `custodian`")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    listed = set()
    for cell in cells:
        first = ""
        for text in re.findall(r"`([^`]+)`", cell):
            words = [word for word in text.split() if word.islower() and not word.startswith("-")]
            if not words:
                continue  # the options of a command, or of all of them
            # `operator add`, `list`: the second is of the same group.
            first = words[0] if len(words) > 1 else first
            listed.add(tuple(words) if len(words) > 1 or (words[0],) in COMMANDS else (first, *words))
    assert set(COMMANDS) <= listed


def _lines() -> list[str]:
    """The lines of the guide that run a command of the custodian."""
    text = (DOCS / "custodian.md").read_text("utf-8").replace("\\\n", " ")
    return re.findall(r"^\$ blindai custodian ([^#\n]*)", text, re.MULTILINE)


@pytest.mark.parametrize("line", _lines())
def test_what_the_guide_says_to_type_can_be_typed(line: str) -> None:
    words = shlex.split(line)
    names = next(names for names in COMMANDS if tuple(words[: len(names)]) == names)
    COMMANDS[names].make_context("blindai", words[len(names) :])


def test_every_command_explains_itself() -> None:
    for words, command in COMMANDS.items():
        assert command.help, words
        for parameter in command.params:
            # Arguments keep their words in another place.
            assert getattr(parameter, "help", None), (words, parameter.name)
