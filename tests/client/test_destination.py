"""Whom a client talks to, and which key it sends there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from blindai import AsyncConnection, Connection
from blindai.client.credentials import Credentials
from blindai.client.destination import Destination, resolve_address
from blindai.client.profile import Address, Profile
from blindai.errors import (
    AuthenticationError,
    BlindAIError,
    ConfigurationError,
    InvalidInput,
    ModelNotFound,
    Unavailable,
)
from blindai.wire.cloud import Visibility
from client_cloud import ClientCloud

NOWHERE = "https://127.0.0.1:1"
ROW = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)


def code_of(kind: type[BlindAIError], addr: str | None = None, namespace: str | None = None) -> str:
    with pytest.raises(kind) as caught:
        Destination.choose(addr, namespace=namespace)
    return caught.value.code


# Choosing.


def test_what_is_named_comes_before_what_is_stored(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_of(ConfigurationError) == "configuration.address_missing"
    Profile(cloud="https://cloud.example", account="acme").save()
    stored = Destination.choose()
    assert (stored.address, stored.namespace, stored.name) == (None, "acme", "https://cloud.example")
    Profile(addr="https://stored.example", cloud="https://cloud.example", account="acme").save()
    assert Destination.choose().address == Address("stored.example")
    monkeypatch.setenv("BLINDAI_ADDR", "https://variable.example")
    assert Destination.choose().address == Address("variable.example")
    assert Destination.choose("https://named.example").address == Address("named.example")


def test_an_account_is_named_in_a_cloud_alone(home: Path) -> None:
    assert code_of(ConfigurationError, addr="https://named.example", namespace="clinic") == "configuration.namespace"
    Profile(cloud="https://cloud.example", account="acme").save()
    assert Destination.choose(namespace="clinic").namespace == "clinic"
    assert code_of(InvalidInput, namespace="Clinic") == "account.name"
    assert code_of(InvalidInput, namespace="cl\u0456nic") == "account.name"


def test_a_cloud_without_an_account(home: Path) -> None:
    Profile(cloud="https://cloud.example").save()
    assert code_of(InvalidInput) == "account.name"


# Finding.


def test_the_directory_says_where_an_account_is(home: Path, cloud: ClientCloud) -> None:
    cloud.profile()
    assert resolve_address().url == cloud.enclave.address
    assert resolve_address(namespace="clinic").url == cloud.enclave.address


def test_a_cloud_that_does_not_answer_is_no_hindrance_to_its_own_account(home: Path, cloud: ClientCloud) -> None:
    cloud.profile(cloud=NOWHERE, endpoint=cloud.enclave.address)
    assert resolve_address().url == cloud.enclave.address
    with pytest.raises(Unavailable) as caught:
        resolve_address(namespace="clinic")
    assert caught.value.code == "unavailable.connection"
    cloud.profile(cloud=NOWHERE)
    with pytest.raises(Unavailable):
        resolve_address()


def test_a_cloud_without_an_endpoint(home: Path, cloud: ClientCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    from blindai.client.control_plane import ControlPlane
    from blindai.wire.cloud_api import Directory, Endpoint

    cloud.profile()
    monkeypatch.setattr(ControlPlane, "directory", lambda _: Directory("", ()))
    with pytest.raises(Unavailable) as caught:
        resolve_address()
    assert caught.value.code == "unavailable.endpoint"
    monkeypatch.setattr(ControlPlane, "directory", lambda _: Directory("", (Endpoint("http://x", simulated=False),)))
    with pytest.raises(ConfigurationError) as refused:
        resolve_address()
    assert refused.value.code == "configuration.address"


# Keys.


def test_a_stored_key_is_for_the_cloud_of_the_profile_alone(
    home: Path, cloud: ClientCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.profile()
    stored = Credentials(cloud.url)
    assert Destination.choose().api_key() is None
    stored.keep_key("acme", "bai_sk_acme")
    stored.keep_key("clinic", "bai_sk_clinic")
    Credentials(NOWHERE).keep_key("acme", "bai_sk_of_another_cloud")
    assert Destination.choose().api_key() == "bai_sk_acme"
    assert Destination.choose(namespace="clinic").api_key() == "bai_sk_clinic"
    assert Destination.choose(namespace="somebody").api_key() == "bai_sk_acme"
    assert Destination.choose(cloud.enclave.address).api_key() is None
    monkeypatch.setenv("BLINDAI_ADDR", cloud.enclave.address)
    assert Destination.choose().api_key() is None


@pytest.mark.parametrize(
    "key", ["bai_sk_short", "bai_at_" + "a" * 36, "bai_sk_" + "0" * 36, "bai_sk_" + "0" * 35 + "!", "bai_sk_", " bai_"]
)
def test_a_mistyped_key_is_refused_before_anybody_is_asked(home: Path, key: str) -> None:
    # Nobody listens there: whoever had been asked would be unavailable.
    for kind in (Connection, AsyncConnection):
        with pytest.raises(AuthenticationError) as caught:
            kind(NOWHERE, api_key=key, simulation=True)
        assert caught.value.code == "authentication.key_format"
        assert key.strip()[7:] not in str(caught.value) or not key.strip()[7:]


# The whole way.


def test_two_lines_are_enough_for_who_is_signed_in(home: Path, cloud: ClientCloud, adder: bytes) -> None:
    cloud.profile()
    Credentials(cloud.url).keep_key("acme", cloud.acme.key.text)
    with Connection(progress=False) as client:
        assert client.address == cloud.enclave.address
        client.upload_model(adder, model_id="acme/adder")
        assert client.predict("acme/adder", ROW).output[0].as_numpy().tolist() == [[2.0, 3.0, 4.0]]


def test_who_may_query_a_model_is_said_by_its_account(home: Path, cloud: ClientCloud, adder: bytes) -> None:
    friend, stranger = cloud.scene.tenant("friend"), cloud.scene.tenant("stranger")
    cloud.profile()
    with Connection(api_key=cloud.acme.key.text, progress=False) as client:
        client.upload_model(adder, model_id="acme/shown")
        assert client.visibility("acme/shown").visibility is Visibility.PRIVATE
        shown = client.set_visibility("acme/shown", "shared", shared_with=["friend", "friend"])
        assert (shown.visibility, shown.shared_with) == (Visibility.SHARED, ("friend",))
    with Connection(api_key=friend.key.text, namespace="acme", progress=False) as client:
        client.predict("acme/shown", ROW)
        with pytest.raises(BlindAIError):
            client.set_visibility("acme/shown", "public")
    with (
        Connection(api_key=stranger.key.text, namespace="acme", progress=False) as client,
        pytest.raises(ModelNotFound),
    ):
        client.predict("acme/shown", ROW)


def test_the_same_for_asyncio(home: Path, cloud: ClientCloud, adder: bytes) -> None:
    cloud.profile()
    Credentials(cloud.url).keep_key("acme", cloud.acme.key.text)

    async def journey() -> None:
        client = AsyncConnection(progress=False)
        # Nothing was contacted yet.
        assert (client.address, repr(client)) == (cloud.url, f"<AsyncConnection {cloud.url} (not connected)>")
        async with client:
            assert client.address == cloud.enclave.address
            await client.upload_model(adder, model_id="acme/later")
            assert (await client.set_visibility("acme/later", "public")).visibility is Visibility.PUBLIC
            assert (await client.visibility("acme/later")).visibility is Visibility.PUBLIC
        late = AsyncConnection(progress=False)
        answers = await asyncio.gather(late.predict("acme/later", ROW), late.predict("acme/later", ROW))
        assert [answer.output[0].as_numpy().tolist() for answer in answers] == [[[2.0, 3.0, 4.0]]] * 2
        await late.close()

    asyncio.run(journey())


@pytest.mark.parametrize(
    ("visibility", "shared_with", "code"),
    [
        ("hidden", (), "input.visibility"),
        ("shared", (), "input.visibility"),
        ("public", ("friend",), "input.visibility"),
        ("private", ("friend",), "input.visibility"),
        ("shared", ("Friend",), "account.name"),
        ("shared", ("a" * 40,), "account.name"),
    ],
)
def test_a_visibility_that_there_is_not(
    home: Path, cloud: ClientCloud, visibility: str, shared_with: tuple[str, ...], code: str
) -> None:
    with cloud.enclave.client(cloud.acme.key) as client:
        with pytest.raises(InvalidInput) as caught:
            client.set_visibility("acme/anything", visibility, shared_with=shared_with)
        assert caught.value.code == code


def test_when_a_server_wants_to_be_asked_again() -> None:
    from blindai.client.calls import retry_seconds

    assert [retry_seconds(value) for value in ("7", "0", None, "", "-1", "soon", "1" * 9, "\u0667")] == [7] + [0] * 7
