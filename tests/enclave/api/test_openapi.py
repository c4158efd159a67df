from __future__ import annotations

import re
from typing import Any

from blindai.enclave.api.openapi import document
from blindai.enclave.app import ROUTES
from enclave_server import RunningServer


def test_it_lists_every_route_and_nothing_else() -> None:
    listed = {(method.upper(), path) for path, item in document()["paths"].items() for method in item}
    assert listed == {(method, path) for method, path, _ in ROUTES}


def test_it_declares_what_each_path_holds() -> None:
    parameters = document()["components"]["parameters"]
    for path, item in document()["paths"].items():
        for operation in item.values():
            declared = {
                parameters[parameter["$ref"].rsplit("/", 1)[1]]["name"]
                for parameter in operation.get("parameters", [])
                if "$ref" in parameter
            }
            assert declared == set(re.findall(r"{(\w+)}", path)), path


def test_every_reference_leads_somewhere() -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [found for item in value.values() for found in references(item)]
        if isinstance(value, list):
            return [found for item in value for found in references(item)]
        return []

    found = references(document())
    assert found
    for reference in found:
        target: Any = document()
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def test_it_is_served(server: RunningServer) -> None:
    response = server.request("GET", "/openapi.json")
    assert response.json == document()
    assert response.json["openapi"].startswith("3.1")
