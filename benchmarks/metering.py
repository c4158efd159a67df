"""What metering costs: goal 5. One enclave serves the same model twice, as a loan and as one of its own."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack

import numpy as np
from loans import LENT, lent
from machine import Placement
from processes import placed
from rawclient import RawClient
from report import Goal, Table
from timing import FULL, QUICK, Effort, Spread, ratio
from workload import SIZES, distilbert, tiny_model

from blindai.wire import v2
from blindai.wire.tensor import Tensor

OWN = "bench/own"
METERED = "on loan, metered"
UNMETERED = "the enclave's own"

# One turn of a way, and how many of them a round has: often enough that both meet the same weather, and long enough
# together for renewals, of which there is one in about three seconds of a busy consumer.
_TURN_SECONDS = 0.1
_TURNS = 20

# As good as 98 % of the throughput, in the time of a query.
_LIMIT = 1 / 0.98

METHOD = (
    "One enclave on a simulated platform serves the same model under two names: on loan, and as one of its own. One"
    " client sends the same bytes to both, but for the name, over one attested connection, one query at a time; the"
    " consumer's token stands in both. Shown is the mean time of a query over whole rounds, in which the two take"
    " turns: what the enclave does beside the queries, renewals among it, is part of it. The custodian is a process of"
    " its own, with its database on this disk."
)


def measure(effort: Effort, placement: Placement) -> Table:
    """Start custodian and enclave with each of the models, and measure."""
    layers = 1 if effort is QUICK else 6
    small = Tensor.from_array("x", SIZES[0].values())
    tokens = Tensor.from_array("input_ids", np.arange(128, dtype=np.int64).reshape(1, 128))
    runs = {
        "tiny model, 4 KB": _measure(tiny_model(), small, effort, placement),
        "shape of DistilBERT, 128 tokens": _measure(distilbert(layers=layers), tokens, effort, placement),
    }
    rows = []
    goals = []
    for label, means in runs.items():
        slower = ratio(means[METERED], means[UNMETERED])
        throughput = Spread.of(one / other for one, other in zip(means[UNMETERED], means[METERED], strict=True))
        rows.append(
            [
                label,
                Spread.of(means[UNMETERED]).text(1),
                Spread.of(means[METERED]).text(1),
                f"{throughput.median:.1%} ({throughput.low:.1%} to {throughput.high:.1%})",
            ]
        )
        goals.append(Goal(5, f"time of a query, metered against unmetered, {label}", placement, _LIMIT, slower))
    return Table(
        title=f"Metering on {placement}",
        method=METHOD,
        columns=["", f"{UNMETERED}, microseconds", f"{METERED}, microseconds", "throughput, metered to unmetered"],
        rows=rows,
        goals=goals,
        raw=runs,
    )


def _measure(model: bytes, tensor: Tensor, effort: Effort, placement: Placement) -> dict[str, list[float]]:
    """For each way, the mean time of a query in each round, in microseconds."""
    with ExitStack() as stack:
        loan = stack.enter_context(lent(model))
        loan.client.upload_model(model, model_id=OWN)
        stack.enter_context(placed(placement, (loan.server, loan.borrower)))
        client = RawClient(loan.borrower.port)
        stack.callback(client.close)
        client.open_gate()
        requests = {
            METERED: _request(tensor, LENT, loan.token),
            UNMETERED: _request(tensor, OWN, loan.token),
        }
        turns, seconds = (_TURNS, _TURN_SECONDS) if effort is not QUICK else (1, 0.0)
        for request in requests.values():
            _turn(client, request, 20 * seconds)  # the enclave learns how long runs take, and how many units last
        means: dict[str, list[float]] = {name: [] for name in requests}
        for number in range(effort.rounds):
            spent = dict.fromkeys(requests, 0)
            calls = dict.fromkeys(requests, 0)
            for turn in range(turns):
                names = list(requests) if (number + turn) % 2 else list(reversed(requests))
                for name in names:
                    taken, done = _turn(client, requests[name], seconds)
                    spent[name] += taken
                    calls[name] += done
            for name in requests:
                means[name].append(spent[name] / calls[name] / 1e3)
        return means


def _turn(client: RawClient, request: bytes, seconds: float) -> tuple[int, int]:
    """Queries for so long, and at least two of them: the nanoseconds they took, and how many they were."""
    began = now = time.perf_counter_ns()
    end = began + int(seconds * 1e9)
    calls = 0
    while calls < 2 or now < end:
        client.exchange(request)
        calls += 1
        now = time.perf_counter_ns()
    return now - began, calls


def _request(tensor: Tensor, model: str, token: str) -> bytes:
    buffers, header_length = v2.encode_request([tensor])
    body = b"".join(buffers)
    lines = [
        f"POST /v2/models/{model}/infer HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {token}",
        "Content-Type: application/octet-stream",
        f"Content-Length: {len(body)}",
        f"Inference-Header-Content-Length: {header_length}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    for placement in Placement:
        print(measure(QUICK if options.quick else FULL, placement).markdown(), flush=True)
