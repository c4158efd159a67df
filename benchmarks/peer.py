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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import pin
from processes import HERE, Server, started
from rawclient import RawClient

from blindai.wire import v2

if TYPE_CHECKING:
    from numpy.typing import NDArray

sys.path.insert(0, str(HERE.parent / "tools"))
import environment

START_SECONDS = 30.0


@dataclass(frozen=True)
class Form:
    """One way to ask a peer over HTTP.

    Attributes:
        label: what the tables call it.
        path: where to.
        body: the body for a tensor, and the length of its JSON part where binary data follow.
        long: for models that run long; the others are for runs of microseconds, and the other way round.
        batch: the batch size that the server is started with, for those that put requests together.
    """

    label: str
    path: str
    body: Callable[[str, NDArray[Any]], tuple[bytes, int | None]]
    long: bool = False
    batch: int = 1

    def request(self, name: str, values: NDArray[Any]) -> bytes:
        """A whole request, head and body in one buffer, for the input `name`."""
        body, header_length = self.body(name, values)
        kind = "application/json" if header_length is None else "application/octet-stream"
        lines = [f"POST {self.path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}"]
        lines.append(f"Content-Length: {len(body)}")
        if header_length is not None:
            lines.append(f"Inference-Header-Content-Length: {header_length}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def _v2(name: str, values: NDArray[Any], *, binary: bool) -> tuple[bytes, int | None]:
    buffers, length = v2.encode_request([v2.Tensor.from_array(name, values)], binary=binary)
    return b"".join(buffers), length


def _plain(_: str, values: NDArray[Any]) -> tuple[bytes, int | None]:
    return json.dumps({"x": values.tolist()}).encode(), None


V2_PATH = "/v2/models/tiny/infer"
V2_JSON = partial(_v2, binary=False)
V2_BINARY = partial(_v2, binary=True)


@dataclass(frozen=True)
class Peer:
    """One of them.

    Attributes:
        packages: what is installed for it.
        forms: ways to ask it over HTTP.
        stubs: its module with the messages of gRPC, where it speaks that.
    """

    name: str
    packages: tuple[str, ...]
    forms: tuple[Form, ...]
    stubs: str = ""

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
            packages = (*self.packages, f"onnxruntime=={_version('onnxruntime')}")
            environment.run(uv, "pip", "install", "--quiet", "--python", self.python, *packages, env=env)
        except SystemExit as error:
            return str(error).strip().splitlines()[0]
        (folder / "ready").touch()
        return ""

    @contextmanager
    def serve(self, model: Path, example: NDArray[Any], *, long: bool = False, batch: int = 1) -> Iterator[Server]:
        """Run it until the block ends.

        Args:
            model: an ONNX file with one input and one output.
            example: an input of it.
            long: its runs are not to block an event loop.
            batch: the most requests that it may run as one.

        Raises:
            RuntimeError: it does not answer.
        """
        program = str(HERE / "peers" / f"{self.key}_server.py")
        ports = str(_free_port()), str(_free_port())
        with started(
            [str(self.python), program, str(model), *ports, str(batch), "long" if long else "quick"]
        ) as server:
            self._wait_for(server, _input_name(model), example)
            yield server

    def form(self, *, long: bool, batched: bool = False) -> Form | None:
        """How it is asked for such a model."""
        return next((form for form in self.forms if form.long == long and (form.batch > 1) == batched), None)

    def _wait_for(self, server: Server, name: str, example: NDArray[Any]) -> None:
        form = self.forms[0]
        body = V2_JSON if form.path == V2_PATH else _plain
        request = Form(form.label, form.path, body).request(name, example)
        end = time.monotonic() + START_SECONDS
        reason: Exception | None = None
        while time.monotonic() < end and server.process.poll() is None:
            try:
                client = RawClient(server.port, tls=False)
                try:
                    client.exchange(request)
                    return
                finally:
                    client.close()
            except (OSError, RuntimeError) as error:
                reason = error
                time.sleep(0.2)
        raise RuntimeError(f"it does not answer: {reason}".splitlines()[0])


MLSERVER = Peer(
    "MLServer",
    ("mlserver==1.7.1",),
    (
        Form("REST JSON", V2_PATH, V2_JSON),
        Form("REST JSON", V2_PATH, V2_JSON, long=True),
        Form("REST JSON, batched", V2_PATH, V2_JSON, long=True, batch=16),
    ),
    stubs="mlserver.grpc.dataplane_pb2",
)
KSERVE = Peer(
    "KServe",
    ("kserve==0.21.0",),
    (Form("REST binary", V2_PATH, V2_BINARY), Form("REST binary", V2_PATH, V2_BINARY, long=True)),
    stubs="kserve.protocol.grpc.grpc_predict_v2_pb2",
)
BENTOML = Peer(
    "BentoML",
    ("bentoml==1.4.39",),
    (
        Form("REST JSON", "/predict", _plain),
        Form("REST JSON", "/predict-in-thread", _plain, long=True),
        Form("REST JSON, batched", "/predict-batched", _plain, long=True, batch=16),
    ),
)
LITSERVE = Peer(
    "LitServe",
    ("litserve==0.2.19",),
    (
        Form("REST JSON", "/predict", _plain),
        Form("REST JSON", "/predict", _plain, long=True),
        Form("REST JSON, batched", "/predict", _plain, long=True, batch=16),
    ),
)
# Its Python backend is built for numpy 1.
TRITON = Peer(
    "Triton",
    ("nvidia-pytriton==0.7.0", "numpy<2"),
    (
        Form("Python backend, REST binary", V2_PATH, V2_BINARY),
        Form("Python backend, REST binary", V2_PATH, V2_BINARY, long=True),
        Form("Python backend, REST binary, batched", V2_PATH, V2_BINARY, long=True, batch=16),
    ),
)
FASTAPI = Peer(
    "FastAPI",
    ("fastapi==0.*", "uvicorn==0.54.*", "httptools", "uvloop"),
    (Form("REST JSON", "/predict", _plain), Form("REST JSON", "/predict-in-thread", _plain, long=True)),
)
PEERS = (MLSERVER, KSERVE, BENTOML, LITSERVE, TRITON, FASTAPI)


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


def _input_name(model: Path) -> str:
    import onnxruntime

    (given,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).get_inputs()
    return str(given.name)
