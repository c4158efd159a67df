"""A real server on a plain loopback socket, tiny real models, and a client that sends exactly what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray

from blindai.channel.calling import CallingEnd
from blindai.channel.end import AttestedEnd
from blindai.channel.server import AttestedProtocols
from blindai.enclave.app import Application
from blindai.enclave.config import EnclaveConfig
from blindai.enclave.engine import Engine
from blindai.enclave.model_file.opening import Opened
from blindai.enclave.models.description import Trial
from blindai.enclave.running.runner import Plain
from blindai.enclave.server import run, serve
from blindai.wire import v2


def node_model(*nodes: onnx.NodeProto, size: int | None = None, **initializers: NDArray[Any]) -> bytes:
    """An ONNX file from FP32 `x` [N, size] to FP32 `y`."""
    graph = onnx.helper.make_graph(
        list(nodes),
        "graph",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", size])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def looping_model(size: int | None = None) -> bytes:
    """y = x, after so many turns of a loop as the largest of x says."""
    body = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Identity", ["c_in"], ["c_out"]),
            onnx.helper.make_node("Cos", ["v_in"], ["v_out"]),
        ],
        "body",
        [
            onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            onnx.helper.make_tensor_value_info("c_in", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("v_in", onnx.TensorProto.FLOAT, None),
        ],
        [
            onnx.helper.make_tensor_value_info("c_out", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("v_out", onnx.TensorProto.FLOAT, None),
        ],
    )
    return node_model(
        onnx.helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        onnx.helper.make_node("Cast", ["m"], ["trips"], to=onnx.TensorProto.INT64),
        onnx.helper.make_node("Loop", ["trips", "go", "x"], ["y"], body=body),
        size=size,
        go=np.array(True),
    )


def binary_request(values: NDArray[Any], name: str = "x") -> tuple[bytes, int]:
    """An inference request in binary form, and the length of its JSON part."""
    buffers, length = v2.encode_request([v2.Tensor.from_array(name, values)])
    assert length is not None
    return b"".join(buffers), length


class Response:
    """One response as it came."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def assert_problem(self, status: int, code: str) -> None:
        assert (self.status, self.json.get("code")) == (status, code), self.body
        assert self.headers["content-type"] == "application/json"
        assert self.json["error"]


class Wire:
    """A connection on which exactly what is given is sent."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def reset(self) -> None:
        """Cut the connection without a word."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def head(self, method: str, target: str, *headers: str) -> None:
        self.send("".join(f"{line}\r\n" for line in (f"{method} {target} HTTP/1.1", "Host: x", *headers, "")).encode())

    def request(self, method: str, target: str, body: bytes = b"", *headers: str) -> Response:
        self.head(method, target, f"Content-Length: {len(body)}", *headers)
        self.send(body)
        return self.response()

    def begin_infer(self, model: str, values: NDArray[Any]) -> Callable[[], Response]:
        """Send an inference request; the result waits for its response."""
        body, length = binary_request(values)
        headers = (f"Content-Length: {len(body)}", f"Inference-Header-Content-Length: {length}")
        self.head("POST", f"/v2/models/{model}/infer", *headers)
        self.send(body)
        return self.response

    def infer(self, model: str, values: NDArray[Any]) -> Response:
        return self.begin_infer(model, values)()

    def response(self, *, head: bool = False) -> Response:
        """The next response; 100 Continue is a response too."""
        line = self._file.readline()
        assert line, "the server closed the connection instead of answering"
        status = int(line.split()[1])
        headers = {}
        while (line := self._file.readline()) not in {b"\r\n", b""}:
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        length = 0 if head or status == 100 else int(headers["content-length"])
        return Response(status, headers, self._file.read(length))

    def readable(self) -> bool:
        """Whether the server has said something, or closed."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def closed(self) -> bool:
        """Whether the server ends the connection now, without another byte."""
        try:
            return self._file.read(1) == b""
        except (ConnectionResetError, ssl.SSLEOFError):
            return True


class RunningServer:
    """A server on a loopback port, in a thread with its own event loop; plain unless `end` attests its connections."""

    def __init__(
        self,
        config: EnclaveConfig,
        engine: Engine,
        *,
        simulated: bool,
        end: AttestedEnd | None = None,
        calling: CallingEnd | None = None,
        port: int = 0,
        open_body: Callable[[Plain, Trial | None], Opened] | None = None,
    ) -> None:
        self.config = config
        self._open_body = open_body
        self.port = port
        self._protocols = None if end is None else AttestedProtocols(end)
        self.application: Application
        self.loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._ready = threading.Event()
        self._engine = engine
        self.end = end
        self._calling = calling
        self._simulated = simulated
        self._thread = threading.Thread(target=lambda: run(self._main()), daemon=True)
        self._thread.start()
        assert self._ready.wait(20)

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.application = Application(
            self.config, self._engine, end=self._calling, signer=self.end, open_body=self._open_body
        )
        await serve(
            self.application,
            config=self.config,
            protocol_factory=self._protocols or (lambda http: http()),
            host="127.0.0.1",
            port=self.port,
            ready=self._on_ready,
            simulated=self._simulated,
            stop=self._stop,
        )
        if self._protocols is not None:
            self._protocols.close()
            await asyncio.sleep(0)

    def _on_ready(self, host: str, port: int) -> None:
        self.port = port
        self._ready.set()

    def connect(self) -> Wire:
        return Wire(self.port)

    def request(self, method: str, target: str, body: bytes = b"", *headers: str) -> Response:
        """One request on a connection of its own."""
        with self.connect() as wire:
            return wire.request(method, target, body, *headers)

    def upload(self, model: str, content: bytes, *headers: str) -> Response:
        return self.request("PUT", f"/v2/repository/models/{model}", content, *headers)

    def index(self) -> list[tuple[str, str, str]]:
        listed = self.request("POST", "/v2/repository/index").json
        return [(entry["name"], entry["version"], entry["state"]) for entry in listed]

    def call(self, function: Callable[[], Any]) -> Any:
        """The result of `function`, called on the server's event loop."""

        async def wrapped() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(wrapped(), self.loop).result(20)

    def eventually(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition`, looked at on the server's event loop, holds."""

        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.005)

        asyncio.run_coroutine_threadsafe(wait(), self.loop).result(20)

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may have ended by itself
            self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()
