"""One model in a process of its own, as the server sees it: a runner on the event loop, without a thread.

Whatever the process answers may be written by the author of the model. What an honest one would not say ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import resource
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

from blindai.enclave.running.alarm import Alarm
from blindai.enclave.running.batch import rows_of
from blindai.enclave.running.prompt import Prompt
from blindai.enclave.running.runner import Ran
from blindai.enclave.sandbox.confinement import NICE
from blindai.enclave.sandbox.messages import (
    EXIT_MEMORY,
    FRAME,
    MAX_ANSWER_BYTES,
    MAX_ANSWER_TEXTS,
    MAX_HEADER_BYTES,
    Answer,
    Kind,
    Loaded,
    LoadRequest,
    ProtocolError,
    Refusal,
    RunRequest,
    check_description,
    decode_reply,
    encode,
    error_of,
    frame,
    parse,
)
from blindai.enclave.sandbox.plan import MOST_BYTES, MOST_PLANS, KnownAnswer, Plans, fixed, key_of
from blindai.enclave.sandbox.slot import Layout, Slot, read_tensor
from blindai.errors import BlindAIError, InvalidModel, ModelNotFound, QuotaExceeded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blindai.enclave.models.description import Description
    from blindai.enclave.running.runner import Plain, Work
    from blindai.enclave.sandbox.fork_server import Forked
    from blindai.enclave.sandbox.messages import Died
    from blindai.wire.tensor import Tensor

CANCEL_GRACE: Final = 1.0
"""Seconds that a run may take to heed that it was broken off, which it does between two operators of its model."""

PROCESS_BYTES: Final = 6 << 20
"""Memory of a process that is its own before it has a model: 5 MB were measured, what it has written to of
what it shares with others included."""

STAND_BACK: Final = 15
"""Niceness of a process whose run lasts long: a seventh of the share that the others have."""

_MAX_RUN: Final = 2**32 - 1
_NEARLY_ALL: Final = 0.75
_PAGE: Final = resource.getpagesize()
_PEAK: Final = re.compile(rb"^VmHWM:\s+([0-9]+) kB$", re.MULTILINE)


class _Run(Prompt[Ran]):
    """A run that was asked for, as the future of its result."""

    number = 0
    lane: _Lane | None = None
    rows: Sequence[int] = ()
    wanted: Sequence[str] = ()
    used = 0
    grown = False
    started_ns = 0
    blame = ""

    def __init__(self, process: WorkerProcess, batch: Sequence[Work], seconds: float) -> None:
        super().__init__(loop=process.loop)
        self.process = process
        self.batch = batch
        self.seconds = seconds

    def cancel(self, msg: object = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            self.process.break_off(self)
        return cancelled


class _Lane:
    """One run at a time: a socket, the memory of its tensors, and the time that the run has left."""

    __slots__ = ("alarm", "index", "run", "slot", "socket")

    def __init__(self, process: WorkerProcess, index: int, connection: socket.socket) -> None:
        self.index = index
        self.socket = connection
        self.alarm = Alarm(process.loop, lambda: process.over(self))
        self.slot: Slot | None = None
        self.run: _Run | _Load | None = None


class _Load(asyncio.Future["Description"]):
    """A load under way: the first thing that the first lane does."""

    def __init__(self) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self.number = 0
        self.used = 0
        self.grown = False


class WorkerProcess:
    """See `runner.Runner`. Runs that are asked for beyond `lanes` wait for one of the others to end.

    Args:
        forked: the process; this closes its descriptor.
        channel: the server's end.
        lanes: most runs at once.
        data_bytes: memory that it may take.
        slot_bytes: most memory for the tensors of one run.
    """

    description: Description

    def __init__(self, forked: Forked, channel: socket.socket, *, lanes: int, data_bytes: int, slot_bytes: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.process = forked.process
        self._most_lanes = lanes
        self.ended: asyncio.Future[str] = self.loop.create_future()
        self._handle = forked.handle
        self._channel = channel
        self._data_bytes = data_bytes
        self._slot_bytes = slot_bytes
        self._lanes: list[_Lane] = []
        self._idle: list[_Lane] = []
        self._waiting: deque[_Run] = deque()
        self._plans = Plans()
        self._known: dict[bytes, KnownAnswer] = {}
        self._outputs: list[str] = []
        self._datatypes: dict[str, str] = {}
        self._number = 0
        self._reason = ""
        self._reniced = False
        self._statm = -1
        with contextlib.suppress(OSError):  # it has ended already, which will be heard
            self._statm = os.open(f"/proc/{forked.process}/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._shared = self._own_bytes()
        self._memory = PROCESS_BYTES
        self._measured = True
        forked.died.add_done_callback(lambda died: self._died(died.result()))

    @property
    def lanes(self) -> int:
        """As `runner.Runner.lanes`: none once it was ended, even where the system has not said so yet."""
        return 0 if self._reason else self._most_lanes

    @property
    def memory(self) -> int:
        """As `runner.Runner.memory`, in the words of the kernel: its own pages, and those of its tensors."""
        if not self._measured and not self.ended.done():
            self._measured = True
            slots = sum(lane.slot.size for lane in self._lanes if lane.slot is not None)
            self._memory = PROCESS_BYTES + max(0, self._own_bytes() - self._shared) + slots
        return self._memory

    @property
    def peak(self) -> int:
        """As `inline_copy.Measured.peak`, in the words of the kernel; more than there is where it does not say."""
        try:
            status = Path(f"/proc/{self.process}/status").read_bytes()
        except OSError:  # it has ended
            status = b""
        found = _PEAK.search(status)
        return sys.maxsize if found is None else max(0, (int(found[1]) << 10) - self._shared)

    async def open(self, plain: Plain, request: LoadRequest, seconds: float) -> None:
        """Let it open its model. Once, and before anything else. It is ended where that fails.

        Raises:
            InvalidModel, QuotaExceeded: as `runner.Loader.load`.
        """
        load = _Load()
        timer = self.loop.call_later(seconds, self.kill, "quota.load_time")
        try:
            lane = self._new_lane()
            header = encode(request)
            slot = self._slot(lane, len(header))
            slot.view[: len(header)] = header
            self._assign(lane, load, len(header))
            size = os.fstat(plain.fileno()).st_size
            self._send(lane, frame(Kind.LOAD, load.number, 0, len(header), size), plain.fileno())
            self.description = description = await load
            self._outputs = [spec.name for spec in description.outputs]
            self._datatypes = {spec.name: spec.datatype for spec in description.outputs}
        except BaseException:
            self.kill("model.not_loaded")
            raise
        finally:
            timer.cancel()

    def run(self, batch: Sequence[Work], *, seconds: float) -> asyncio.Future[Ran]:
        """As `runner.Runner.run`."""
        run = _Run(self, batch, seconds)
        if self._reason or self.ended.done():
            run.set_exception(_error(self._reason or self.ended.result()))
        elif self._idle:
            self._begin(self._idle.pop(), run)
        elif (lane := self._another_lane()) is not None:
            self._begin(lane, run)
        else:
            self._waiting.append(run)
        return run

    def break_off(self, run: _Run) -> None:
        """Ask a run to end, and see to it that it does. Without effect where it has not begun."""
        lane = run.lane
        if lane is None or lane.run is not run:
            return
        with contextlib.suppress(OSError):
            self._channel.send(frame(Kind.CANCEL, run.number, figure=lane.index))
        run.blame = run.blame or "model.crashed"
        lane.alarm.set(CANCEL_GRACE)

    def renice(self) -> None:
        """Let the runs in progress stand back behind those of all other models. It is undone when they have ended."""
        if self._prioritized(STAND_BACK):
            self._reniced = True

    async def close(self) -> None:
        """As `runner.Runner.close`."""
        self.kill("model.not_loaded")
        await asyncio.shield(self.ended)

    def kill(self, reason: str) -> None:
        """End the process. What runs fails with `reason`, a code. Without effect where it is ending already."""
        if self._reason or self.ended.done():
            return
        self._reason = reason
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def over(self, lane: _Lane) -> None:
        """The time of what this lane runs is over; or that which it had to heed it."""
        run = lane.run
        if isinstance(run, _Run):
            if run.blame:
                self.kill(run.blame)
            else:
                run.blame = "quota.run_time"
                self.break_off(run)

    def _begin(self, lane: _Lane, run: _Run) -> None:
        try:
            offset, length = self._write(lane, run)
        except BlindAIError as error:
            run.set_exception(error)
            self._next(lane)
            return
        run.lane = lane
        run.batch = ()
        self._assign(lane, run, offset + length)
        run.started_ns = time.perf_counter_ns()
        lane.alarm.set(run.seconds)
        self._send(lane, frame(Kind.RUN, run.number, offset, length))

    def _write(self, lane: _Lane, run: _Run) -> tuple[int, int]:
        """Write what a run is about; where its structure begins, and how many bytes it has."""
        batch = run.batch
        first = batch[0]
        run.wanted = first.outputs or self._outputs
        key = None
        if len(batch) == 1:
            key = key_of(first.inputs.values(), run.wanted)
            plan = self._plans.find(key)
            if plan is not None:
                length = len(plan.header)
                plan.write(self._slot(lane, plan.end + length).view, first.inputs.values())
                return plan.end, length
        else:
            run.rows = [rows_of(work.inputs) for work in batch]
        layout = Layout()
        for name in first.inputs:
            layout.add([work.inputs[name] for work in batch])
        header = encode(RunRequest(layout.heads, list(run.wanted)))
        offset = layout.write(self._slot(lane, layout.end + len(header)).view, header)
        if key is not None:
            self._plans.keep(key, layout.heads, offset, header)
        return offset, len(header)

    def _assign(self, lane: _Lane, run: _Run | _Load, used: int) -> None:
        self._number = self._number % _MAX_RUN + 1
        run.number = self._number
        run.used = used
        lane.run = run

    def _next(self, lane: _Lane) -> None:
        """The lane is free: give it the next run, or put it aside."""
        lane.run = None
        while self._waiting:
            run = self._waiting.popleft()
            if not run.done():
                self._begin(lane, run)
                return
        self._idle.append(lane)
        if self._reniced and len(self._idle) == len(self._lanes):
            self._reniced = False
            if not self._prioritized(NICE):
                # The system lets nobody but its administrator do that. Another process will serve the next request.
                self.kill("model.not_loaded")

    def _prioritized(self, niceness: int) -> bool:
        """Set the niceness of all threads of the process; whether the system allows it."""
        try:
            os.setpriority(os.PRIO_PGRP, self.process, niceness)
        except (PermissionError, ProcessLookupError):
            return False
        return True

    def _another_lane(self) -> _Lane | None:
        """A new lane; None where there are as many as may be, or as many files open as the system allows."""
        if len(self._lanes) == self._most_lanes:
            return None
        with contextlib.suppress(OSError):
            return self._new_lane()
        return None

    def _new_lane(self) -> _Lane:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        lane = _Lane(self, len(self._lanes), ours)
        self._lanes.append(lane)
        with theirs, contextlib.suppress(OSError):  # it has ended, which will be heard
            socket.send_fds(self._channel, [frame(Kind.LANE)], [theirs.fileno()])
        self.loop.add_reader(ours, self._readable, lane)
        return lane

    def _slot(self, lane: _Lane, size: int) -> Slot:
        """The memory of this lane, made anew where it is smaller."""
        if lane.slot is not None and lane.slot.size >= size:
            return lane.slot
        if size > self._slot_bytes:
            message = f"the tensors of this request take {size} bytes, more than {self._slot_bytes}"
            raise QuotaExceeded(message, code="quota.run_memory")
        try:
            slot = Slot(size)
        except (OSError, MemoryError) as error:
            raise QuotaExceeded("there is no memory for the tensors of this request", code="quota.memory") from error
        if lane.slot is not None:
            lane.slot.close()
        lane.slot = slot
        self._send(lane, frame(Kind.SLOT, figure=slot.size), slot.fileno())
        return slot

    def _send(self, lane: _Lane, data: bytes, descriptor: int | None = None) -> None:
        # A process that has ended, or does not read what it must, is heard of elsewhere: by its end, or by the time.
        with contextlib.suppress(OSError):
            if descriptor is None:
                lane.socket.send(data)
            else:
                socket.send_fds(lane.socket, [data], [descriptor])

    def _readable(self, lane: _Lane) -> None:
        try:
            data = lane.socket.recv(FRAME.size + 1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # It has ended, and the nursery will say how; or else it should have.
            self.loop.remove_reader(lane.socket)
            self.loop.call_later(CANCEL_GRACE, self.kill, "model.crashed")
            return
        if self._reason:
            return
        try:
            self._take(lane, data)
        except ProtocolError:
            self.kill("model.crashed")

    def _take(self, lane: _Lane, data: bytes) -> None:
        kind, number, offset, length, figure = parse(data)
        run, slot = lane.run, lane.slot
        if run is None or slot is None or number != run.number:
            raise ProtocolError("it answered what nobody has asked")
        if kind == Kind.GROW:
            if run.grown or not slot.size < figure <= MAX_ANSWER_BYTES + MAX_HEADER_BYTES:
                raise ProtocolError("it asked for memory that it does not need")
            run.grown = True
            try:
                self._slot(lane, figure)
            except QuotaExceeded:
                self.kill("quota.run_memory")
            return
        if kind != Kind.DONE or length > MAX_HEADER_BYTES or offset + length > slot.size:
            raise ProtocolError("it sent no answer")
        header = bytes(slot.view[offset : offset + length])
        self._measured = False
        if isinstance(run, _Load):
            self._loaded(run, decode_reply(header))
            slot.clear(max(run.used, offset + length))
            self._next(lane)
            return
        lane.alarm.unset()
        result = self._result(run, header, slot, figure)
        slot.clear(max(run.used, offset + length))
        self._next(lane)  # before anybody hears of the result, who may ask for the next run
        if run.done():
            return
        if isinstance(result, Ran):
            run.set_result(result)
        else:
            run.set_exception(result)

    def _loaded(self, load: _Load, reply: Loaded | Answer | Refusal) -> None:
        if isinstance(reply, Answer):
            raise ProtocolError("it answered a load with tensors")
        error = error_of(reply) if isinstance(reply, Refusal) else None
        if isinstance(reply, Loaded):
            check_description(reply.description)
        if load.done():
            return
        if error is not None:
            load.set_exception(error)
        elif isinstance(reply, Loaded):
            load.set_result(reply.description)

    def _result(self, run: _Run, header: bytes, slot: Slot, taken: int) -> Ran | BlindAIError:
        """What an answer to a run says."""
        known = self._known.get(header)
        if known is not None and not run.rows and known.names == list(run.wanted) and known.end <= slot.size:
            answers = [known.read(slot.view)]
        else:
            reply = decode_reply(header)
            if isinstance(reply, Loaded):
                raise ProtocolError("it answered a run with a description")
            if isinstance(reply, Refusal):
                return error_of(reply)
            try:
                answers = self._answers(run, reply, slot)
            except InvalidModel as error:
                return error
            if not run.rows and len(header) <= MOST_BYTES and fixed(reply.outputs):
                if len(self._known) >= MOST_PLANS:
                    self._known.clear()
                self._known[header] = KnownAnswer(reply.outputs)
        return Ran(answers, min(taken, time.perf_counter_ns() - run.started_ns))

    def _answers(self, run: _Run, answer: Answer, slot: Slot) -> list[list[Tensor]]:
        """Copies of the outputs, for each request of the batch."""
        heads = answer.outputs
        if [head.name for head in heads] != list(run.wanted):
            raise ProtocolError("it answered with other outputs than were asked for")
        if sum(head.size for head in heads) > slot.size:
            raise ProtocolError("its answer is larger than its memory")
        if sum(math.prod(head.shape) for head in heads if head.datatype == "BYTES") > MAX_ANSWER_TEXTS:
            raise ProtocolError("its answer has more texts than it may have")
        columns = []
        for head in heads:
            if head.datatype != self._datatypes.get(head.name):
                raise ProtocolError("it answered with another datatype than it has described")
            columns.append(read_tensor(slot.view, head, run.rows))
        count = max(1, len(run.rows))
        return [[column[index] for column in columns] for index in range(count)]

    def _died(self, how: Died | None) -> None:
        reason = self._reason or _cause(how, self._data_bytes)
        self._reason = reason
        for lane in self._lanes:
            self.loop.remove_reader(lane.socket)
            lane.socket.close()
            lane.alarm.close()
            if lane.slot is not None:
                lane.slot.close()
        self._channel.close()
        for descriptor in (self._handle, self._statm):
            if descriptor >= 0:
                os.close(descriptor)
        runs = [lane.run for lane in self._lanes if lane.run is not None]
        for run in (*runs, *self._waiting):
            if not run.done():
                run.set_exception(_error(run.blame if isinstance(run, _Run) and run.blame else reason))
        self._waiting.clear()
        self._idle.clear()
        self.ended.set_result(reason)

    def _own_bytes(self) -> int:
        """Bytes in memory that are no pages of files."""
        if self._statm < 0:
            return 0
        try:
            _, resident, shared, *_ = os.pread(self._statm, 128, 0).split()
        except (OSError, ValueError):  # it has ended
            return 0
        return (int(resident) - int(shared)) * _PAGE


def _cause(how: Died | None, data_bytes: int) -> str:
    """Why a process has ended that nobody here has ended."""
    if how is None:
        return "model.crashed"
    if os.WIFEXITED(how.status):
        return "quota.run_memory" if os.WEXITSTATUS(how.status) == EXIT_MEMORY else "model.crashed"
    # The system ends a process like this that has taken the last of its memory; nobody else does.
    starved = os.WTERMSIG(how.status) == signal.SIGKILL or how.peak_bytes > data_bytes * _NEARLY_ALL
    return "quota.run_memory" if starved else "model.crashed"


def _error(code: str) -> BlindAIError:
    if code == "model.not_loaded":
        return ModelNotFound("the model was unloaded", code=code)
    if code == "quota.run_memory":
        return QuotaExceeded("the model needs more memory than its process may have", code=code)
    if code == "quota.run_time":
        return QuotaExceeded("the run was stopped: it took too long", code=code)
    if code == "quota.load_time":
        return QuotaExceeded("loading the model took too long", code=code)
    return InvalidModel("the process of the model ended in the middle of its work", code="model.crashed")
