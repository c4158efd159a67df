"""Loads models into confined processes of their own; see `runner.Loader`."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final

from blindai.enclave.config import EngineName
from blindai.enclave.sandbox.confinement import Bounds, require_confinement
from blindai.enclave.sandbox.fork_server import ForkServer
from blindai.enclave.sandbox.messages import MAX_ANSWER_BYTES, MAX_HEADER_BYTES, LoadRequest
from blindai.enclave.sandbox.process import WorkerProcess
from blindai.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from blindai.enclave.config import EnclaveConfig
    from blindai.enclave.models.description import Trial
    from blindai.enclave.running.runner import Plain

_EXPANSION: Final = 4
"""Bytes of a tensor for each byte of a request's body, at most: an FP64 of one digit and a comma in JSON."""

_TRIAL_PART: Final = 4
"""A trial takes this part of the time for loading, at most."""


class Sandbox:
    """The processes of all models of this server, and the nursery they come from.

    Args:
        config: the measured configuration.
        nursery: starts the program that processes are forked from.

    Attributes:
        bounds: of each process.
    """

    def __init__(self, config: EnclaveConfig, nursery: Callable[[], ForkServer] = ForkServer) -> None:
        limits = config.limits
        runtime = config.runtime
        self._runtime = runtime
        self._load_ms = config.timeouts.load_ms
        # An engine that compiles models to machine code must make memory executable.
        executable = EngineName.OPENVINO in runtime.engines
        self.bounds = Bounds(limits.model_process_bytes, runtime.workers, executable=executable)
        self._slot_bytes = max(_EXPANSION * limits.max_body_bytes, MAX_ANSWER_BYTES) + MAX_HEADER_BYTES
        self._start_nursery = nursery
        self._nursery: ForkServer | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    @property
    def nursery(self) -> ForkServer | None:
        """The program that processes are forked from; None before the start."""
        return self._nursery

    async def start(self) -> None:
        """Start the nursery. On the event loop that everything here is used on.

        Raises:
            ConfigurationError: `configuration.isolation`, this system cannot confine a process.
        """
        require_confinement()
        await self._running()

    async def load(self, plain: Plain, *, trial: Trial | None = None) -> WorkerProcess:
        """As `runner.Loader.load`. Whoever stops waiting for it stops it.

        Raises:
            InvalidModel, QuotaExceeded: as there.
            Unavailable: `busy`, there can be no process now.
        """
        try:
            return await self._load(await self._running(), plain, trial)
        except OSError as error:
            raise Unavailable("the enclave has too many files open", code="busy", hint="try again soon") from error

    async def _load(self, nursery: ForkServer, plain: Plain, trial: Trial | None) -> WorkerProcess:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                forked = await nursery.fork(theirs, self.bounds)
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        process = WorkerProcess(
            forked,
            ours,
            lanes=self.bounds.lanes,
            data_bytes=self.bounds.data_bytes,
            slot_bytes=self._slot_bytes,
        )
        request = LoadRequest(plain.bundle, self._runtime, self._load_ms // _TRIAL_PART, trial)
        await process.open(plain, request, self._load_ms / 1000)
        return process

    async def close(self) -> None:
        """As `runner.Loader.close`."""
        self._closed = True
        if self._nursery is not None:
            await self._nursery.close()

    async def _running(self) -> ForkServer:
        """The nursery; started once more where it has ended."""
        async with self._starting:
            if self._closed:
                raise Unavailable("the enclave is stopping", code="stopping")
            if self._nursery is None or self._nursery.ended:
                if self._nursery is not None:
                    await self._nursery.close()
                nursery = self._start_nursery()
                await nursery.ready()
                self._nursery = nursery
            return self._nursery
