"""Servers in processes of their own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from machine import Placement, cores, pin
from workload import MODEL, tiny_model

import blindai
from blindai.demo.enclaves import stop

HERE = Path(__file__).resolve().parent


class Server:
    """A running server. What it announced is in `said`."""

    def __init__(self, process: subprocess.Popen[str], said: dict[str, Any]) -> None:
        self.process = process
        self.said = said

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.said.get("port") or str(self.said["address"]).rpartition(":")[2])


@contextmanager
def started(command: Sequence[str], *, env: dict[str, str] | None = None, cwd: Path | None = None) -> Iterator[Server]:
    """Run a server until the block ends. It says where it listens with one JSON object on its standard output.

    Raises:
        RuntimeError: it ended before it listened.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | (env or {}),
        cwd=cwd,
        process_group=0,
    )
    try:
        yield Server(process, _announcement(process))
    finally:
        stop(process)
        # Some servers leave processes behind that they started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def enclave() -> Iterator[Server]:
    """`blindai serve` on a simulated platform, with the model in it."""
    arguments = ["serve", "--platform", "simulated-tdx", "--port", "0", "--json"]
    with started([sys.executable, "-m", "blindai", *arguments]) as server:
        logging.getLogger("blindai").setLevel(logging.ERROR)  # that it is simulated goes without saying here
        with blindai.Connection(str(server.said["address"]), simulation=True, progress=False) as connection:
            connection.upload_model(tiny_model(), model_id=MODEL)
        yield server


@contextmanager
def script(name: str, *arguments: str) -> Iterator[Server]:
    """A server of this folder."""
    with started([sys.executable, str(HERE / name), *arguments]) as server:
        yield server


@contextmanager
def placed(placement: Placement, servers: Iterable[Server]) -> Iterator[None]:
    """Put the servers and this process where `placement` says, and free them again."""
    running = list(servers)
    try:
        for server in running:
            pin(server.pid, placement.server)
        pin(os.getpid(), placement.client)
        yield
    finally:
        for pid in (os.getpid(), *(server.pid for server in running)):
            pin(pid, *cores())


def _announcement(process: subprocess.Popen[str]) -> dict[str, Any]:
    text = ""
    while process.stdout is not None:
        line = process.stdout.readline()
        if not line:
            break
        if not text and not line.startswith("{"):
            continue  # what a peer logs while it starts
        text += line
        if line == "}\n" or (line.startswith("{") and line.endswith("}\n")):
            said: dict[str, Any] = json.loads(text)
            return said
    raise RuntimeError(f"{process.args!r} ended before it listened")
