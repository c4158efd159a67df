"""Other model servers to compare with, each installed in an environment of its own.

They are no part of this project and of none of its locks: where one cannot be installed, the tables say so.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from machine import pin
from processes import HERE, Server, started

sys.path.insert(0, str(HERE.parent / "tools"))
import environment

START_SECONDS = 30.0


@dataclass(frozen=True)
class Peer:
    """One of them.

    Attributes:
        binary: whether its REST interface takes binary tensors.
        stubs: its module with the messages of gRPC.
    """

    name: str
    package: str
    binary: bool
    stubs: str

    @property
    def key(self) -> str:
        return self.name.lower()

    @property
    def python(self) -> Path:
        return environment.executable(environment.VENVS / f"peer-{self.key}", "python")

    def install(self) -> str:
        """Install it, if it is not there. Why that cannot be done, or nothing."""
        folder = self.python.parents[1]
        if (folder / "ready").exists():
            return ""
        try:
            environment.bootstrap()
            env = environment.uv_environment()
            uv = environment.executable(environment.BOOTSTRAP, "uv")
            environment.run(
                uv, "venv", "--quiet", "--no-project", "--clear", "--python", sys.executable, folder, env=env
            )
            packages = (self.package, f"onnxruntime=={_version('onnxruntime')}")
            environment.run(uv, "pip", "install", "--quiet", "--python", self.python, *packages, env=env)
        except SystemExit as error:
            return str(error).strip().splitlines()[0]
        (folder / "ready").touch()
        return ""

    @contextmanager
    def serve(self, model: Path) -> Iterator[Server]:
        """Run it until the block ends.

        Raises:
            RuntimeError: it does not answer.
        """
        program = str(HERE / "peers" / f"{self.key}_server.py")
        command = [str(self.python), program, str(model), str(_free_port()), str(_free_port())]
        with started(command) as server:
            _wait_for(server)
            yield server


MLSERVER = Peer("MLServer", "mlserver==1.7.1", binary=False, stubs="mlserver.grpc.dataplane_pb2")
KSERVE = Peer("KServe", "kserve==0.21.0", binary=True, stubs="kserve.protocol.grpc.grpc_predict_v2_pb2")
PEERS = (MLSERVER, KSERVE)


class GrpcLane:
    """Calls a peer by gRPC, in a process of the peer's environment on this process's core."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self._process = process

    def sample(self, calls: int) -> list[int]:
        return list(map(int, json.loads(self._say(str(calls)))))

    def _say(self, line: str) -> str:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the client has no pipes")
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


def grpc_lane(stack: ExitStack, name: str, peer: Peer, server: Server, tensor: Path) -> GrpcLane:
    """Start the client; it ends with `stack`.

    Raises:
        RuntimeError: the peer does not answer it.
    """
    target = f"127.0.0.1:{server.said['grpc_port']}"
    process = subprocess.Popen(
        [str(peer.python), str(HERE / "peers" / "grpc_client.py"), peer.stubs, target, str(tensor)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    stack.enter_context(process)
    stack.callback(process.kill)
    pin(process.pid, *os.sched_getaffinity(0))
    if process.stdout is None or process.stdout.readline() != "ready\n":
        raise RuntimeError(f"{peer.name} does not answer by gRPC")
    return GrpcLane(name, process)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(server: Server) -> None:
    end = time.monotonic() + START_SECONDS
    for port in (server.port, int(server.said["grpc_port"])):
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > end or server.process.poll() is not None:
                    raise RuntimeError("the peer did not start") from None
                time.sleep(0.1)
