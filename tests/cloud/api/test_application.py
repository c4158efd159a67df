from __future__ import annotations

import json
from typing import Any

import pytest

from blindai.cloud.api import rates
from blindai.cloud.api.call import Call
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud_api import MAX_REQUEST_BYTES, PREFIX, TOKEN_PREFIX
from cloud_scene import CloudScene

from .conftest import CommandLine, assert_problem

KEYS = "/namespaces/acme/keys"


# Who is asked for a token, and which are none.


def test_a_command_line_signs_in_and_out(world: CloudScene, stranger: CommandLine, command_line: CommandLine) -> None:
    codes = json.loads(stranger.call("POST", "/device/codes", {"name": "laptop"}).body)
    assert codes["verification_uri"].startswith(world.plane.site.url)
    asked = {"device_code": codes["device_code"]}
    assert_problem(stranger.call("POST", "/device/tokens", asked), 400, "device.authorization_pending")
    assert_problem(stranger.call("POST", "/device/tokens", asked), 400, "device.slow_down")
    user = world.plane.people.user_of_token(command_line.token)
    assert user is not None
    world.plane.people.decide_device(user.id, codes["user_code"], approve=True)
    answer = stranger.call("POST", "/device/tokens", asked)
    assert answer.status == 200
    stranger.token = json.loads(answer.body)["access_token"]
    assert_problem(stranger.call("POST", "/device/tokens", asked), 400, "device.expired_token")
    account = json.loads(stranger.call("GET", "/account").body)
    assert account == {
        "email": "acme@example.com",
        "namespaces": [{"namespace": "acme", "kind": "personal", "role": "admin"}],
    }
    assert stranger.call("DELETE", "/token").status == 204
    assert_problem(stranger.call("GET", "/account"), 401, "authentication.access_token")


def test_a_sign_in_that_was_declined(world: CloudScene, stranger: CommandLine, command_line: CommandLine) -> None:
    codes = json.loads(stranger.call("POST", "/device/codes", {"name": "laptop"}).body)
    user = world.plane.people.user_of_token(command_line.token)
    assert user is not None
    world.plane.people.decide_device(user.id, codes["user_code"], approve=False)
    answer = stranger.call("POST", "/device/tokens", {"device_code": codes["device_code"]})
    assert_problem(answer, 400, "device.access_denied")


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic YWRtaW46YWRtaW4=",
        "Bearer unknown",
        f"Bearer {TOKEN_PREFIX}",
        f"Bearer {TOKEN_PREFIX}{'A' * 43}",
        f"Bearer {TOKEN_PREFIX}{'A' * 10_000}",
        f"Bearer {TOKEN_PREFIX}\xe9",
        f"Bearer {TOKEN_PREFIX}' OR '1'='1",
        "Bearer null",
    ],
)
def test_what_is_no_token(stranger: CommandLine, authorization: str) -> None:
    answer = stranger.call("GET", "/account", authorization=authorization)
    assert_problem(answer, 401, "authentication.access_token")
    assert answer.header("www-authenticate") == "Bearer"
    assert "login" in json.loads(answer.body)["hint"]


def test_an_api_key_is_no_token(world: CloudScene, command_line: CommandLine) -> None:
    made = json.loads(command_line.call("POST", KEYS, {"name": "a key"}).body)
    command_line.token = made["api_key"]
    answer = command_line.call("GET", "/account")
    assert_problem(answer, 401, "authentication.access_token")
    assert "API key" in answer.text
    assert made["api_key"] not in answer.text


def test_the_scheme_is_read_in_any_case(command_line: CommandLine) -> None:
    assert command_line.call("GET", "/account", authorization=f"bEARER  {command_line.token}").status == 200


def test_a_session_is_no_token(world: CloudScene, stranger: CommandLine) -> None:
    """So no page of another site can make a browser call this with what it holds."""
    session = world.sign_in("acme@example.com")
    stranger.browser.cookies["__Host-session"] = session
    assert_problem(stranger.call("GET", "/account"), 401, "authentication.access_token")
    assert_problem(
        stranger.call("GET", "/account", authorization=f"Bearer {session}"), 401, "authentication.access_token"
    )


@pytest.mark.parametrize("name", ["access_token", "token"])
def test_a_token_is_not_taken_from_the_address(command_line: CommandLine, name: str) -> None:
    address = f"/account?{name}={command_line.token}"
    command_line.token = ""
    assert_problem(command_line.call("GET", address), 401, "authentication.access_token")


# Keys.


def test_keys_are_made_listed_and_revoked(command_line: CommandLine) -> None:
    wanted = {"name": "laptop", "scopes": ["upload", "query"], "expires_in_days": 30}
    answer = command_line.call("POST", KEYS, wanted)
    assert answer.status == 201
    assert answer.header("cache-control") == "no-store"
    made = json.loads(answer.body)
    assert ApiKey.parse(made["api_key"]).id == made["entry"]["id"]
    assert made["entry"]["scopes"] == ["query", "upload"]
    listed = json.loads(command_line.call("GET", KEYS).body)["keys"]
    assert made["entry"] in listed
    assert made["api_key"] not in command_line.call("GET", KEYS).text
    revoked = json.loads(command_line.call("DELETE", f"{KEYS}/{made['entry']['id']}").body)
    assert revoked["revoked_at"]
    # Once more changes nothing.
    again = json.loads(command_line.call("DELETE", f"{KEYS}/{made['entry']['id']}").body)
    assert again["revoked_at"] == revoked["revoked_at"]


def test_what_enclaves_report_is_empty_before_they_do(command_line: CommandLine) -> None:
    assert json.loads(command_line.call("GET", "/namespaces/acme/models").body) == {"models": []}
    usage = json.loads(command_line.call("GET", "/namespaces/acme/usage").body)
    assert (usage["namespace"], usage["month_queries"], usage["hours"]) == ("acme", 0, [])
    assert json.loads(command_line.call("GET", "/directory").body)["endpoints"] == []


@pytest.mark.parametrize(
    "namespace", ["nowhere", "Acme", "%D0%B0cme", "ac%20me", "%00", "%ff", "acme%0a", "acme%0d%0aX:%20y", "x" * 5000]
)
def test_an_account_that_there_is_not(command_line: CommandLine, namespace: str) -> None:
    assert_problem(command_line.call("GET", f"/namespaces/{namespace}/keys"), 404, "account.unknown")


@pytest.mark.parametrize("key", ["bai_sk_00000000", "bai_sk_", "x", "%00", "%ff", "x" * 5000])
def test_a_key_that_there_is_not(command_line: CommandLine, key: str) -> None:
    assert_problem(command_line.call("DELETE", f"{KEYS}/{key}"), 404, "account.key_unknown")


# Bodies.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"name"',
        b"{",
        b'{"name": "a"} x',
        b'{"name": "a"}{"name": "b"}',
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b'{"name": "a", "name2": "b"}',
        b'{"name": 1}',
        b'{"name": null}',
        b'{"name": ""}',
        b'{"name": " "}',
        b'{"name": "a\\u0000"}',
        b'{"name": "a\\r\\nSet-Cookie: x"}',
        b'{"name": "a\\u202eb"}',
        b'{"name": "a", "scopes": []}',
        b'{"name": "a", "scopes": ["admin"]}',
        b'{"name": "a", "scopes": "query"}',
        b'{"name": "a", "expires_in_days": 0}',
        b'{"name": "a", "expires_in_days": -1}',
        b'{"name": "a", "expires_in_days": 1e400}',
        b'{"name": "a", "expires_in_days": 100000000000000000000000}',
        b'{"name": "a", "expires_in_days": "1"}',
        b'{"name": "a", "namespace": "other"}',
        b'{"name": "a", "id": "bai_sk_00000000"}',
        b"[" * 16_000,
        b'{"a":' * 3_000,
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
def test_a_body_that_is_none_of_ours(command_line: CommandLine, body: bytes) -> None:
    before = command_line.call("GET", KEYS).body
    answer = command_line.call("POST", KEYS, body, content_type="application/json")
    assert_problem(answer, 400, "input.body")
    assert command_line.call("GET", KEYS).body == before


def test_a_body_that_is_too_large(command_line: CommandLine) -> None:
    body = json.dumps({"name": "a" * MAX_REQUEST_BYTES}).encode()
    assert_problem(command_line.call("POST", KEYS, body), 413, "quota.body")


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_a_body_that_a_form_of_another_site_could_send(command_line: CommandLine, kind: str) -> None:
    answer = command_line.call("POST", KEYS, b'{"name": "a"}', content_type=kind)
    assert_problem(answer, 415, "http.content_type")


def test_the_type_may_have_parameters(command_line: CommandLine) -> None:
    answer = command_line.call("POST", KEYS, b'{"name": "a"}', content_type="Application/JSON; charset=utf-8")
    assert answer.status == 201


# Addresses and methods.


@pytest.mark.parametrize(
    "path", ["/", "/unknown", "/account/", "//account", "/namespaces/acme", "/namespaces/a/b/keys"]
)
def test_an_address_that_there_is_not_is_a_problem_and_no_page(command_line: CommandLine, path: str) -> None:
    assert_problem(command_line.call("GET", path), 404, "http.not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/account", {"GET", "HEAD"}),
        ("OPTIONS", "/account", {"GET", "HEAD"}),
        ("TRACE", KEYS, {"GET", "HEAD", "POST"}),
        ("PUT", f"{KEYS}/x", {"DELETE"}),
        ("GET", "/token", {"DELETE"}),
    ],
)
def test_a_method_that_there_is_not(command_line: CommandLine, method: str, path: str, allowed: set[str]) -> None:
    answer = command_line.call(method, path)
    assert_problem(answer, 405, "http.method")
    assert set(answer.header("allow").split(", ")) == allowed


def test_head_is_answered_as_get(command_line: CommandLine) -> None:
    assert command_line.call("HEAD", "/account").status == 200
    command_line.token = ""
    assert command_line.call("HEAD", "/account").status == 401


# What is common to all answers.


def test_every_answer_forbids_caches_and_frames(command_line: CommandLine, stranger: CommandLine) -> None:
    for answer in (command_line.call("GET", "/account"), stranger.call("GET", "/account"), stranger.call("GET", "/x")):
        assert answer.header("cache-control") == "no-store"
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("access-control-allow-origin") == ""
        assert answer.header("set-cookie") == ""


def test_a_place_that_calls_too_often_has_to_wait(world: CloudScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "PER_MINUTE", 3)
    hasty = CommandLine(world, "")
    for _ in range(3):
        assert hasty.call("GET", "/account").status == 401
    answer = hasty.call("GET", "/account")
    assert_problem(answer, 429, "quota.requests")
    assert int(answer.header("retry-after")) > 0
    # The pages have limits of their own.
    assert hasty.browser.get("/sign-in").status == 200


def test_nobody_is_shown_by_what_a_call_is_called(command_line: CommandLine) -> None:
    request: Any = type("Request", (), {"method": "GET", "url": type("Url", (), {"path": PREFIX})})
    call = Call(plane=command_line.scene.plane, request=request, address="192.0.2.1", token=command_line.token)
    assert command_line.token not in repr(call)
    with pytest.raises(AssertionError):
        _ = call.signed_in
