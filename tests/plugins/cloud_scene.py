"""A control plane for tests: people, accounts, keys, and enclaves that a test plays itself or starts."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
from argon2 import PasswordHasher
from starlette.applications import Starlette

from blindai import Connection
from blindai.attestation.policy import Policy
from blindai.channel.calling import CallingEnd
from blindai.channel.end import AttestedEnd
from blindai.channel.listening import listen
from blindai.channel.receiving import Caller
from blindai.cloud import tables
from blindai.cloud.application import application
from blindai.cloud.control_plane import ControlPlane, Place
from blindai.cloud.mail import Outbox
from blindai.cloud.server import Addresses, CloudServer
from blindai.cloud.site import Site
from blindai.enclave.config import EnclaveConfig
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.web.certificate import PagesTls
from blindai.web.passwords import Passwords
from blindai.wire import cloud as wire
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import Scope
from blindai.wire.cloud_api import NewKey
from calling_instance import Line
from enclave_server import RunningServer
from lease_enclaves import Platform

T = TypeVar("T")

# Enough to sign in with, and no second of every test.
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

PASSWORD = "correct horse battery staple"
URL = "https://localhost:9447"
NAME = "A cloud"
PLACE = "192.0.2.1"

EVERYTHING = (Scope.QUERY, Scope.UPLOAD, Scope.DELETE)

WAIT_SECONDS = 20.0


@dataclass
class SceneClock:
    """The machine's wall clock, moved by `shift` seconds."""

    shift: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.shift


@dataclass(frozen=True)
class Mail:
    """One that was sent."""

    to: str
    subject: str
    text: str

    @property
    def link(self) -> str:
        """What is in the first link that it holds."""
        found = re.search(r"[?&]link=([A-Za-z0-9_-]+)", self.text)
        assert found is not None, self.text
        return found[1]


@dataclass(frozen=True)
class Tenant:
    """Somebody with an account.

    Attributes:
        user: the id.
        name: of the account.
        key: for everything.
    """

    user: str
    name: str
    key: ApiKey


class CloudScene:
    """A control plane in a folder.

    Attributes:
        plane: what is tested.
        platform: of its enclaves, with the policy that accepts them.
        clock: of the control plane.
    """

    def __init__(
        self, folder: Path, database_url: str | None = None, *, platform: Platform | None = None, url: str = URL
    ) -> None:
        self.folder = folder
        self.clock = SceneClock()
        self.platform = platform or Platform()
        place = Place.at(folder / "cloud", database_url)
        self.outbox = place.outbox
        self.plane = ControlPlane.open(
            place, Site(NAME, url), Outbox(place.outbox), passwords=Passwords(CHEAP), clock=self.clock
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.plane.close()

    # People.

    def mails(self, to: str | None = None) -> list[Mail]:
        """What was sent, to one address or to all, the oldest first."""
        found = []
        for path in sorted(self.outbox.glob("*.eml")):
            mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            body = mail.get_body()
            assert body is not None
            found.append(Mail(str(mail["To"]), str(mail["Subject"]), body.get_content()))
        return [mail for mail in found if to in {None, mail.to}]

    def join(self, name: str, address: str = "") -> str:
        """Somebody signs up for the account `name` and verifies the address; the id of the user."""
        address = address or f"{name}@example.com"
        self.plane.people.sign_up(address, PASSWORD, name, address=PLACE)
        return self.plane.people.verify(self.mails(address)[-1].link).id

    def sign_in(self, address: str) -> str:
        """Somebody signs in; what the session's cookie holds."""
        return self.plane.people.sign_in(address, PASSWORD, address=PLACE).id

    def sign_up(self, address: str, name: str) -> str:
        """As `join`, and then `sign_in`."""
        self.join(name, address)
        return self.sign_in(address)

    def access_token(self, user: str, name: str = "laptop") -> str:
        """A command line signs in as this user."""
        codes = self.plane.people.device_codes(name, address=PLACE)
        self.plane.people.decide_device(user, codes.user_code, approve=True)
        return self.plane.people.device_token(codes.device_code).access_token

    def key(self, user: str, namespace: str, *scopes: Scope, **details: Any) -> ApiKey:
        """A new key of an account; without `scopes`, for everything."""
        wanted = NewKey(name="test", scopes=scopes or EVERYTHING, **details)
        return ApiKey.parse(self.plane.accounts.create_key(user, namespace, wanted).api_key)

    def tenant(self, name: str) -> Tenant:
        """Somebody who has joined, with a key."""
        user = self.join(name)
        return Tenant(user, name, self.key(user, name))

    def allow(self, namespace: str, **quotas: int | None) -> None:
        """Change what an account may use: columns of `tables.namespaces`."""
        with self.plane.database.write() as connection:
            row = tables.namespaces.c.name == namespace
            connection.execute(tables.namespaces.update().where(row).values(quotas))

    # Programs.

    def application(self) -> Starlette:
        """The web program of people, for `asgi_browser.Browser`."""
        return application(self.plane)

    @contextlib.contextmanager
    def served(self, *, enclave_port: int = 0, people_port: int = 0) -> Iterator[RunningCloud]:
        """Both ports, in a thread."""
        running = RunningCloud(self, enclave_port=enclave_port, people_port=people_port)
        try:
            yield running
        finally:
            running.close()

    # Enclaves.

    def config(self, endpoint: str, address: str = "127.0.0.1:1") -> dict[str, Any]:
        """The table [cloud] of an enclave's configuration. `address` is where it finds the control plane."""
        return {"cloud": {"address": address, "public_key": self.plane.public_key, "endpoint": endpoint}}

    def played(self, endpoint: str = "https://enclave.test:9443", **config: Any) -> PlayedEnclave:
        """An enclave without a server: its keys, its evidence, and what it says. It is admitted."""
        return PlayedEnclave(self, endpoint, config or self.config(endpoint)).admit()


class PlayedEnclave:
    """An instance that a test plays: to a `Fleet` directly, or over the network after `call`."""

    def __init__(self, scene: CloudScene, endpoint: str, config: dict[str, Any]) -> None:
        self.scene = scene
        self.endpoint = endpoint
        self.config = config
        self.end = CallingEnd(scene.platform.attester, config)
        self.id = self.end.instance

    def caller(self) -> Caller:
        """What the gate says of it."""
        transcript, result = self.scene.platform.admission(self.end.keyset, self.config)
        return Caller(wire.AUDIENCE, self.id, self.end.keyset.public, self.config, transcript, result)

    def admit(self) -> Self:
        self.scene.plane.fleet.admit(self.caller())
        return self

    def call(self, address: str, *, audience: str = wire.AUDIENCE) -> Line:
        """A connection to the control plane at `address`, past its gate."""
        return Line(self.end, address, self.scene.plane.public_key, audience)

    def ask(self, *keys: ApiKey | str) -> wire.AuthorisationAnswer:
        """Ask the fleet about keys, or digests of keys."""
        return self.scene.plane.fleet.authorise(self.id, question(*keys))

    def report(self, **told: Any) -> wire.Reported:
        """Report to the fleet."""
        return self.scene.plane.fleet.report(self.id, wire.Report(**told))


def question(*keys: ApiKey | str) -> wire.AuthorisationRequest:
    """A question about keys, or digests of keys."""
    digests = tuple(key if isinstance(key, str) else key.digest for key in keys)
    return wire.AuthorisationRequest(nonce=secrets.token_hex(32), keys=digests)


class RunningCloud:
    """Both ports of a control plane, on a thread of this process."""

    def __init__(self, scene: CloudScene, *, enclave_port: int = 0, people_port: int = 0) -> None:
        self.scene = scene
        self._enclave_port = enclave_port
        self._people_port = people_port
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="cloud")
        self._thread.start()
        assert self._ready.wait(WAIT_SECONDS)
        if self._failure is not None:
            raise self._failure

    @property
    def enclaves(self) -> str:
        """Where enclaves call: `host:port`."""
        return f"127.0.0.1:{self.addresses.enclaves[1]}"

    @property
    def people(self) -> str:
        """Where people look: an https URL."""
        return f"https://localhost:{self.addresses.people[1]}"

    @property
    def certificate(self) -> Path:
        """Of the port for people, in PEM; its key is in there, too."""
        return self.scene.plane.place.tls / "pages.pem"

    @contextlib.contextmanager
    def enclave(self, endpoint: str = "", **config: Any) -> Iterator[JoinedEnclave]:
        """A real enclave that has joined, in another thread; `endpoint` is its own address unless given.

        `config` are further tables of its configuration.
        """
        port = free_port()
        cloud = self.scene.config(endpoint or f"https://127.0.0.1:{port}", self.enclaves)
        joined = JoinedEnclave(self.scene, port, {"runtime": {"isolation": "thread"}, **cloud, **config})
        try:
            yield joined
        finally:
            joined.stop()

    def call(self, function: Callable[[], T]) -> T:
        """The result of `function`, called on the server's event loop."""

        async def wrapped() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(wrapped(), self._loop).result(WAIT_SECONDS)

    def close(self) -> None:
        """Stop the server in good order; the control plane itself stays open."""
        with contextlib.suppress(RuntimeError):  # the loop may have ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised again where it can be seen
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        plane = self.scene.plane
        self.server = CloudServer(plane, self.scene.platform.policy, PagesTls.own_in(plane.place.tls, "localhost"))
        try:
            self.addresses: Addresses = await self.server.start(
                enclaves=lambda: listen("127.0.0.1", self._enclave_port),
                people=lambda: listen("127.0.0.1", self._people_port),
            )
            self._ready.set()
            await self._stop.wait()
        finally:
            await self.server.stop()


class JoinedEnclave(RunningServer):
    """A real enclave of a cloud, on the platform of a scene."""

    def __init__(self, scene: CloudScene, port: int, config: dict[str, Any]) -> None:
        self.scene = scene
        settings = msgspec.convert(config, EnclaveConfig)
        measured, attester = msgspec.to_builtins(settings), scene.platform.attester
        super().__init__(
            settings,
            OnnxRuntimeEngine(),
            simulated=True,
            end=AttestedEnd(attester, measured),
            calling=CallingEnd(attester, measured),
            port=port,
        )

    @property
    def address(self) -> str:
        """Where clients reach it: an https URL."""
        return f"https://127.0.0.1:{self.port}"

    def client(self, key: ApiKey | None) -> Connection:
        """The SDK, with a key or as a stranger."""
        policy = Policy.parse(self.scene.platform.manifest, "the test")
        return Connection(self.address, api_key=None if key is None else key.text, policy=policy, progress=False)


def free_port() -> int:
    """A port of this machine that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
