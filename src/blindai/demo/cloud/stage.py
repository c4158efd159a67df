"""What all scenes of the story share: the cloud, its enclave, the people, and how the audience is told."""

from __future__ import annotations

import email
import email.policy
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from blindai.attestation.measure.local import local_policy
from blindai.client.connection import Connection
from blindai.client.control_plane import ControlPlane
from blindai.client.login import wait_for_consent
from blindai.cloud import tables
from blindai.cloud.control_plane import Place
from blindai.demo.audience import Audience
from blindai.demo.cloud import resnet18
from blindai.demo.cloud.visitor import Visitor
from blindai.demo.enclaves import RUNTIME
from blindai.demo.processes import Program, until
from blindai.demo.story import StoryFailed
from blindai.errors import BlindAIError
from blindai.web.database import Database
from blindai.wire.cloud import Scope
from blindai.wire.cloud_api import CreatedKey, NewKey

if TYPE_CHECKING:
    from rich.console import Console

    from blindai.wire.cloud_api import DeviceCodes

OWNER: Final = "alice"
OTHER: Final = "bob"
MODEL_ID: Final = f"{OWNER}/resnet18"

# Requests without a key that the enclave's measured configuration lets through in a minute.
ANONYMOUS_PER_MINUTE: Final = 60

_LINK: Final = re.compile(r"[?&]link=([A-Za-z0-9_-]+)")


@dataclass
class Person:
    """Somebody who uses the cloud.

    Attributes:
        name: of their account.
        browser: where they sign in.
        plane: their command line, once it is signed in.
    """

    name: str
    browser: Visitor
    password: str
    plane: ControlPlane | None = None

    @property
    def email(self) -> str:
        return f"{self.name}@example.com"


class Stage(Audience):
    """Everything on it. Made by `staged`.

    Attributes:
        folder: `cloud/` lies in it, and the model.
        cloud, enclave: the processes.
        manifest: what everybody requires of an enclave.
    """

    def __init__(self, console: Console, folder: Path, stack: ExitStack) -> None:
        super().__init__(console)
        self.folder = folder
        self.stack = stack
        self.cloud: Program
        self.enclave: Program
        self.manifest = folder / "manifest.toml"
        self.manifest.write_text(local_policy().to_toml(), encoding="utf-8")

    @cached_property
    def model(self) -> Path:
        """The model, in two files; they are made when they are first asked for."""
        return resnet18.write_model(self.folder)

    # The operator of the cloud.

    def start_cloud(self) -> None:
        """The control plane, on free ports."""
        ports = ["--enclave-port", "0", "--port", "0"]
        options = ["--data", str(self.place.data), "--simulation", *ports, "--json", "--log-format", "json"]
        self.cloud = self.stack.enter_context(Program(["cloud", "serve", *options], self.folder / "cloud.log"))

    def start_enclave(self) -> None:
        """The enclave, which attests itself to the control plane; its measured configuration names that one."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        said = self.cloud.announcement
        config = self.folder / "enclave.toml"
        config.write_text(
            f'[cloud]\naddress = "{said["enclaves"]}"\npublic_key = "{said["public_key"]}"\n'
            f'endpoint = "https://127.0.0.1:{port}"\nanonymous_per_minute = {ANONYMOUS_PER_MINUTE}\n{RUNTIME}',
            encoding="utf-8",
        )
        options = ["--platform", "simulated-tdx", "--config", str(config), "--json", "--log-format", "json"]
        self.enclave = self.stack.enter_context(
            Program(["serve", "--port", str(port), *options], self.folder / "enclave.log")
        )
        until(lambda: self.directory_has(self.address) or None, "the enclave in the cloud's directory")

    def directory_has(self, address: str) -> bool:
        """Whether the cloud says that there is an enclave."""
        return any(one.address == address for one in self.plane.directory().endpoints)

    @property
    def url(self) -> str:
        """Where people find the cloud."""
        return str(self.cloud.announcement["url"])

    @property
    def fingerprint(self) -> str:
        """Of its certificate."""
        return str(self.cloud.announcement["certificate_sha256"])

    @property
    def address(self) -> str:
        """Where the enclave listens."""
        return str(self.enclave.announcement["address"])

    @cached_property
    def place(self) -> Place:
        """The files of the control plane, which its operator can read and change."""
        return Place.at(self.folder / "cloud")

    @cached_property
    def database(self) -> Database:
        """Its database."""
        database = Database.open(self.place.database)
        self.stack.callback(database.dispose)
        return database

    def set_requests_per_minute(self, namespace: str, number: int) -> None:
        """Give an account another quota, as the operator."""
        row = tables.namespaces.c.name == namespace
        with self.database.write() as connection:
            connection.execute(sa.update(tables.namespaces).where(row).values(per_minute=number))

    def rows(self) -> dict[str, int]:
        """How many rows each table of the control plane has."""
        with self.database.read() as connection:
            return {
                table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
                for table in tables.metadata.sorted_tables
            }

    # People.

    @property
    def plane(self) -> ControlPlane:
        """The cloud, for who is not signed in."""
        return ControlPlane(self.url, fingerprint=self.fingerprint)

    def mails(self, to: str) -> list[str]:
        """The mails that were sent to an address, the oldest first."""
        found = []
        for path in sorted(self.place.outbox.glob("*.eml")):
            mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            body = mail.get_body()
            if mail["To"] == to and body is not None:
                found.append(str(body.get_content()))
        return found

    def sign_up(self, name: str) -> Person:
        """Fill in the form, follow the link in the mail, and sign in."""
        person = Person(name, Visitor(self.url, self.fingerprint), secrets.token_urlsafe())
        person.browser.submit("/sign-up", email=person.email, name=name, password=person.password)
        link = _LINK.search(until(lambda: next(iter(self.mails(person.email)), None), "a mail"))
        if link is None:
            raise StoryFailed("the mail holds no link")
        person.browser.submit(f"/verify?link={link[1]}", link=link[1])
        person.browser.submit("/sign-in", email=person.email, password=person.password)
        return person

    def sign_in_command_line(self, person: Person) -> DeviceCodes:
        """What `blindai login` does, with the person who agrees in the browser."""
        codes = self.plane.device_codes(f"the command line of {person.name}")
        page = f"/device?code={codes.user_code}"
        person.browser.submit(page, code=codes.user_code, decision="approve")
        # They have agreed already, so that there is nothing to wait for.
        token = wait_for_consent(self.plane, codes, sleep=lambda _: None)
        person.plane = self.plane.with_token(token.access_token)
        return codes

    def create_key(self, person: Person, *scopes: Scope) -> CreatedKey:
        """What `blindai keys create` does."""
        if person.plane is None:
            raise StoryFailed(f"the command line of {person.name} is not signed in")
        return person.plane.create_key(person.name, NewKey(name="story", scopes=scopes))

    def connected(self, api_key: str | None) -> Connection:
        """A connection to the enclave; it is attested, and then the key is sent."""
        return Connection(self.address, api_key=api_key, policy=self.manifest, progress=False)

    def refused(self, client: Connection, code: str, what: str, model_id: str = MODEL_ID) -> BlindAIError:
        """How a query ends that must be refused.

        Raises:
            StoryFailed: it has ended otherwise.
        """
        try:
            client.predict(model_id, resnet18.image())
        except BlindAIError as error:
            if error.code == code:
                return error
            raise StoryFailed(f"{what} ended as {error.code} ({error.message}), not as {code}") from error
        raise StoryFailed(f"{what} was answered, and not refused as {code}")


@contextmanager
def staged(console: Console, folder: Path) -> Iterator[Stage]:
    """An empty stage; at the end all processes on it are ended."""
    with ExitStack() as stack:
        yield Stage(console, folder, stack)
