"""The process of one model, from its side: confine itself, open the model, answer runs. It holds nothing but the model.

It listens on its channel; each lane is served by a thread of its own, which waits on the lane's socket, so that a run
changes threads nowhere.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import resource
import socket
import threading
import time
from typing import TYPE_CHECKING, Final

import numpy as np

from blindai.enclave.config import EngineName
from blindai.enclave.model_file.opening import OpeningSettings, open_model
from blindai.enclave.sandbox.confinement import Bounds, confine
from blindai.enclave.sandbox.messages import (
    EXIT_FAULT,
    EXIT_MEMORY,
    FRAME,
    MAX_ANSWER_BYTES,
    MAX_ANSWER_TEXTS,
    MAX_HEADER_BYTES,
    Answer,
    Kind,
    Loaded,
    Refusal,
    decode_load,
    decode_run,
    encode,
    frame,
    refusal_of,
)
from blindai.enclave.sandbox.plan import MOST_BYTES, MOST_PLANS, Plans, key_of
from blindai.enclave.sandbox.slot import Layout
from blindai.errors import BlindAIError
from blindai.wire.tensor import Tensor, from_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blindai.enclave.engine import Cancellation, Session
    from blindai.enclave.sandbox.plan import Plan

_GROWTH_BYTES: Final = 64 << 20
"""When a process has so much more memory than before, what is free of it is given back."""

_GROWTH_NS: Final = 1_000_000
"""Runs that took less together have not touched so much memory: the system makes no more than some 30 GB/s of it."""

_DESCRIPTOR_SPACE: Final = socket.CMSG_SPACE(4)
_PAGE: Final = resource.getpagesize()
# y = x, as ONNX: one operator, one element.
_SMALLEST: Final = bytes.fromhex(
    "080812003a360a100a017812017922084964656e7469747912005a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a001012"
)
_NO_MEMORY: Final = Refusal("quota.run_memory", "the model needs more memory than its process may have")
_TOO_LONG: Final = Refusal("quota.run_memory", f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
_TOO_MANY: Final = Refusal("quota.run_memory", f"the answer has more than {MAX_ANSWER_TEXTS} texts")


def prepare(name: EngineName) -> None:
    """Load all that an engine needs, by running the smallest model on it: there are no files any more afterwards.

    Raises:
        ConfigurationError: `configuration.engine`, it is not installed.
    """
    settings = OpeningSettings(engines=(name,))
    opened = open_model(memoryview(_SMALLEST), bundle=False, settings=settings)
    opened.session.run({"x": Tensor("x", "FP32", np.zeros(1, np.float32))}, cancellation=opened.session.cancellation())


class Worker:
    """What the threads of the process share.

    Args:
        channel: from the server.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lanes: list[Lane] = []
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._kept = self.resident()
        self._ran_ns = 0
        self.session: Session | None = None

    def serve(self) -> None:
        """Listen until the server has gone."""
        while True:
            data, descriptor = receive(self._channel)
            kind, run, _, _, figure = FRAME.unpack(data)
            if kind == Kind.LANE:
                lane = Lane(self, connect(descriptor))
                self._lanes.append(lane)
                threading.Thread(target=surely, args=(lane.serve,), daemon=True).start()
            else:
                self._lanes[figure].cancel(run)

    def resident(self) -> int:
        """Bytes of memory that the process has."""
        return int(os.pread(self._statm, 128, 0).split()[1]) * _PAGE

    def release_memory(self, ran_ns: int = _GROWTH_NS) -> None:
        """After a run that took so long: give back what is free, where that has become much."""
        self._ran_ns += ran_ns
        if self._ran_ns < _GROWTH_NS:
            return
        self._ran_ns = 0
        if self._trim is not None and self.resident() > self._kept + _GROWTH_BYTES:
            self._trim(0)
            self._kept = self.resident()


class Lane:
    """One run at a time.

    Args:
        worker: whose model is run.
        connection: to the server.
    """

    def __init__(self, worker: Worker, connection: socket.socket) -> None:
        self._worker = worker
        self._socket = connection
        self._memory = np.empty(0, np.uint8)
        self._view = memoryview(b"")
        self._requests: dict[bytes, tuple[dict[str, Tensor], list[str]]] = {}
        self._answers = Plans()
        self._current: tuple[int, Cancellation] | None = None
        self._cancelled = 0

    def serve(self) -> None:
        """Answer until the server has gone."""
        while True:
            data, descriptor = receive(self._socket)
            kind, run, offset, length, figure = FRAME.unpack(data)
            if kind == Kind.SLOT:
                self._replace(descriptor, figure)
            elif kind == Kind.RUN:
                self._run(run, bytes(self._view[offset : offset + length]))
            else:
                self._load(run, bytes(self._view[offset : offset + length]), descriptor, figure)

    def cancel(self, run: int) -> None:
        """Break a run off, whether it has begun or not. From the thread that listens."""
        self._cancelled = run
        current = self._current
        if current is not None and current[0] == run:
            current[1].cancel()

    def _replace(self, descriptor: int, size: int) -> None:
        mapped = mmap.mmap(descriptor, size)
        os.close(descriptor)
        self._requests.clear()  # their tensors are views of what there was
        self._view = memoryview(mapped)
        self._memory = np.frombuffer(mapped, np.uint8)

    def _load(self, run: int, header: bytes, descriptor: int, size: int) -> None:
        reply: Loaded | Refusal
        try:
            reply = self._open(header, descriptor, size)
        except BlindAIError as error:
            reply = known(error)
        except MemoryError:
            reply = _NO_MEMORY
        gc.collect()
        self._worker.release_memory()
        content = encode(reply)
        if len(content) > MAX_HEADER_BYTES:
            content = encode(Refusal("model.too_complex", "the model's inputs and outputs take too long to describe"))
        self._reply(run, Layout(), content)

    def _open(self, header: bytes, descriptor: int, size: int) -> Loaded:
        request = decode_load(header)
        runtime = request.runtime
        settings = OpeningSettings(
            engines=runtime.engines,
            reduced_precision=runtime.reduced_precision,
            threads=runtime.threads,
            max_batch=runtime.max_batch,
            trial_ms=request.trial_ms,
        )
        body = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        os.close(descriptor)
        opened = open_model(memoryview(body), bundle=request.bundle, settings=settings, trial=request.trial)
        self._worker.session = opened.session
        return Loaded(opened.description)

    def _run(self, run: int, header: bytes) -> None:
        session = self._worker.session
        if session is None:
            raise AssertionError("asked to run before the model was open")
        layout = Layout()
        plan: Plan | None = None
        outputs: Sequence[Tensor] = ()
        taken = 0
        began = time.perf_counter_ns()
        cancellation = session.cancellation()
        self._current = (run, cancellation)
        if self._cancelled == run:
            cancellation.cancel()
        try:
            inputs, wanted = self._requested(header)
            started = time.perf_counter_ns()
            outputs = session.run(inputs, wanted, cancellation=cancellation)
            taken = time.perf_counter_ns() - started
            outputs = list(map(self._apart, outputs))
            plan = self._planned(outputs)
            content = plan.header if plan is not None else self._place(outputs, layout)
        except BlindAIError as error:
            content = encode(known(error))
        except MemoryError:
            content = encode(_NO_MEMORY)
        finally:
            self._current = None
        if plan is not None:
            plan.write(self._view, outputs)
            self._socket.send(frame(Kind.DONE, run, plan.end, len(content), taken))
        else:
            self._reply(run, layout, content, taken)
        inputs = {}
        outputs = ()
        del layout
        self._worker.release_memory(time.perf_counter_ns() - began)

    def _requested(self, header: bytes) -> tuple[dict[str, Tensor], list[str]]:
        """The inputs, which are views of the memory, and the names of the outputs that a request wants."""
        asked = self._requests.get(header)
        if asked is not None:
            return asked
        request = decode_run(header)
        view = self._view
        inputs = {
            head.name: from_binary(head.name, head.datatype, head.shape, view[head.offset : head.offset + head.size])
            for head in request.inputs
        }
        if len(header) <= MOST_BYTES and all(head.datatype != "BYTES" for head in request.inputs):
            if len(self._requests) >= MOST_PLANS:
                self._requests.clear()
            self._requests[header] = (inputs, request.outputs)
        return inputs, request.outputs

    def _apart(self, tensor: Tensor) -> Tensor:
        """An output that is not an input as it came: that memory is about to be written."""
        if np.may_share_memory(tensor.data, self._memory):
            return Tensor(tensor.name, tensor.datatype, tensor.data.copy())
        return tensor

    def _planned(self, outputs: Sequence[Tensor]) -> Plan | None:
        """The plan of an answer that fits into the memory there is."""
        plan = self._answers.find(key_of(outputs))
        return plan if plan is not None and plan.end + len(plan.header) <= len(self._view) else None

    def _place(self, outputs: Sequence[Tensor], layout: Layout) -> bytes:
        """Place an answer; the structure that says where it lies."""
        if sum(tensor.data.size for tensor in outputs if tensor.datatype == "BYTES") > MAX_ANSWER_TEXTS:
            return encode(_TOO_MANY)
        if sum(map(size_of, outputs)) > MAX_ANSWER_BYTES:
            return encode(_TOO_LONG)
        for tensor in outputs:
            layout.add([tensor])
        content = encode(Answer(layout.heads))
        self._answers.keep(key_of(outputs), layout.heads, layout.end, content)
        return content

    def _reply(self, run: int, layout: Layout, content: bytes, taken: int = 0) -> None:
        needed = layout.end + len(content)
        if needed > len(self._view):
            self._socket.send(frame(Kind.GROW, run, figure=needed))
            data, descriptor = receive(self._socket)
            self._replace(descriptor, FRAME.unpack(data)[4])
        offset = layout.write(self._view, content)
        self._socket.send(frame(Kind.DONE, run, offset, len(content), taken))


def size_of(tensor: Tensor) -> int:
    """Bytes of the binary form of a tensor."""
    if tensor.datatype == "BYTES":
        return sum(4 + len(item) for item in tensor.data.ravel().tolist())
    return tensor.data.nbytes


def known(error: BlindAIError) -> Refusal:
    """What is said of an error. One that the process of a model may not refuse with is its end."""
    refusal = refusal_of(error)
    if refusal is None:
        raise error
    return refusal


def connect(descriptor: int) -> socket.socket:
    """The socket that a descriptor stands for; the system is not asked of what kind, it would not answer."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=descriptor)


def receive(connection: socket.socket) -> tuple[bytes, int]:
    """The next frame, and the file that came with it, or -1. Ends the process when the server has gone."""
    data, ancillary, _, _ = connection.recvmsg(FRAME.size, _DESCRIPTOR_SPACE)
    if not data:
        os._exit(0)
    return data, int.from_bytes(ancillary[0][2][:4], "little") if ancillary else -1


def surely(serve: Callable[[], None]) -> None:
    """Call `serve`, which does not return, and end the whole process if it does or raises."""
    try:
        serve()
    except MemoryError:
        os._exit(EXIT_MEMORY)
    finally:
        os._exit(EXIT_FAULT)


def main(channel: socket.socket, bounds: Bounds) -> None:
    """Be the process of a model. In a process forked for it; does not return."""
    if bounds.executable:
        prepare(EngineName.OPENVINO)  # it has threads, which no process inherits from the nursery
    worker = Worker(channel)
    confine(bounds)
    surely(worker.serve)
