"""A process that opens a sealed model, runs it, and drops it, waiting for a line on standard input between the steps.

    python leased_process.py SEALED MODEL_DIGEST

The 32 bytes of the data key come first on standard input, straight into a buffer that can be wiped. What is in its
memory at each step is for another process to see; see `memory_scan`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from blindai.crypto.wipe import wipe
from blindai.enclave.allocator import keep_freed_memory
from blindai.enclave.engine import Session
from blindai.enclave.models.model_id import ModelId
from blindai.enclave.models.sealed_model import SealedFile, read_sealed_head
from blindai.enclave.residue import wipe_threads
from blindai.wire.tensor import Tensor
from repositories import ThreadRepository

_WORKERS = 2
_RUNS = 20


def step(name: str) -> None:
    """Say what has been done, and wait."""
    os.write(1, f"{name}\n".encode())
    while os.read(0, 1) != b"\n":
        pass


def run(session: Session) -> None:
    """Run the model on ones."""
    for _ in range(_RUNS):
        session.run({spec.name: Tensor(spec.name, "FP32", np.ones(spec.shape, np.float32)) for spec in session.inputs})


async def main(path: Path, model_digest: str) -> None:
    keep_freed_memory()  # as the server does
    data_key = bytearray(32)
    if os.readv(0, [data_key]) != len(data_key):
        raise SystemExit("no key")
    source = SealedFile(path)
    stream_key = (await read_sealed_head(source, model_digest)).key(data_key)
    step("keyed")
    stream_key.wipe()

    repository = ThreadRepository()
    workers = ThreadPoolExecutor(_WORKERS)
    version = await repository.install_leased(ModelId("acme", "net"), source, data_key, model_digest=model_digest)
    wipe(data_key)
    version.begin_run()
    session = version.session
    assert session is not None
    await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(workers, run, session) for _ in range(_WORKERS)))
    run(session)
    version.end_run()
    step("serving")

    await repository.revoke(version, reason="lease.stopped")
    await wipe_threads(workers, _WORKERS)
    step("revoked")
    workers.shutdown()
    await repository.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
