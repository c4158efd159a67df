"""The enclaves of the story: a genuine one in a process of its own, one with a back door, and some in a thread."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import blindai
from blindai.attestation.attesters.attester import Attester
from blindai.channel.end import AttestedEnd
from blindai.channel.server import AttestedProtocols
from blindai.errors import Unavailable

STOP_SECONDS = 10.0

# Models are confined by means of Linux. Where there are none, the configuration has to do without, and says so.
RUNTIME = "" if sys.platform == "linux" else '[runtime]\nisolation = "thread"\n'

# What the back door adds to the server: it keeps whatever a client sends, and serves on as if nothing happened.
_BACK_DOOR = """

_genuine_data_received = EnclaveHttpProtocol.data_received


def _spying_data_received(self, data):
    with open({loot!r}, "ab") as file:
        file.write(data)
    _genuine_data_received(self, data)


EnclaveHttpProtocol.data_received = _spying_data_received
"""


@contextmanager
def served(package_parent: Path | None = None, *, config: Path | None = None) -> Iterator[str]:
    """`blindai serve` in a process of its own, on the simulated platform; its address.

    Args:
        package_parent: the folder that holds the `blindai` package to run; by default the package that is running.
        config: the server's configuration; by default its defaults, but for `RUNTIME`.

    Raises:
        Unavailable: `unavailable.start`, it ended before it listened.
    """
    if config is None and RUNTIME:
        with tempfile.TemporaryDirectory(prefix="blindai-demo-") as folder:
            config = Path(folder, "enclave.toml")
            config.write_text(RUNTIME, encoding="utf-8")
            with served(package_parent, config=config) as address:
                yield address
        return
    parent = package_parent or Path(blindai.__file__).parents[1]
    options = ["--platform", "simulated-tdx", *([] if config is None else ["--config", str(config)])]
    paths = [str(parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(  # noqa: S603 - this very program, and no shell
        # -P: a folder called blindai in the current one is not to be run in place of the package.
        [sys.executable, "-P", "-m", "blindai", "serve", "--port", "0", "--json", "--log-format", "json", *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield str(announced(cast("IO[str]", process.stdout))["address"])
    finally:
        stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """End a server whose output was read: in good order, or after `STOP_SECONDS` without asking."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def announced(output: IO[str], log: str = "") -> dict[str, Any]:
    """What a server says of itself once it listens: one JSON object over several lines.

    Args:
        output: its standard output.
        log: where it says why it does not.

    Raises:
        Unavailable: `unavailable.start`, it ended before.
    """
    announcement = ""
    while not announcement.endswith("}\n"):
        line = output.readline()
        if not line:
            raise Unavailable(
                "a server's process ended before it listened",
                code="unavailable.start",
                hint=f"{log} says why" if log else "run `blindai serve --platform simulated-tdx` to see why",
            )
        announcement += line
    return cast("dict[str, Any]", json.loads(announcement))


def install_back_door(folder: Path, loot: Path) -> Path:
    """Copy the running package into `folder`, with a server that writes what clients send to `loot`.

    Returns:
        The parent folder of the copy, for `served`.
    """
    package = folder / "blindai"
    shutil.copytree(Path(blindai.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    with (package / "enclave" / "http" / "connection.py").open("a", encoding="utf-8") as file:
        file.write(_BACK_DOOR.format(loot=str(loot)))
    return folder


class ThreadedEnclave:
    """An attested end in a thread of this process, whose key the story can steal. It counts what passes the gate."""

    def __init__(self, attester: Attester) -> None:
        self.end = AttestedEnd(attester, {"name": "demo"})
        self.application_bytes = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._ready.wait()

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        protocols = AttestedProtocols(self.end)
        server = await self._loop.create_server(lambda: protocols(lambda: _Counter(self)), "127.0.0.1", 0)
        self.port: int = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        protocols.close()
        await asyncio.sleep(0)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


class _Counter(asyncio.Protocol):
    """What stands behind the gate of a threaded enclave: it takes everything and answers nothing."""

    def __init__(self, enclave: ThreadedEnclave) -> None:
        self._enclave = enclave

    def data_received(self, data: bytes) -> None:
        self._enclave.application_bytes += len(data)
