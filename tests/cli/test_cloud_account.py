"""`blindai login`, `logout`, `keys` and what `models` does in a cloud, against a real one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

import blindai.client.login
from blindai.cli.app import app
from blindai.client.control_plane import ControlPlane
from blindai.client.credentials import Credentials
from blindai.client.profile import Profile, profile_path
from blindai.demo.patients import load_model
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud_api import AccessToken, DeviceCodes
from client_cloud import ClientCloud, client_cloud, empty_home

from .conftest import Ended

Type = Callable[..., Ended]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientCloud]:
    with client_cloud(tmp_path_factory.mktemp("cloud")) as one:
        yield one


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_home(tmp_path, monkeypatch)


@pytest.fixture
def blindai_(home: Path) -> Type:
    """Runs a command in this process."""
    runner = CliRunner()

    def run(*arguments: str | Path, **environment: str) -> Ended:
        # The cloud is in this process, and would write its log where the command writes its answer.
        with structlog.testing.capture_logs():
            ended = runner.invoke(app, [*map(str, arguments)], env=environment, catch_exceptions=False)
        return Ended(ended.exit_code, ended.stdout, ended.stderr)

    return run


@pytest.fixture
def consents(cloud: ClientCloud, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Somebody decides in a browser before the command line asks for the first time: `user` and `approve` say who."""
    decision: dict[str, Any] = {"user": cloud.acme.user, "approve": True}
    wait = blindai.client.login.wait_for_consent

    def decided(plane: ControlPlane, codes: DeviceCodes) -> AccessToken:
        cloud.scene.plane.people.decide_device(decision["user"], codes.user_code, approve=decision["approve"])
        decision["codes"] = codes
        return wait(plane, codes, sleep=lambda _: None)

    monkeypatch.setattr(blindai.client.login, "wait_for_consent", decided)
    return decision


@pytest.fixture
def signed_in(cloud: ClientCloud, blindai_: Type, consents: dict[str, Any]) -> Type:
    ended = blindai_("login", cloud.url, "--fingerprint", cloud.fingerprint, "--policy", cloud.manifest)
    assert ended.code == 0, ended.err
    return blindai_


def code_of(ended: Ended) -> tuple[int, str]:
    return ended.code, ended.json["error"]["code"]


# Signing in and out.


def test_signing_in(cloud: ClientCloud, blindai_: Type, consents: dict[str, Any]) -> None:
    fingerprint = ":".join(re.findall("..", cloud.fingerprint.upper()))
    ended = blindai_("login", cloud.url, "--fingerprint", fingerprint, "--policy", cloud.manifest)
    assert ended.code == 0, ended.err
    assert f"signed in to {cloud.url}: acme@example.com, account acme" in ended.out
    codes = consents["codes"]
    assert f"open   {codes.verification_uri}\nenter  {codes.user_code}\n" in ended.err
    assert codes.device_code not in ended.out + ended.err
    assert Profile.load() == Profile(
        policy=str(cloud.manifest),
        cloud=cloud.url,
        fingerprint=cloud.fingerprint,
        account="acme",
        endpoint=cloud.enclave.address,
    )
    token = Credentials(cloud.url).token()
    assert token is not None
    assert token.startswith("bai_at_")
    assert token not in profile_path().read_text() + ended.out + ended.err


def test_signing_in_for_machines_and_again(cloud: ClientCloud, blindai_: Type, consents: dict[str, Any]) -> None:
    Profile(addr="https://old.example", policy=str(cloud.manifest)).save()
    first = blindai_("login", cloud.url, "--fingerprint", cloud.fingerprint, "--json")
    assert first.json == {
        "cloud": cloud.url,
        "account": "acme",
        "email": "acme@example.com",
        "profile": str(profile_path()),
    }
    assert (Profile.load().addr, Profile.load().policy) == ("", str(cloud.manifest))
    # The second time it is known where, and by which certificate.
    again = blindai_("login", BLINDAI_ADDR="https://other.example")
    assert again.code == 0, again.err
    assert "BLINDAI_ADDR is set" in again.err


def test_another_cloud_inherits_nothing(cloud: ClientCloud, signed_in: Type) -> None:
    ended = signed_in("login", cloud.url.replace("localhost", "127.0.0.1"), "--json")
    assert code_of(ended) == (8, "unavailable.certificate")
    assert Profile.load().cloud == cloud.url


def test_the_browser_of_this_machine(
    cloud: ClientCloud, blindai_: Type, consents: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert blindai_("login", cloud.url, "--fingerprint", cloud.fingerprint).code == 0
    assert opened == []
    assert blindai_("login", "--browser").code == 0
    assert opened == [consents["codes"].verification_uri_complete]


def test_a_cloud_that_sends_its_users_elsewhere(
    cloud: ClientCloud, blindai_: Type, consents: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = f"{cloud.url}.evil.example/device"
    codes = DeviceCodes("device", "ABCD-EFGH", page, page, 600, 5)
    monkeypatch.setattr(ControlPlane, "device_codes", lambda *_: codes)
    ended = blindai_("login", cloud.url, "--fingerprint", cloud.fingerprint, "--browser", "--json")
    assert code_of(ended) == (2, "configuration.verification_uri")


def test_somebody_declines(cloud: ClientCloud, blindai_: Type, consents: dict[str, Any]) -> None:
    consents["approve"] = False
    ended = blindai_("login", cloud.url, "--fingerprint", cloud.fingerprint, "--json")
    assert code_of(ended) == (6, "device.access_denied")
    assert not profile_path().exists()


def test_an_account_of_somebody_else(cloud: ClientCloud, blindai_: Type, consents: dict[str, Any]) -> None:
    options = ["login", cloud.url, "--fingerprint", cloud.fingerprint, "--json"]
    assert code_of(blindai_(*options, "--account", "clinic")) == (5, "account.unknown")
    assert code_of(blindai_(*options, "--account", "Clinic")) == (5, "account.name")
    assert Credentials(cloud.url).token() is None
    # The token that was made for nothing is worth nothing.
    assert not profile_path().exists()


def test_an_organisation(cloud: ClientCloud, blindai_: Type, consents: dict[str, Any]) -> None:
    cloud.scene.plane.accounts.create_organisation(cloud.acme.user, "hospital")
    options = ["login", cloud.url, "--fingerprint", cloud.fingerprint, "--json"]
    assert blindai_(*options).json["account"] == "acme"
    assert blindai_(*options, "--account", "hospital").json["account"] == "hospital"
    assert blindai_("keys", "list", "--json").json == []


def test_signing_out(cloud: ClientCloud, signed_in: Type) -> None:
    token = Credentials(cloud.url).token()
    assert token is not None
    ended = signed_in("logout", "--json")
    assert ended.json == {"cloud": cloud.url, "given_back": True}
    assert Profile.load() == Profile(policy=str(cloud.manifest))
    assert Credentials(cloud.url).token() is None
    assert code_of(signed_in("logout", "--json")) == (2, "configuration.no_cloud")
    assert code_of(signed_in("keys", "list", "--json")) == (2, "configuration.no_cloud")
    assert code_of(signed_in("login", "--json")) == (2, "configuration.no_cloud")
    cloud.profile()
    Credentials(cloud.url).keep_token(token)
    assert signed_in("keys", "list", "--json").code == 6


def test_signing_out_of_a_cloud_that_is_gone(cloud: ClientCloud, blindai_: Type) -> None:
    cloud.profile(cloud="https://127.0.0.1:1")
    Credentials("https://127.0.0.1:1").keep_token("bai_at_secret")
    ended = blindai_("logout")
    assert ended.code == 0
    assert "signed out of https://127.0.0.1:1" in ended.out
    assert "was not given back" in ended.err
    assert Credentials("https://127.0.0.1:1").token() is None


def test_a_machine_with_a_key(cloud: ClientCloud, blindai_: Type, home: Path) -> None:
    def program(text: str, *options: str) -> Ended:
        """In a process of its own, for its standard input."""
        trust = ["--fingerprint", cloud.fingerprint]
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "blindai", "login", cloud.url, *trust, "--api-key-stdin", "--json", *options],
            env=os.environ | {"PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"},
            input=text.encode(),
            capture_output=True,
            timeout=60,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    key = cloud.acme.key.text
    assert code_of(blindai_("login", cloud.url, "--api-key-stdin", "--json")) == (2, "configuration.account")
    mistyped = f"{key[:-1]}{'a' if key[-1] != 'a' else 'b'}"
    assert code_of(program(mistyped, "--account", "acme")) == (6, "authentication.key_format")
    ended = program(f"{key}\n", "--account", "acme", "--policy", str(cloud.manifest))
    assert (ended.json["account"], ended.json["key"]) == ("acme", cloud.acme.key.id)
    assert key not in ended.out + ended.err + profile_path().read_text()
    assert code_of(blindai_("keys", "list", "--json")) == (2, "configuration.not_signed_in")
    assert blindai_("models", "list", "--json").code == 0


# Keys.


def test_a_key_from_its_making_to_its_end(cloud: ClientCloud, signed_in: Type) -> None:
    made = signed_in("keys", "create", "laptop", "--scope", "query", "--scope", "delete", "--expires", "30")
    assert made.code == 0, made.err
    key = ApiKey.parse(made.out)
    assert made.out == f"{key.text}\n"
    assert f"made {key.id}, laptop of acme: query, delete; until 20" in made.err
    assert key.text not in made.err
    listed = signed_in("keys", "list")
    assert key.text not in listed.out
    (row,) = (line for line in listed.out.splitlines() if line.startswith(key.id))
    assert "laptop" in row
    assert "query delete" in row
    assert "never" in row
    # Whoever pastes the whole key means it, and does not see it again.
    revoked = signed_in("keys", "revoke", key.text)
    assert (revoked.code, revoked.out) == (0, f"revoked {key.id}, laptop\n")
    assert "revoked 20" in next(line for line in signed_in("keys", "list").out.splitlines() if key.id in line)


def test_keys_for_machines(cloud: ClientCloud, signed_in: Type) -> None:
    made = signed_in("keys", "create", "ci", "--json").json
    key = ApiKey.parse(made["api_key"])
    assert (made["entry"]["id"], made["entry"]["scopes"], made["stored"]) == (key.id, ["query"], False)
    assert key.id in [one["id"] for one in signed_in("keys", "list", "--json").json]
    assert signed_in("keys", "revoke", key.id, "--json").json["revoked_at"] is not None
    assert code_of(signed_in("keys", "revoke", "bai_sk_00000000", "--json")) == (5, "account.key_unknown")
    assert code_of(signed_in("keys", "create", "x" * 65, "--json")) == (5, "input.key")
    assert code_of(signed_in("keys", "create", "x", "--expires", "0", "--json")) == (5, "input.key")
    assert code_of(signed_in("keys", "list", "--account", "clinic", "--json")) == (5, "account.unknown")


def test_a_key_that_is_stored_is_not_shown_and_goes_when_it_is_revoked(cloud: ClientCloud, signed_in: Type) -> None:
    made = signed_in("keys", "create", "here", "--store", "--json")
    assert ("api_key" in made.json, made.json["stored"]) == (False, True)
    stored = Credentials(cloud.url).key("acme")
    assert stored is not None
    assert stored not in made.out + made.err
    another = signed_in("keys", "create", "there", "--json").json["entry"]["id"]
    signed_in("keys", "revoke", another)
    assert Credentials(cloud.url).key("acme") == stored
    signed_in("keys", "revoke", ApiKey(stored).id)
    assert Credentials(cloud.url).key("acme") is None
    words = signed_in("keys", "create", "again", "--store")
    assert (words.out, "kept in" in words.err) == ("", True)


# Models.


def test_models_of_an_account(cloud: ClientCloud, signed_in: Type, tmp_path: Path) -> None:
    signed_in("keys", "create", "models", "--store", "--scope", "upload", "--scope", "query", "--scope", "delete")
    model = tmp_path / "model.onnx"
    model.write_bytes(load_model())
    assert signed_in("models", "upload", model, "--id", "acme/tumours").code == 0
    shared = signed_in("models", "share", "acme/tumours", "clinic", "hospital")
    assert shared.out == "acme/tumours is shared with clinic, hospital\n"
    assert signed_in("models", "publish", "acme/tumours").out == "acme/tumours is public\n"
    assert signed_in("models", "share", "acme/tumours", "clinic", "--json").json == {
        "name": "acme/tumours",
        "visibility": "shared",
        "shared_with": ["clinic"],
    }
    listed = signed_in("models", "list")
    assert listed.out.splitlines()[0].split() == ["MODEL", "VERSION", "STATE", "VISIBILITY", "REASON"]
    assert ["acme/tumours", "1", "READY", "shared"] in [line.split() for line in listed.out.splitlines()]
    assert signed_in("models", "list", "--json").json == [
        {"name": "acme/tumours", "version": "1", "state": "READY", "reason": "", "visibility": "shared"}
    ]
    assert signed_in("models", "private", "acme/tumours").out == "acme/tumours is private\n"
    assert code_of(signed_in("models", "share", "acme/tumours", "Clinic", "--json")) == (5, "account.name")
    assert code_of(signed_in("models", "publish", "acme/none", "--json")) == (4, "model.not_found")
    inputs = tmp_path / "input.json"
    inputs.write_text(json.dumps([[0.5] * 30]))
    assert signed_in("predict", "acme/tumours", inputs, "--json").code == 0
    # The account of the model says where it is; here there is one endpoint for all.
    assert code_of(signed_in("predict", "clinic/none", inputs, "--json")) == (4, "model.not_found")
    assert signed_in("models", "list", "--account", "clinic", "--json").code == 0
    assert signed_in("models", "delete", "acme/tumours").code == 0
