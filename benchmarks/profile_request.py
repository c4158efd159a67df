"""What each part of one small request costs the server in CPU time, when it runs on the event loop.

    python benchmarks/profile_request.py [--rounds 30] [--cloud]

The layers lie in one another: each is called with what it gets in a server, in this process, without a socket. Shown
are the least CPU times of many short rounds, which other programs on the machine disturb least. With `--cloud` the
enclave is one of a cloud, and the request has a key in force.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import uvicorn
import uvloop
from uvicorn.server import ServerState
from workload import MODEL, SIZES, http_request, tiny_model

from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.channel.calling import CallingEnd
from blindai.channel.gate_reader import GateReader
from blindai.channel.gated import GatedProtocol
from blindai.channel.keyset import PrivateKeyset
from blindai.channel.tls import TLSPipe, client_context, server_context
from blindai.enclave.allocator import keep_freed_memory
from blindai.enclave.api.receipts import Receipts
from blindai.enclave.app import Application
from blindai.enclave.cloud.principal import Principal
from blindai.enclave.cloud.usage import Usage
from blindai.enclave.config import Cloud, EnclaveConfig, Runtime
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.enclave.http.connection import EnclaveHttpProtocol
from blindai.enclave.models.model_id import parse_model_id
from blindai.enclave.models.model_version import ModelVersion
from blindai.enclave.running.codec import Codec
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import Quotas, Scope

_CALLS = 200
_PATH = f"/v2/models/{MODEL}/infer"
_CLOUD = Cloud(address="127.0.0.1:1", public_key="00" * 32, endpoint="https://127.0.0.1:1")


class Sink(asyncio.Transport):
    """Where answers go: nowhere."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.last = data

    def writelines(self, parts: Any) -> None:
        self.last = b"".join(parts)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Ungated(GatedProtocol):
    """Attested TLS whose gate opens when TLS is there."""

    def __init__(self, keys: PrivateKeyset, inner: asyncio.Protocol) -> None:
        super().__init__(server_context(keys.tls_key, keys.certificate()), {}, max_gate_requests=1)
        self._given = inner
        self.sink = Sink()
        self.client = TLSPipe(client_context(), server=False)
        self.connection_made(self.sink)
        while not self.client.handshake() or not self._pipe.established:
            self.data_received(self.client.outgoing())
            self.client.feed(bytes(self.sink.last))
        self.data_received(self.client.outgoing())
        self._open()

    def _new_reader(self) -> GateReader:
        return GateReader("/", max_body_bytes=0)

    def _asked(self, body: bytes) -> None:
        raise AssertionError("nothing is asked here")

    def _new_inner(self) -> asyncio.Protocol:
        return self._given

    def _answer_failed(self, error: BaseException) -> None:
        raise error


def least_us(call: Callable[[Any], object], given: list[Any]) -> float:
    """CPU time of one call, on average over those of one round, in microseconds."""
    began = time.thread_time_ns()
    for item in given:
        call(item)
    return (time.thread_time_ns() - began) / len(given) / 1e3


async def upload(application: Application) -> ModelVersion:
    """The tiny model."""
    body = tiny_model()
    repository = application.repository
    model_id = parse_model_id(*MODEL.split("/"))
    with repository.admit(model_id, version=None, size=len(body)) as admission:
        draft = admission.begin(bundle=False, observe=lambda _: None)
        await draft.write(body)
        await draft.finish()
        return await repository.commit(admission, draft.stored)


def admit_key(application: Application) -> bytes:
    """Let the control plane have vouched for a key for as long as this runs; the header line that has it."""
    if application.membership is None:
        return b""
    usage = Usage(0)
    count = usage.count(MODEL.partition("/")[0], "bai_sk_bench000")
    quotas = Quotas(models=1, model_bytes=1, requests_per_minute=10**12, requests_left=10**12)
    count.account.grant(quotas, 0)
    value = b"Bearer " + ApiKey.new().text.encode()
    callers = application.membership.queries._callers  # noqa: SLF001 - where an authoriser enters what it was told
    callers[value] = Principal(count, "", frozenset(Scope))
    return b"Authorization: " + value + b"\r\n"


async def main(rounds: int, *, cloud: bool) -> None:
    """Measure and print."""
    # What counts as quick is generous, so that a busy machine does not send requests elsewhere.
    config = EnclaveConfig(runtime=Runtime(inline_us=1_000_000))
    end = None
    if cloud:
        config = msgspec.structs.replace(config, cloud=_CLOUD)
        end = CallingEnd(SimulatedAttester(), msgspec.to_builtins(config))
    application = Application(config, OnnxRuntimeEngine(), end=end)
    await application.prepare()
    try:
        await measure(application, await upload(application), rounds)
    finally:
        await application.close()


async def measure(application: Application, version: ModelVersion, rounds: int) -> None:
    """All layers, one after the other in each round."""
    request = http_request(SIZES[0], _PATH).replace(b"\r\n", b"\r\n" + admit_key(application), 1)
    head, body = request[: request.index(b"\r\n\r\n") + 4], request[request.index(b"\r\n\r\n") + 4 :]
    fields = [line.split(b": ") for line in head.split(b"\r\n")[1:-2]]
    headers = [(name.lower(), value) for name, value in fields]
    handler = application.direct(b"POST", _PATH.encode(), headers)
    if handler is None:
        raise AssertionError("the application takes inference requests directly")
    while isinstance(answer := handler(headers, body), asyncio.Future):  # until it is trusted on the event loop
        await answer
    session = cast("Any", version.session)
    codec = Codec(application.config.limits.max_body_bytes, Receipts(None, grant=lambda: None))
    length = int(dict(headers)[b"inference-header-content-length"])
    decoded = codec.decode(body, length, 0)
    outputs = session.run(decoded.inputs)
    feeds = {name: tensor.data for name, tensor in decoded.inputs.items()}
    options = session.cancellation().options
    settings = uvicorn.Config(cast("Any", application), log_config=None, server_header=False, date_header=False)
    settings.load()

    def http() -> EnclaveHttpProtocol:
        return EnclaveHttpProtocol(settings, ServerState(), {}, application=application, settings=application.config)

    plain = http()
    plain.connection_made(Sink())
    tls = Ungated(PrivateKeyset(datetime.now(UTC)), http())

    def sealed() -> list[bytes]:
        records = []
        for _ in range(_CALLS):
            tls.client.write(request)
            records.append(tls.client.outgoing())
        return records

    layers: dict[str, tuple[Callable[[Any], object], Callable[[], list[Any]]]] = {
        "ONNX Runtime alone": (
            lambda _: session._native.run(["y"], feeds, options),  # noqa: SLF001 - what the session stands before
            lambda: [None] * _CALLS,
        ),
        "session.run": (
            lambda _: session.run(decoded.inputs, cancellation=session.cancellation()),
            lambda: [None] * _CALLS,
        ),
        "codec.decode": (lambda _: codec.decode(body, length, 0), lambda: [None] * _CALLS),
        "codec.encode": (lambda _: codec.encode(version, decoded, outputs), lambda: [None] * _CALLS),
        "the handler": (lambda _: handler(headers, body), lambda: [None] * _CALLS),
        "HTTP and all in it": (plain.data_received, lambda: [request] * _CALLS),
        "TLS and all in it": (tls.data_received, sealed),
    }
    least = dict.fromkeys(layers, float("inf"))
    gc.disable()
    for _ in range(rounds):
        for name, (call, given) in layers.items():
            least[name] = min(least[name], least_us(call, given()))
        await asyncio.sleep(0)
    for name, us in least.items():
        print(f"{name:24}{us:8.2f} us")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    keep_freed_memory()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--cloud", action="store_true")
    options = parser.parse_args()
    uvloop.run(main(options.rounds, cloud=options.cloud))
