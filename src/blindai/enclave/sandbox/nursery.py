"""The program from which the process of every model is forked; `fork_server` starts it, with an argument N.

It has loaded what running a model needs, so that a new process is there in milliseconds and shares that memory with all
others. It was executed anew by the server, so there is nothing of the server's memory in it, and it has one thread, so
that forking is safe. N is its socket to the server. When that closes it ends, and with it every process it has forked.
"""

from __future__ import annotations

import array
import contextlib
import gc
import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final, NoReturn

import numpy as np

from blindai.enclave.allocator import keep_freed_memory
from blindai.enclave.config import EngineName
from blindai.enclave.sandbox import worker
from blindai.enclave.sandbox.confinement import Bounds, confine, leave_family
from blindai.enclave.sandbox.messages import EXIT_FAULT, Born, Died, Fork, Ready, decode_fork, encode

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGE_BYTES: Final = 4096
"""The longest message between the nursery and the server."""

_PROBE_BYTES: Final = 64 << 20


class Nursery:
    """Forks processes and tells how each ends.

    Args:
        server: the socket to the server.
    """

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._numbers: dict[int, int] = {}
        self._process = os.getpid()
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Until the server has gone."""
        self._say(Ready(self._try_confinement()))
        poll = select.poll()
        poll.register(self._server, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._wake:
                    self._reap()
                elif not self._take():
                    return

    def _take(self) -> bool:
        """Do what the server asks for; False when it has gone."""
        message, descriptors, _, _ = socket.recv_fds(self._server, MESSAGE_BYTES, 1)
        if not message:
            return False
        fork = decode_fork(message)
        channel = descriptors[0]
        try:
            process = self._fork(lambda: _become_worker(channel, fork))
        except OSError:
            self._say(Born(fork.number, 0))
            return True
        finally:
            os.close(channel)
        self._numbers[process] = fork.number
        handle = os.pidfd_open(process)
        self._say(Born(fork.number, process), handle)
        os.close(handle)
        return True

    def _fork(self, become: Callable[[], object]) -> int:
        process = os.fork()
        if process:
            with contextlib.suppress(OSError):  # it has done so itself, or has gone already
                os.setpgid(process, process)
            return process
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            leave_family(self._process)
            become()
        finally:
            os._exit(EXIT_FAULT)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, MESSAGE_BYTES)
        with contextlib.suppress(ChildProcessError):
            while True:
                process, status, usage = os.wait4(-1, os.WNOHANG)
                if not process:
                    return
                self._say(Died(self._numbers.pop(process), status, usage.ru_maxrss << 10))

    def _say(self, message: Ready | Born | Died, *descriptors: int) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._server.sendmsg([encode(message)], ancillary)

    def _try_confinement(self) -> str:
        """What the system refuses when a process is confined; empty for nothing."""
        reader, writer = os.pipe()

        def probe() -> NoReturn:
            try:
                confine(Bounds(_PROBE_BYTES, 1, executable=False))
            except OSError as error:
                os.write(writer, str(error).encode())
                os._exit(1)
            os.write(writer, b"confined")
            os._exit(0)

        process = self._fork(probe)
        os.close(writer)
        said = os.read(reader, MESSAGE_BYTES).decode()
        os.close(reader)
        os.waitpid(process, 0)
        return "" if said == "confined" else said or "the process ended"


def _become_worker(channel: int, fork: Fork) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    # Above the standard streams, and alone there: whatever else was open is not for a model.
    kept = os.dup2(channel, 3) if channel != 3 else 3
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    worker.main(worker.connect(kept), Bounds(fork.data_bytes, fork.lanes, executable=fork.executable))


def main() -> None:
    """Serve on the socket that the argument names."""
    server = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal says it to all processes of the server
    keep_freed_memory()
    worker.prepare(EngineName.ONNXRUNTIME)
    with contextlib.suppress(ImportError):  # an optional part of the install
        import blindai.enclave.text.session  # noqa: F401 - there are no files any more when a model asks for it
    np.dot(np.ones((2, 2)), np.ones((2, 2)))  # NumPy's algebra sets itself up when first used
    # Collecting would write to memory that is shared with every process forked.
    gc.collect()
    gc.disable()
    gc.freeze()
    with contextlib.suppress(ConnectionError):
        Nursery(server).serve()


if __name__ == "__main__":
    main()
