from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blindai.attestation.policy.manifest import MAX_MANIFEST_BYTES, Origin, Path, Table, choices, locate
from blindai.errors import ConfigurationError

TEXT = """\
# a comment with = and [brackets]
title = "x"

[server]  # a table
  ports = [
    "8001", # first = ["8002"]
    "8002",
  ]
limits.memory.bytes = 5
point = { x = 1, y = { z = 2 } }

[[rack]]
name = "r0"
  [[rack.slot]]
  id = 1
  [[rack.slot]]
  id = 2
  [rack.slot.fan]
  speed = 9

[[rack]]
[[rack.slot]]
text = \"\"\"
[[rack]]
id = 7
\"\"\"
id = 3
[a."b.c".d]
"""


def parse(text: str = TEXT) -> Table:
    return Table.parse(text, "m.toml")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 2),
        (("server",), 4),
        (("server", "ports"), 5),
        (("server", "ports", 0), 6),
        (("server", "ports", 1), 7),
        (("server", "limits", "memory", "bytes"), 9),
        (("server", "point", "y", "z"), 10),
        (("rack",), 12),
        (("rack", 0), 12),
        (("rack", 0, "name"), 13),
        (("rack", 0, "slot", 0), 14),
        (("rack", 0, "slot", 1, "id"), 17),
        (("rack", 0, "slot", 1, "fan", "speed"), 19),
        (("rack", 1), 21),
        (("rack", 1, "slot", 0), 22),
        (("rack", 1, "slot", 0, "text"), 23),
        (("rack", 1, "slot", 0, "id"), 27),
        (("a", "b.c", "d"), 28),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_key_and_element_has_its_line(path: Path, line: int, newline: str) -> None:
    assert locate(TEXT.replace("\n", newline))[path] == line


def test_a_path_without_a_line_has_the_line_of_the_table_around_it() -> None:
    origin = parse().origin
    assert origin.line("rack", 0, "absent") == 12
    assert origin.place("rack", 0, "absent") == "m.toml, line 12"
    assert origin.line("absent") is None
    assert origin.place("absent") == "m.toml"
    assert Origin(source="simulation=True").place("code", 0) == "simulation=True"


def test_an_element_written_with_escapes_stays_with_the_element_before_it() -> None:
    assert locate('a = [\n"b",\n"\\u0063",\n"d"]\n') == {("a",): 1, ("a", 0): 2, ("a", 1): 2, ("a", 2): 4}


KEYS = st.sampled_from(["a", "b", "c", '"d e"', "a.b", "b.c.a", "'x'"])
VALUES = st.sampled_from(
    [
        "1",
        "true",
        '"text"',
        "'lit]eral'",
        "1979-05-27",
        "1.5",
        "[]",
        '["p", "q"]',
        '[\n  "p", # ] }\n  "q",\n]',
        '[\n[1,\n2],\n[\n"]"]\n]',
        '"""\n[a]\nb = 1\n"""',
        "'''\n]\n'''",
        "{ a = 1 }",
        '{ a = ["p"], b.c = { d = 2 } }',
        '[{ a = 1 },\n{ a = "q" }]',
    ]
)
STATEMENTS = st.one_of(
    st.builds("{} = {}".format, KEYS, VALUES),
    st.builds("  {}={} # [end]".format, KEYS, VALUES),
    st.builds("[{}]".format, KEYS),
    st.builds("[[ {} ]] # ]]".format, KEYS),
    st.sampled_from(["", "# comment = [", "   "]),
)


def every_path(value: Any, path: Path = ()) -> set[Path]:
    found: set[Path] = {path} if path else set()
    if isinstance(value, dict):
        for key, item in value.items():
            found |= every_path(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found |= every_path(item, (*path, index))
    return found


@given(st.lists(STATEMENTS, max_size=8).map("\n".join))
def test_exactly_the_paths_of_the_document_are_located(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = locate(text)
    assert set(lines) == every_path(data)
    source = text.split("\n")
    for path, line in lines.items():
        if isinstance(path[-1], str):
            assert path[-1] in source[line - 1]


@given(st.text())
@example("a = " + "[" * 5000)
@example("a = " + "9" * 5000)
@example("a = \x00")
@example("\ufeffa = 1")
@example("a = 1\rb = 2")
def test_any_text_is_parsed_or_refused(text: str) -> None:
    error = None
    try:
        Table.parse(text, "m.toml")
    except ConfigurationError as caught:
        error = caught
    assert error is None or (error.code == "policy.syntax" and error.message.startswith("m.toml: "))


def refused(code: str, call: Any, *args: Any) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        call(*args)
    assert caught.value.code == f"policy.{code}"
    return caught.value


def test_a_syntax_error_names_its_line() -> None:
    assert "line 2" in refused("syntax", parse, "a = 1\nb = \n").message


def test_a_text_that_is_too_large() -> None:
    refused("too_large", parse, "#" * (MAX_MANIFEST_BYTES + 1))


def test_a_value_is_read_by_its_exact_type() -> None:
    table = parse('text = "x"\nnumber = 3\nswitch = true\nmoment = 2026-01-01\npart = 0.5\n')
    assert table.get("text", str) == "x"
    assert table.get("number", int) == 3
    assert table.get("switch", bool) is True
    assert table.get("absent", int, 7) == 7
    assert "text" in table
    assert "absent" not in table
    assert "m.toml, line 3: 'switch' must be an integer, this is true or false" in str(
        refused("type", table.get, "switch", int)
    )
    assert "this is an integer" in refused("type", table.get, "number", bool).message
    assert "this is a date or time" in refused("type", table.get, "moment", str).message
    assert "this is a number with a fraction" in refused("type", table.get, "part", int).message
    assert "'absent' is missing in the manifest" in refused("missing_key", table.get, "absent", int).message


def test_a_list_of_strings() -> None:
    table = parse('good = ["a", "b"]\nbad = [\n"a",\n3]\nnone = 1')
    assert table.texts("good") == ("a", "b")
    assert table.texts("absent", ("c",)) == ("c",)
    assert "m.toml, line 2" in refused("type", table.texts, "bad").message
    assert "must be a list" in refused("type", table.texts, "none").message
    refused("missing_key", table.texts, "absent")


def test_tables() -> None:
    table = parse()
    assert table.table("server").get("ports", list) == ["8001", "8002"]
    assert table.table("absent").path == ("absent",)
    assert [rack.path for rack in table.tables("rack")] == [("rack", 0), ("rack", 1)]
    assert list(table.tables("absent")) == []
    missing = refused("missing_key", next(table.tables("rack")).get, "size", int)
    assert missing.message == "m.toml, line 12: 'size' is missing in [[rack]]"
    assert "in [server]" in refused("missing_key", table.table("server").get, "size", int).message
    assert "must be a table" in refused("type", table.table, "title").message
    assert "written as tables [[x]]" in refused("type", list, parse("x = [1]").tables("x")).message


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    message = refused("unknown_key", parse('titel = "x"').only, ["title", "server"]).message
    assert message == "m.toml, line 1: unknown key 'titel'; did you mean 'title'? allowed: title, server"
    assert "in [server]" in refused("unknown_key", parse().table("server").only, ["ports"]).message
    parse('title = "x"').only(["title", "server"])


def test_choices_far_from_all_allowed_ones_suggest_none() -> None:
    assert choices("zzz", ["a", "b"]) == "; allowed: a, b"
