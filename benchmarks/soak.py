"""Many requests on one connection, many connections, and a siege (`make soak`): memory and descriptors must not grow.

For the last part see `siege`. For the others a real server runs in a process of its own; client and server are sampled
as it goes on, after half as many for warming up. Through the samples a line is laid, robust against single outliers
(Theil and Sen); what it rises from the first to the last is the growth, and must stay below the tolerance. The exit
status says whether it did.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import psutil
from processes import Server, enclave
from workload import MODEL, SIZES

import blindai
from blindai.attestation.measure.local import local_policy
from blindai.attestation.result import Mode

# Interpreters and allocators take memory in steps of up to 1 MiB and keep it. A step in the middle of the samples moves
# the line by about half of it, so less than that says nothing; it is 250 bytes for each of 2,000 connections.
TOLERATED_BYTES = 512 << 10
TOLERATED_DESCRIPTORS = 2

SAMPLES = 40


@dataclass
class Watched:
    """One process, sampled."""

    name: str
    process: psutil.Process
    memory: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def sample(self) -> None:
        self.memory.append(self.process.memory_info().rss)
        if sys.platform == "win32":
            self.descriptors.append(self.process.num_handles())
        else:
            self.descriptors.append(self.process.num_fds())

    def judge(self) -> bool:
        """Print what was seen; whether it is within the tolerance."""
        memory, descriptors = growth(self.memory), growth(self.descriptors)
        within = memory <= TOLERATED_BYTES and descriptors <= TOLERATED_DESCRIPTORS
        print(
            f"  {self.name:6} memory {_mebibytes(self.memory[0])} -> {_mebibytes(self.memory[-1])} MiB,"
            f" growth {memory / 1024:+.0f} KiB (tolerated {TOLERATED_BYTES / 1024:.0f});"
            f" descriptors {self.descriptors[0]} -> {self.descriptors[-1]}, growth {descriptors:+.1f}"
            f" (tolerated {TOLERATED_DESCRIPTORS}): {'ok' if within else 'GROWS'}"
        )
        print("         MiB", " ".join(_mebibytes(value) for value in self.memory[:: max(1, len(self.memory) // 10)]))
        return within


def growth(values: Sequence[int]) -> float:
    """What a line through the values rises from the first to the last."""
    slopes = [
        (later - sooner) / (right - left) for (left, sooner), (right, later) in combinations(enumerate(values), 2)
    ]
    return statistics.median(slopes) * (len(values) - 1)


def _mebibytes(value: int) -> str:
    return f"{value / 2**20:.1f}"


def soak(what: str, times: int, once: Callable[[], object], server: Server) -> bool:
    """Do it `times` times and judge both processes."""
    both = [Watched("server", psutil.Process(server.pid)), Watched("client", psutil.Process())]
    every = max(1, times // SAMPLES)
    for _ in range(times // 2):
        once()
    for number in range(times):
        if number % every == 0:
            gc.collect()
            for watched in both:
                watched.sample()
        once()
    for watched in both:
        watched.sample()
    print(f"{times} {what} after {times // 2} of warm-up, {len(both[0].memory)} samples")
    judged = [watched.judge() for watched in both]
    return all(judged)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few of both, to show that it works; nothing is judged")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--minutes", type=float, default=30, help="of the siege; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=20261121, help="of the siege")
    options = parser.parse_args()
    if options.quick:
        options.requests, options.connections, options.minutes = 50, 10, 0
    values = SIZES[0].values()
    expected: list[np.ndarray] = []
    modes: Counter[Mode] = Counter()

    with enclave() as server:
        logging.getLogger("blindai").setLevel(logging.ERROR)
        address = str(server.said["address"])
        policy = local_policy()

        with blindai.Connection(address, policy=policy, progress=False) as connection:
            expected.append(connection.predict(MODEL, values).output[0].as_numpy().copy())

            def request() -> None:
                answer = connection.predict(MODEL, values).output[0].as_numpy()
                if not np.array_equal(answer, expected[0]):
                    raise RuntimeError("the answer changed")

            within = soak("requests", options.requests, request, server)

        def connect() -> None:
            with blindai.Connection(address, policy=policy, progress=False) as fresh:
                modes[fresh.attestation.mode] += 1
                fresh.predict(MODEL, values)

        within &= soak("connections", options.connections, connect, server)
    print(f"fresh gates: {modes[Mode.FRESH]} of {modes.total()}, each with one prediction")
    if options.minutes:
        from siege import siege  # needs the models of the tests

        within &= siege(options.minutes, options.seed)
    return 0 if within or options.quick else 1


if __name__ == "__main__":
    sys.exit(main())
