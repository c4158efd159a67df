"""Many processes of `blindai`, quickly: one process imports everything and forks whenever another is wanted.

What runs in them is the program as users start it, with its own arguments, memory and sockets; only the second that
each would spend on imports is spent once. Linux only.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from io import FileIO, TextIOWrapper
from typing import Final, Self

_MESSAGE_BYTES: Final = 1 << 16


class Forked:
    """A process that the nursery has forked. It has the methods of `subprocess.Popen` that are needed here.

    Attributes:
        stdout: what it prints.
    """

    def __init__(self, pid: int, stdout: int) -> None:
        self.pid = pid
        self.stdout = TextIOWrapper(FileIO(stdout))
        self._handle = os.pidfd_open(pid)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """0 once it has ended: how, its parent alone knows."""
        with contextlib.suppress(TimeoutError):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return when it has ended.

        Raises:
            TimeoutError: it has not.
        """
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._handle, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise TimeoutError
            os.close(self._handle)
            self.returncode = 0
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


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
        descriptors = array.array("i", [writer, stderr])
        message = json.dumps(arguments).encode()
        with self._lock:
            self._ours.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
            os.close(writer)
            return Forked(int(self._ours.recv(_MESSAGE_BYTES)), reader)


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
        message, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES, 2)
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
        for descriptor, number in zip(descriptors, (1, 2), strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.argv = ["blindai", *json.loads(message)]
        try:
            main()
        finally:
            # Libraries that were imported before the fork wait here for threads that are not in this process.
            os._exit(0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
