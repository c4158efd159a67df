from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import blindai
from blindai.cloud.api import ADDRESSES
from blindai.cloud.api.openapi import codes_of, document
from blindai.wire.cloud_api import PREFIX
from blindai.wire.problems import FAMILIES, PROBLEMS
from cloud_scene import CloudScene

from .conftest import CommandLine

DOCUMENT = document(ADDRESSES)
WIRE = Path(blindai.__file__).parent / "wire" / "cloud_api.py"


def values(value: Any, name: str) -> list[Any]:
    """All values of a member, wherever it stands."""
    if isinstance(value, dict):
        own = [value[name]] if name in value else []
        return own + [found for part in value.values() for found in values(part, name)]
    if isinstance(value, list):
        return [found for part in value for found in values(part, name)]
    return []


def test_it_lists_every_route_and_nothing_else() -> None:
    listed = {(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item}
    assert listed == {(one.method, one.path) for one in ADDRESSES}


def test_it_lists_what_the_module_of_the_structs_promises() -> None:
    promised = re.findall(r"^    (GET|POST|DELETE) +(/\S+) ", WIRE.read_text("utf-8"), re.MULTILINE)
    assert len(promised) > 5
    assert {(one.method, one.path) for one in ADDRESSES} == {*promised, ("GET", "/openapi.json")}


def test_every_reference_leads_somewhere() -> None:
    found = values(DOCUMENT, "$ref")
    assert found
    for reference in found:
        target: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def test_its_patterns_are_those_of_other_languages_too() -> None:
    found = values(DOCUMENT, "pattern")
    assert found
    for pattern in found:
        assert (pattern[0], pattern[-1]) == ("^", "$")
        assert "\\A" not in pattern
        assert "\\Z" not in pattern
        assert "\\U" not in pattern


def test_every_operation_but_the_open_ones_takes_a_token() -> None:
    for one in ADDRESSES:
        operation = DOCUMENT["paths"][one.path][one.method.lower()]
        assert operation["security"] == ([] if one.open else [{"accessToken": []}])
        assert ("401" in operation["responses"]) is not one.open


def test_every_code_has_a_status() -> None:
    codes = {code for one in ADDRESSES for code in codes_of(one)}
    assert {code for code in codes if code not in PROBLEMS and code.partition(".")[0] not in FAMILIES} == set()


def test_it_is_served(stranger: CommandLine) -> None:
    answer = stranger.call("GET", "/openapi.json")
    assert answer.status == 200
    assert json.loads(answer.body) == json.loads(json.dumps(DOCUMENT))
    assert DOCUMENT["servers"] == [{"url": PREFIX}]


def test_it_says_nothing_of_where_it_is_served(world: CloudScene) -> None:
    assert world.plane.site.url not in json.dumps(DOCUMENT)
