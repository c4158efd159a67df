"""What the SDK costs beside a raw socket, and what it takes to import and hold it: goal 7."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial

from machine import Placement
from processes import Server, enclave, placed
from rawclient import RawClient
from report import Goal, Table
from timing import FULL, QUICK, Effort, Lane, Repeated, Run, Spread, interleave, ratio
from workload import MODEL, SIZES, Size, http_request

import blindai

RAW = "raw TLS socket"
SDK = "`Connection.predict`"
ASYNC = "`AsyncConnection.predict`"

METHOD = (
    "p50 of a whole prediction in microseconds, all against the same enclave. The raw client is a"
    " socket of Python's `ssl` that opens the gate without checking it, writes a prepared request and does not parse"
    " the answer. The SDK encodes the tensor, checks that the verdict is still valid, sends, parses the answer and"
    " makes arrays of it, each time."
)
COST_METHOD = (
    "In new interpreters: how long each takes, and the memory (resident set) that the process holds then. Names of"
    " `blindai` are loaded when they are first used, so the second row from below is what a program pays."
)

_PROGRAM = """
import json, logging, sys, time
logging.disable()
started = time.perf_counter()
{code}
seconds = time.perf_counter() - started
import psutil
print(json.dumps([seconds * 1000, psutil.Process().memory_info().rss / 2**20]))
"""
_PREDICT = """
import numpy, blindai
connection = blindai.Connection(sys.argv[1], simulation=True)
connection.predict(sys.argv[2], numpy.zeros((1, 1000), numpy.float32))
"""
_PROGRAMS = {
    "nothing": "pass",
    "`import numpy`": "import numpy",
    "`import blindai`": "import blindai",
    "`from blindai import Connection`": "from blindai import Connection",
    "the same, then connecting and a prediction": _PREDICT,
}


class AsyncLane:
    """Predictions by the asyncio client, timed inside its event loop."""

    def __init__(self, runner: asyncio.Runner, connection: blindai.AsyncConnection, size: Size) -> None:
        self.name = ASYNC
        self._runner = runner
        self._connection = connection
        self._values = size.values()

    def sample(self, calls: int) -> list[int]:
        return self._runner.run(self._sample(calls))

    async def _sample(self, calls: int) -> list[int]:
        taken = []
        for _ in range(calls):
            started = time.perf_counter_ns()
            await self._connection.predict(MODEL, self._values)
            taken.append(time.perf_counter_ns() - started)
        return taken


def measure(effort: Effort, server: Server, placement: Placement) -> Table:
    """Predictions by all clients."""
    with ExitStack() as stack:
        address = str(server.said["address"])
        connection = stack.enter_context(blindai.Connection(address, simulation=True, progress=False))
        stack.enter_context(placed(placement, (server,)))
        runs = {size: _run(size, effort, server.port, address, connection) for size in SIZES}
    return _table(runs, placement)


def _run(size: Size, effort: Effort, port: int, address: str, connection: blindai.Connection) -> Run:
    with ExitStack() as stack:
        raw = RawClient(port)
        stack.callback(raw.close)
        raw.open_gate()
        runner = stack.enter_context(asyncio.Runner())
        concurrent = blindai.AsyncConnection(address, simulation=True, progress=False)
        stack.callback(lambda: runner.run(concurrent.close()))
        lanes: list[Lane] = [
            Repeated(RAW, partial(raw.exchange, http_request(size, f"/v2/models/{MODEL}/infer"))),
            Repeated(SDK, partial(connection.predict, MODEL, size.values())),
            AsyncLane(runner, concurrent, size),
        ]
        return interleave(lanes, effort)


def _table(runs: dict[Size, Run], placement: Placement) -> Table:
    rows = [[name, *(run.spread(name).text() for run in runs.values())] for name in (RAW, SDK, ASYNC)]
    rows += [
        [f"{name} against it (ratio)", *(ratio(run.p50[name], run.p50[RAW]).text(2) for run in runs.values())]
        for name in (SDK, ASYNC)
    ]
    small = runs[SIZES[0]]
    return Table(
        title=f"The client on {placement}",
        method=METHOD,
        columns=["", *(size.label for size in SIZES)],
        rows=rows,
        goals=[
            Goal(
                7,
                "SDK `predict` at 4 KB against a raw TLS socket",
                placement,
                2.0,
                ratio(small.p50[SDK], small.p50[RAW]),
            )
        ],
        raw={size.label: run.p50 for size, run in runs.items()},
    )


def measure_cost(effort: Effort, server: Server) -> Table:
    """Time and memory of importing it."""
    address, times = str(server.said["address"]), 1 if effort is QUICK else 9
    milliseconds: dict[str, list[float]] = {name: [] for name in _PROGRAMS}
    mebibytes: dict[str, list[float]] = {name: [] for name in _PROGRAMS}
    for _ in range(times):
        for name, code in _PROGRAMS.items():
            command = [sys.executable, "-c", _PROGRAM.format(code=code), address, MODEL]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            took, holds = json.loads(told)
            milliseconds[name].append(took)
            mebibytes[name].append(holds)
    rows = [[name, Spread.of(milliseconds[name]).text(), Spread.of(mebibytes[name]).text()] for name in _PROGRAMS]
    return Table(
        title="Importing the client",
        method=COST_METHOD,
        columns=["", "milliseconds", "MiB"],
        rows=rows,
        raw={"milliseconds": milliseconds, "mebibytes": mebibytes},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with enclave() as server:
        effort = QUICK if options.quick else FULL
        for placement in Placement:
            print(measure(effort, server, placement).markdown())
        print(measure_cost(effort, server).markdown())
