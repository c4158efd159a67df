"""Every route of an enclave, for every kind of caller and model: what a table of rules says, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import onnx
import pytest

from blindai.enclave.app import ROUTES
from blindai.enclave.cloud.access import RULES, rules_for
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import ModelVisibility, Scope, Visibility
from enclave_server import Response, binary_request, node_model
from fake_cloud import FakeControlPlane

from .conftest import CloudEnclave, bearer

IDENTITY = node_model(onnx.helper.make_node("Identity", ["x"], ["y"]), size=3)

OWNER, PARTNER, STRANGER = "owner", "partner", "stranger"

CALLERS = ("no key", "garbage", "revoked", "stranger", "partner", "own query", "own upload", "own delete", "own full")
MODELS = ("private", "shared", "public", "missing")

NO_KEY = "authentication.required"
GARBAGE = "authentication.key_format"
REVOKED = "authentication.key"
FOREIGN = "permission.namespace"
NO_SCOPE = "permission.scope"
MISSING = "model.not_found"
DONE = ""

# What a caller may do in the namespace of the models.
OWN_SCOPES = {
    "own query": {"query"},
    "own upload": {"upload"},
    "own delete": {"delete"},
    "own full": {"query", "upload", "delete"},
}

# By handler: what is needed, written down once more and in another way than in the enclave.
OPEN = {"server_metadata", "live", "ready", "openapi", "attestation", "model_lease"}
OF_A_MODEL = {"model_metadata", "model_ready", "model_config", "describe_model", "infer", "embed"}
LISTS = {"index", "list_models", "all_statistics"}
OF_THE_OWNER = {
    "model_statistics": "query",
    "upload": "upload",
    "load": "upload",
    "unload": "upload",
    "visibility": "upload",
    "set_visibility": "upload",
    "delete": "delete",
}

# What a route answers once its caller may ask, where that is no success.
AFTERWARDS = {"attestation": "gate.already_open", "model_lease": "lease.none", "embed": "model.task"}


def expected(handler: str, caller: str, model: str) -> str:  # noqa: PLR0911 - a table
    """The code of the answer."""
    if handler in OPEN:
        return AFTERWARDS.get(handler, DONE)
    if caller in {"garbage", "revoked"}:
        return GARBAGE if caller == "garbage" else REVOKED
    if handler == "metrics":
        return "permission.metrics"
    scopes = OWN_SCOPES.get(caller)
    if handler in OF_A_MODEL:
        if scopes is not None and "query" not in scopes:
            return NO_SCOPE
        seen = {"private": scopes is not None, "shared": scopes is not None or caller == "partner", "public": True}
        return AFTERWARDS.get(handler, DONE) if seen.get(model, False) else MISSING
    if caller == "no key":
        return NO_KEY
    if handler in LISTS:
        return DONE if scopes is None or "query" in scopes else NO_SCOPE
    if scopes is None:
        return FOREIGN
    if OF_THE_OWNER[handler] not in scopes:
        return NO_SCOPE
    return DONE if model != "missing" or handler == "upload" else MISSING


class Matrix:
    """An enclave with a model of each kind, and a caller of each kind."""

    def __init__(self, enclave: CloudEnclave) -> None:
        self.enclave = enclave
        plane = enclave.plane
        self.keys: dict[str, ApiKey | str | None] = {
            "no key": None,
            "garbage": "bai_sk_" + "a" * 36,
            "revoked": plane.key(OWNER),
            "stranger": plane.key(STRANGER),
            "partner": plane.key(PARTNER),
            "own query": plane.key(OWNER, Scope.QUERY),
            "own upload": plane.key(OWNER, Scope.UPLOAD),
            "own delete": plane.key(OWNER, Scope.DELETE),
            "own full": plane.key(OWNER),
        }
        revoked = self.keys["revoked"]
        assert isinstance(revoked, ApiKey)
        plane.revoke(revoked)
        for name in ("private", "shared", "public"):
            self.place(name)

    def place(self, name: str) -> None:
        """Make the model of this name as it was at first."""
        path = f"/v2/repository/models/{OWNER}/{name}"
        full = self.keys["own full"]
        if self.enclave.ask("GET", path.replace("repository/", "") + "/ready", full).status == 404:
            self.enclave.ask("DELETE", path, full)
            assert self.enclave.ask("PUT", path, full, IDENTITY).status == 201
        to = ModelVisibility(Visibility(name), (PARTNER,) if name == "shared" else ())
        assert self.enclave.ask("PUT", path + "/visibility", full, msgspec.json.encode(to)).status == 200

    def ask(self, method: str, path: str, handler: str, caller: str, model: str) -> str:
        """Ask as `caller` about `model`; the code of the answer."""
        target = path.format(namespace=OWNER, name=model, version="1")
        body, headers = b"", bearer(self.keys[caller])
        if handler == "infer":
            body, length = binary_request(np.ones((1, 3), np.float32))
            headers += (f"Inference-Header-Content-Length: {length}",)
        elif handler == "embed":
            body = msgspec.json.encode({"model": f"{OWNER}/{model}", "input": "text"})
        elif handler == "upload":
            body = IDENTITY
        elif handler == "set_visibility":
            body = msgspec.json.encode(ModelVisibility(Visibility.PRIVATE))
        response = self.enclave.request(method, target, body, *headers)
        if response.status < 400:
            return DONE
        problem = response.json
        return str(problem.get("code") or problem["error"]["code"])


@pytest.fixture(scope="module")
def matrix(enclave: CloudEnclave) -> Matrix:
    return Matrix(enclave)


def test_every_route_has_a_rule_here_and_in_the_enclave() -> None:
    handlers = {route.handler for route in ROUTES}
    assert handlers == RULES.keys()
    assert handlers == OPEN | OF_A_MODEL | LISTS | OF_THE_OWNER.keys() | {"metrics"}


def test_a_route_without_a_rule_does_not_start() -> None:
    with pytest.raises(LookupError, match="wipe_everything"):
        rules_for([*RULES, "wipe_everything"])


def test_a_rule_without_a_route_does_not_start() -> None:
    with pytest.raises(LookupError, match="delete"):
        rules_for(set(RULES) - {"delete"})


def test_every_route_for_every_caller_and_model(matrix: Matrix, figures: Callable[[str], None]) -> None:
    wrong, asked = [], 0
    figures(f"{'':71}" + "".join(f"{caller:14}" for caller in CALLERS))
    for method, path, handler in ROUTES:
        kinds = MODELS if "{name}" in path or handler == "embed" else MODELS[:1]
        for model in kinds:
            cells = []
            for caller in CALLERS:
                want = expected(handler, caller, model)
                got = matrix.ask(method, path, handler, caller, model)
                asked += 1
                if got != want:
                    wrong.append((method, path, caller, model, want, got))
                cells.append((got or "yes").rpartition(".")[2])
                if got == DONE and handler in {"delete", "unload", "set_visibility", "upload"}:
                    restore(matrix, model)
            figures(f"{method:6} {path:55} {model:8} " + "".join(f"{cell:14}" for cell in cells))
    figures(f"{asked} requests: {len(ROUTES)} routes, {len(CALLERS)} callers, models {', '.join(MODELS)}")
    assert wrong == []


def restore(matrix: Matrix, model: str) -> None:
    """Undo what a caller was allowed to do."""
    path, full = f"/v2/repository/models/{OWNER}/{model}", matrix.keys["own full"]
    if model == "missing":
        assert matrix.enclave.ask("DELETE", path, full).status == 200
    else:
        matrix.place(model)


@pytest.mark.parametrize("path", ["", "/ready", "/config", "/versions/1", "/versions/7", "/infer"])
@pytest.mark.parametrize("caller", ["no key", "stranger"])
def test_a_model_that_one_may_not_see_is_answered_as_one_that_does_not_exist(
    matrix: Matrix, caller: str, path: str
) -> None:
    answers: list[Response] = []
    for model in ("private", "absence"):
        method = "POST" if path == "/infer" else "GET"
        answers.append(matrix.enclave.ask(method, f"/v2/models/{OWNER}/{model}{path}", matrix.keys[caller]))
    hidden, missing = answers
    assert hidden.status == missing.status == 404
    assert hidden.headers == missing.headers
    assert hidden.body.replace(b"private", b"absence") == missing.body


def test_lists_show_what_is_ones_own_and_what_was_shared_and_no_public_model(matrix: Matrix) -> None:
    listed = {}
    for caller in ("stranger", "partner", "own query"):
        index = matrix.enclave.ask("POST", "/v2/repository/index", matrix.keys[caller]).json
        models = matrix.enclave.ask("GET", "/v1/models", matrix.keys[caller]).json
        counted = matrix.enclave.ask("GET", "/v2/models/stats", matrix.keys[caller]).json
        assert [entry["name"] for entry in index] == [entry["id"] for entry in models["data"]]
        listed[caller] = (
            [entry["name"] for entry in index],
            [entry["name"] for entry in counted["model_stats"]],
        )
    own = [f"{OWNER}/{name}" for name in ("private", "public", "shared")]
    assert listed == {"stranger": ([], []), "partner": ([f"{OWNER}/shared"], []), "own query": (own, own)}


def test_a_plane_without_questions_hears_nothing_of_garbage(enclave: CloudEnclave, plane: FakeControlPlane) -> None:
    before = len(plane.questions)
    for text in ("", "bai_sk_", "bai_sk_" + "0" * 36, "x" * 500, "bai_sk_" + "é" * 36):
        answer = enclave.request("GET", "/v1/models", b"", f"Authorization: Bearer {text}")
        assert (answer.status, answer.json["error"]["code"]) == (401, GARBAGE)
    enclave.request("POST", "/v2/repository/index", b"", "Authorization: Basic YTpi").assert_problem(401, GARBAGE)
    key = plane.key(OWNER)
    enclave.request("POST", "/v2/repository/index", b"", *bearer(key), *bearer(key)).assert_problem(401, GARBAGE)
    assert key.digest not in {digest for asked in plane.questions[before:] for digest in asked.keys}


def test_the_description_for_machines_says_which_routes_need_a_key(enclave: CloudEnclave) -> None:
    paths = enclave.ask("GET", "/openapi.json").json["paths"]
    key: dict[str, list[str]] = {"key": []}
    for method, path, handler in ROUTES:
        security = [] if handler in OPEN else [key] if handler in LISTS | OF_THE_OWNER.keys() else [{}, key]
        assert paths[path][method.lower()]["security"] == security, handler
