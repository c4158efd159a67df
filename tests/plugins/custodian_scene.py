"""A custodian without its enclaves' port: database, ledger and operators, and instances that a test plays itself."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher

from blindai.custody import migrations
from blindai.custody.dashboard import application
from blindai.custody.keys import CustodianKeys
from blindai.custody.ledger import Ledger
from blindai.custody.operators import Operators, Role
from blindai.custody.views import Lease
from blindai.web.certificate import PagesTls
from blindai.web.database import Database
from blindai.web.http import HttpLimits
from blindai.web.passwords import Passwords
from blindai.web.serving import HttpPort
from hand_clock import HandClock
from lease_enclaves import Platform
from lending import MODEL_KEY, Instance, terms

# Enough for a form, fast enough for a test.
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

DATABASE = "custodian.sqlite3"

PASSWORD = "correct horse battery staple"

OPERATORS = {"vera": Role.VIEWER, "ada": Role.OPERATOR, "grace": Role.OPERATOR, "root": Role.ADMIN}


@dataclass
class SceneClock:
    """The custodian's clocks: those of the machine, moved by `shift`."""

    shift: timedelta = field(default_factory=timedelta)
    boot: str = "boot 1"

    def now(self) -> datetime:
        return datetime.now(UTC) + self.shift

    def elapsed_ms(self) -> int:
        return int((time.monotonic() + self.shift.total_seconds()) * 1000) + 10**9


class AttestedInstance(Instance):
    """An instance that has evidence of a simulated platform, and so a real verdict."""

    def __init__(self, ledger: Ledger, lease: str, public_key: str, platform: Platform) -> None:
        super().__init__(ledger, lease, public_key)
        self.platform = platform

    def admit(self) -> AttestedInstance:
        self.ledger.admit(self.lease, *self.platform.admission(self.keyset, self.config))
        return self

    def hear(self) -> None:
        """Act upon the latest version of the lease, and say so."""
        self.ledger.acknowledge(self.lease, self.id, self.ledger.status(self.lease, self.id).version)


def prepare(folder: Path) -> None:
    """Put into `folder` what every `Scene` begins with: a database with operators. It can be copied."""
    database = Database.open(folder / DATABASE)
    migrations.upgrade(database)
    operators = Operators(database, passwords=Passwords(CHEAP))
    for name, role in OPERATORS.items():
        operators.add(name, role, PASSWORD)
    database.dispose()


class Scene:
    """A custodian in a folder that was prepared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = SceneClock()
        self.sign_in_clock = HandClock(time.time())
        self.platform = Platform()
        self.database = Database.open(folder / DATABASE)
        self.keys = CustodianKeys.generate()
        self.ledger = Ledger(self.database, self.keys, clock=self.clock)
        self.operators = Operators(self.database, passwords=Passwords(CHEAP), clock=self.sign_in_clock)
        self.woken = 0

    def lease(self, **changes: Any) -> Lease:
        """A new lease, of a policy that accepts the scene's platform."""
        agreed = terms(self.folder, **({"policy": self.platform.manifest} | changes))
        return self.ledger.create(agreed, model_key=MODEL_KEY, by="root")

    def instance(self, lease: str) -> AttestedInstance:
        """A new instance, admitted."""
        return AttestedInstance(self.ledger, lease, self.keys.public_key, self.platform).admit()

    def application(self) -> Any:
        """The operators' web program."""
        return application(
            self.ledger, self.operators, public_key=self.keys.public_key, wake=self._wake, now=self.clock.now
        )

    def _wake(self) -> None:
        self.woken += 1

    @contextmanager
    def served(self) -> Iterator[str]:
        """The web program at work in a thread, over TLS. Gives its address."""
        tls = PagesTls.own_in(self.folder / "tls", "localhost")
        loop = asyncio.new_event_loop()
        port = HttpPort(self.application(), HttpLimits(max_connections=64, max_body_bytes=64 << 10))
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        address = f"https://localhost:{listener.getsockname()[1]}"
        thread = threading.Thread(target=loop.run_forever, name="dashboard")
        thread.start()
        asyncio.run_coroutine_threadsafe(port.start(listener, tls=tls.context), loop).result()
        try:
            yield address
        finally:
            asyncio.run_coroutine_threadsafe(port.stop(0.2), loop).result()
            asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def close(self) -> None:
        self.database.dispose()
