"""The server's end of the nursery: it starts the program, asks for processes and hears how they end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import blindai
from blindai.enclave.sandbox.confinement import refuse_isolation
from blindai.enclave.sandbox.messages import Born, Died, Fork, Ready, decode_nursery, encode
from blindai.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blindai.enclave.sandbox.confinement import Bounds

START_SECONDS: Final = 60.0
"""For the nursery to load its libraries; a second or two where the machine has nothing else to do."""

_MESSAGE_BYTES: Final = 4096
# Its modules come from where the server's own do, which PYTHONPATH may have said: the environment is not handed on.
_PROGRAM: Final = """
import sys
sys.path[:] = sys.argv[1:-1]
del sys.argv[1:-1]
from blindai.enclave.sandbox.nursery import main
main()
"""

# All that the nursery gets of an environment. Threads would not be there in the processes forked from it; and an arena
# of memory for each thread would cost more than lanes gain by it.
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


class Forked(NamedTuple):
    """A process of a model.

    Attributes:
        process: its number, and that of its process group.
        handle: its descriptor (pidfd_open(2)), which names it even when the number is another's; whoever has it
            closes it.
        died: done when it has ended, with how; with None where that is not known.
    """

    process: int
    handle: int
    died: asyncio.Future[Died | None]


class ForkServer:
    """One run of the nursery. On an event loop.

    Args:
        program: arguments of the interpreter that say what to run; the number of the socket follows them. By default
            the nursery of this very package.

    Attributes:
        ended: whether it has gone, and all processes with it.
    """

    def __init__(self, program: Sequence[str] = ()) -> None:
        self.ended = False
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._ready: asyncio.Future[Ready] = self._loop.create_future()
        self._births: dict[int, asyncio.Future[Forked]] = {}
        self._deaths: dict[int, asyncio.Future[Died | None]] = {}
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._program = subprocess.Popen(  # noqa: S603 - this very interpreter, and a module of this package
                [sys.executable, *(program or _own_program()), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_ENVIRONMENT,
                cwd="/",
                process_group=0,
            )
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._read)

    @property
    def process(self) -> int:
        """The number of the nursery's process."""
        return self._program.pid

    async def ready(self) -> None:
        """Wait until it can fork.

        Raises:
            ConfigurationError: `configuration.isolation`, it cannot start or confine a process.
        """
        try:
            refused = (await asyncio.wait_for(asyncio.shield(self._ready), START_SECONDS)).refused
        except (TimeoutError, Unavailable):
            refused = "the program that starts them has ended or does not answer"
        if refused:
            await self.close()
            raise refuse_isolation(refused)

    async def fork(self, channel: socket.socket, bounds: Bounds) -> Forked:
        """A new process of a model.

        Args:
            channel: its end of the channel; the caller closes his copy.
            bounds: what it may use.

        Raises:
            Unavailable: `busy`, there can be no more processes, or the nursery has ended.
        """
        if self.ended:
            raise _ended()
        number = next(self._numbers)
        born: asyncio.Future[Forked] = self._loop.create_future()
        self._births[number] = born
        self._deaths[number] = self._loop.create_future()
        message = encode(Fork(number, bounds.data_bytes, bounds.lanes, bounds.executable))
        try:
            socket.send_fds(self._socket, [message], [channel.fileno()])
        except OSError as error:
            del self._births[number], self._deaths[number]
            raise _ended() from error
        return await born

    async def close(self) -> None:
        """End it and every process it has forked. Harmless when repeated."""
        self._end()
        await self._loop.run_in_executor(None, self._program.wait)

    def _read(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._socket, _MESSAGE_BYTES, 1)
        except BlockingIOError:
            return
        except OSError:
            message, descriptors = b"", []
        if not message:
            self._end()
            return
        said = decode_nursery(message)
        if isinstance(said, Ready):
            self._ready.set_result(said)
        elif isinstance(said, Born):
            self._begin(said, descriptors)
        else:
            died = self._deaths.pop(said.number, None)
            if died is not None:  # else nobody has heard of it: its descriptor was lost, as no more may be open
                died.set_result(said)

    def _begin(self, born: Born, descriptors: list[int]) -> None:
        future = self._births.pop(born.number)
        if not descriptors:
            del self._deaths[born.number]
            if not future.done():
                future.set_exception(Unavailable("the system has no more processes", code="busy", hint="try again"))
        elif future.done():
            # Whoever wanted it has gone.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptors[0], signal.SIGKILL)
            os.close(descriptors[0])
        else:
            future.set_result(Forked(born.process, descriptors[0], self._deaths[born.number]))

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._program.kill()
        if not self._ready.done():
            self._ready.set_exception(_ended())
            self._ready.exception()  # nobody may be waiting for it
        for born in self._births.values():
            if not born.done():
                born.set_exception(_ended())
        self._births.clear()
        deaths = list(self._deaths.values())
        self._deaths.clear()
        for died in deaths:
            died.set_result(None)


def _own_program() -> list[str]:
    home = str(Path(blindai.__file__).parents[1])
    paths = [path for path in sys.path if Path(path).is_absolute()]
    return ["-I", "-c", _PROGRAM, *([] if home in paths else [home]), *paths]


def _ended() -> Unavailable:
    message = "the program that starts the processes of models has ended"
    return Unavailable(message, code="busy", hint="try again; the enclave starts it once more")
