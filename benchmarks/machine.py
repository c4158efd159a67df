"""The machine that measures: what it is, and whether two processes really get two cores now."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import time
from enum import StrEnum
from importlib import metadata
from pathlib import Path

# Below this a client and a server on "their own" cores wait for each other, and no ratio means anything.
LEAST_SCALING = 1.8

# How often to look again, every few seconds, whether others leave the machine alone.
QUIET_TRIES = 20

_SPIN = """
import sys, time
sys.stdin.readline()
end, count = time.perf_counter() + {seconds}, 0
while time.perf_counter() < end:
    count += 1
print(count)
"""
_PACKAGES = ("cryptography", "httptools", "numpy", "onnxruntime", "pyopenssl", "uvicorn", "uvloop")


def cores() -> list[int]:
    """The cores that this process could use when it began."""
    return _CORES


class Placement(StrEnum):
    """Where client and server run.

    On one core, a request costs what both of them compute, and hardly anything else: figures differ by a percent from
    run to run. On two, they also wait for each other's core to wake up, and overlap where a request is large.
    """

    ONE_CORE = "one core"
    TWO_CORES = "two cores"

    @property
    def client(self) -> int:
        return cores()[0]

    @property
    def server(self) -> int:
        return cores()[0 if self is Placement.ONE_CORE else -1]


_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def pin(pid: int, *allowed: int) -> None:
    """Keep a process with all its threads on these cores, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        return
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(int(thread.name), allowed)


def spin_scaling(seconds: float) -> float:
    """The work of two busy processes together, as a multiple of what one does alone: 2 on two free cores."""
    before, together, after = (_spin(seconds, processes) for processes in (1, 2, 1))
    return sum(together) / max(*before, *after)


def quiet_scaling() -> float:
    """`spin_scaling`, waited for until others leave the machine alone, or patience ends."""
    for _ in range(QUIET_TRIES):
        scaling = spin_scaling(1.0)
        if scaling >= LEAST_SCALING:
            break
        time.sleep(5)
    return scaling


def _spin(seconds: float, processes: int) -> list[int]:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _SPIN.format(seconds=seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    time.sleep(0.2)  # until all of them wait for the line
    for process in started:
        if process.stdin is not None:
            process.stdin.write("\n")
            process.stdin.flush()
    return [int(process.communicate()[0]) for process in started]


def describe() -> dict[str, str]:
    """The machine and the software, without names of hosts, users or folders."""
    versions = {name: metadata.version(name) for name in _PACKAGES}
    return {
        "processor": _processor(),
        "cores": str(len(cores())),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {platform.machine()}" if names else platform.machine()
