"""Many processes of `blindai`, quickly: one process imports everything and forks whenever another is wanted.

What runs in them is the program as users start it, with its own arguments, memory and sockets; only the second that
each would spend on imports is spent once. Linux only.
"""

from __future__ import annotations

import array
import contextlib
import json
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from io import FileIO, TextIOWrapper
from multiprocessing.context import ForkServerContext
from typing import Final, Self

_MESSAGE_BYTES: Final = 1 << 16

# What takes the longest to import of what custodians need.
_CUSTODIANS: Final = ["blindai.custody.custodian", "sqlalchemy.dialects.postgresql.psycopg"]


def of_functions() -> ForkServerContext:
    """The same for processes that run a function of a test: each is forked from one that has imported a custodian."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_CUSTODIANS)
    return context


class Forked:
    """A process that the nursery has forked. It has the methods of `subprocess.Popen` that are needed here.

    Attributes:
        stdout: what it prints.
    """

    def __init__(self, pid: int, stdout: int, code: int) -> None:
        self.pid = pid
        self.stdout = TextIOWrapper(FileIO(stdout))
        self._handle = os.pidfd_open(pid)
        self._code = code
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code once it has ended."""
        with contextlib.suppress(TimeoutError):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, when it has ended. Whoever did not come to say it was killed.

        Raises:
            TimeoutError: it has not.
        """
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._handle, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise TimeoutError
            os.close(self._handle)
            self.returncode = self._said()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _said(self) -> int:
        # Not until the end of the pipe: a process of its own may outlive it.
        os.set_blocking(self._code, False)
        with contextlib.suppress(BlockingIOError), FileIO(self._code) as said:
            if code := said.read(1):
                return code[0]
        return -signal.SIGKILL


class Nursery:
    """The process that forks. A context manager; what it has forked may outlive it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            # Threads would not be there in the child.
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )
        theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._process.wait()

    def start(self, arguments: Sequence[str], stderr: int) -> Forked:
        """`blindai` with these arguments; its standard error goes to `stderr`."""
        reader, writer = os.pipe()
        code_reader, code_writer = os.pipe()
        descriptors = array.array("i", [writer, stderr, code_writer])
        message = json.dumps(arguments).encode()
        with self._lock:
            self._ours.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
            os.close(writer)
            os.close(code_writer)
            return Forked(int(self._ours.recv(_MESSAGE_BYTES)), reader, code_reader)


def _serve(channel: socket.socket) -> None:
    import onnxruntime  # noqa: F401  # imported for those to come

    import blindai.channel.listening
    import blindai.custody.custodian
    import blindai.custody.migrations
    import blindai.custody.server
    import blindai.enclave.server  # noqa: F401  # as above
    from blindai.cli import main

    # Nobody here waits for them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES, 3)
        if not message:
            return
        pid = os.fork()
        if pid:
            for descriptor in descriptors:
                os.close(descriptor)
            channel.send(str(pid).encode())
            continue
        channel.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        *streams, said = descriptors
        for descriptor, number in zip(streams, (1, 2), strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.argv = ["blindai", *json.loads(message)]
        code = _exit_code(main)
        os.write(said, bytes([code]))
        # Libraries that were imported before the fork wait here for threads that are not in this process.
        os._exit(code)


def _exit_code(main: Callable[[], None]) -> int:
    """What the process ends with. All that is done when Python ends, and needed, is done."""
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - shown as Python shows it
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Where coverage is measured, it has been since before the fork.
    if (measuring := sys.modules.get("coverage")) and (measured := measuring.Coverage.current()):
        measured.stop()
        measured.save()
    return code


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
