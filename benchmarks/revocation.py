"""How fast a key that was revoked is refused: with the control plane at hand, and with the line to it cut.

python benchmarks/revocation.py [--quick] [--tries N]
"""

from __future__ import annotations

import argparse
import http.client
import logging
import secrets
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import numpy as np
from processes import Server, started
from report import Table
from workload import tiny_model

from blindai import AuthenticationError, Connection, Unavailable
from blindai.cloud import tables
from blindai.cloud.control_plane import ControlPlane, Place
from blindai.cloud.mail import Message
from blindai.cloud.site import Site
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import Scope
from blindai.wire.cloud_api import PREFIX, NewKey

TRIES = 30
QUICK_TRIES = 1

# What is promised for every key, everywhere.
LIMIT_SECONDS = 5.0

_ACCOUNT = "bench"
_MODEL = f"{_ACCOUNT}/model"
_PASSWORD = secrets.token_urlsafe(24)
_HERE = "127.0.0.1"

# Revocations come at any moment between two of the enclave's questions.
_QUESTIONS_SECONDS = 1.0

_PATIENCE_SECONDS = 60.0

_INPUT = np.ones((1, 16), np.float32)

METHOD = (
    "Control plane and enclave are processes of their own, on a simulated platform. A client queries a model with a key"
    " without a pause; at a random moment the key is revoked by the JSON interface, as `blindai keys revoke` does it."
    " *Good for* is the time from the request that revokes to the last answer to a query; *refused* to the first"
    " refusal. For *cut off* the control plane's process is suspended as soon as it has answered that request: the"
    " enclave hears nothing more from it, and the key is good until its assertion has run out; the query after that"
    " waits while the enclave asks once more."
)


@dataclass(frozen=True)
class Cloud:
    """What runs.

    Attributes:
        plane: of this process, on the database of the one that serves.
        server: the control plane's process.
        address: of the enclave.
        user: the id of somebody with an account.
        token: of their command line.
    """

    plane: ControlPlane
    server: Server
    address: str
    user: str
    token: str

    def key(self, *scopes: Scope) -> ApiKey:
        """A new key."""
        made = self.plane.accounts.create_key(self.user, _ACCOUNT, NewKey(name="bench", scopes=scopes))
        return ApiKey.parse(made.api_key)

    def client(self, key: ApiKey) -> Connection:
        """Connected to the enclave."""
        return Connection(self.address, simulation=True, api_key=key.text, progress=False)

    def interface(self) -> http.client.HTTPSConnection:
        """An open connection to the JSON interface."""
        port = int(str(self.server.said["people"]).rpartition(":")[2])
        context = ssl.create_default_context(cafile=str(self.plane.place.tls / "pages.pem"))
        connection = http.client.HTTPSConnection("localhost", port, context=context)
        connection.connect()
        return connection

    def revoke(self, key: ApiKey, connection: http.client.HTTPSConnection) -> None:
        """As `blindai keys revoke`."""
        path = f"{PREFIX}/namespaces/{_ACCOUNT}/keys/{key.id}"
        connection.request("DELETE", path, headers={"Authorization": f"Bearer {self.token}"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"DELETE {path}: {answer.status}")


@dataclass(frozen=True)
class Times:
    """Of one try, in seconds since the revocation."""

    good_for: float
    refused: float


class _Mails:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, message: Message) -> None:
        self.sent.append(message)


def measure(tries: int) -> Table:
    """Both, each `tries` times."""
    with cloud() as one:
        rows = [
            _row("at hand", [_revoked(one, cut=False) for _ in range(tries)]),
            _row("cut off", [_revoked(one, cut=True) for _ in range(tries)]),
        ]
    return Table(
        title="Revocation",
        method=METHOD,
        columns=["", "good for, s: p50", "max", "refused, s: p50", "max"],
        rows=rows,
        notes=[f"{tries} tries each; the promise is {LIMIT_SECONDS:.0f} s."],
    )


@contextmanager
def cloud() -> Iterator[Cloud]:
    """A control plane and an enclave of it, with somebody who has an account and a model there."""
    logging.getLogger("blindai").setLevel(logging.ERROR)  # that it is simulated goes without saying here
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        command = [sys.executable, "-m", "blindai"]
        place = Place.at(folder / "cloud")
        ports = ["--enclave-port", "0", "--port", "0"]
        server = stack.enter_context(
            started([*command, "cloud", "serve", "--data", str(place.data), "--simulation", *ports, "--json"])
        )
        mails = _Mails()
        plane = stack.enter_context(ControlPlane.open(place, Site("Bench", str(server.said["url"])), mails))
        user = _sign_up(plane, mails)
        port = _free_port()
        config = folder / "enclave.toml"
        config.write_text(
            f'[cloud]\naddress = "{server.said["enclaves"]}"\npublic_key = "{plane.public_key}"\n'
            f'endpoint = "https://{_HERE}:{port}"\n',
            "utf-8",
        )
        arguments = ["--platform", "simulated-tdx", "--port", str(port), "--config", str(config), "--json"]
        enclave = stack.enter_context(started([*command, "serve", *arguments]))
        one = Cloud(plane, server, str(enclave.said["address"]), user, _token(plane, user))
        with one.client(one.key(Scope.UPLOAD)) as client:
            client.upload_model(tiny_model(), model_id=_MODEL)
        yield one


def _sign_up(plane: ControlPlane, mails: _Mails) -> str:
    plane.people.sign_up(f"{_ACCOUNT}@example.com", _PASSWORD, _ACCOUNT, address=_HERE)
    user = plane.people.verify(mails.sent[-1].text.partition("link=")[2].split()[0])
    account = tables.namespaces.c.name == _ACCOUNT
    with plane.database.write() as connection:
        # Who queries without a pause must meet no quota.
        connection.execute(tables.namespaces.update().where(account).values(per_minute=10**9, per_month=None))
    return user.id


def _token(plane: ControlPlane, user: str) -> str:
    """As `blindai login` gets it."""
    codes = plane.people.device_codes("bench", address=_HERE)
    plane.people.decide_device(user, codes.user_code, approve=True)
    return plane.people.device_token(codes.device_code).access_token


def _revoked(one: Cloud, *, cut: bool) -> Times:
    """Revoke a key while queries run, and wait for the first that is refused."""
    key = one.key(Scope.QUERY)
    with one.client(key) as client:
        _await_served(client)
        until = time.monotonic() + _QUESTIONS_SECONDS * (1 + secrets.randbelow(1000) / 1000)
        while time.monotonic() < until:
            client.predict(_MODEL, _INPUT)
        connection = one.interface()
        client.predict(_MODEL, _INPUT)
        answered = began = time.monotonic()
        one.revoke(key, connection)
        if cut:
            one.server.process.send_signal(SIGSTOP)
        try:
            while answered < began + _PATIENCE_SECONDS:
                client.predict(_MODEL, _INPUT)
                answered = time.monotonic()
        except AuthenticationError:
            return Times(answered - began, time.monotonic() - began)
        except Unavailable as error:
            if not cut or error.code != "unavailable.cloud":
                raise
            return Times(answered - began, time.monotonic() - began)
        finally:
            if cut:
                one.server.process.send_signal(SIGCONT)
            connection.close()
    raise RuntimeError(f"a key that was revoked was good for {_PATIENCE_SECONDS} s")


def _await_served(client: Connection) -> None:
    """After the control plane was away, the enclave takes a moment to ask again."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            client.predict(_MODEL, _INPUT)
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _row(name: str, times: Sequence[Times]) -> list[str]:
    columns = [one.good_for for one in times], [one.refused for one in times]
    return [name, *(f"{figure(column):.2f}" for column in columns for figure in (statistics.median, max))]


def _free_port() -> int:
    """The enclave's address stands in its configuration, before it listens."""
    with socket.create_server((_HERE, 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tries", type=int, default=TRIES)
    options = parser.parse_args()
    print(measure(QUICK_TRIES if options.quick else options.tries).markdown(), flush=True)
