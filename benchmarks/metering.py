"""What metering costs: goal 5. One enclave serves the same model twice, as a loan and as one of its own."""

from __future__ import annotations

import argparse
import time
from contextlib import closing

import numpy as np
from loans import LENT, Loan, lent
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
    " turns: what the enclave does beside the queries, renewals among it, is part of it. The custodian, which is"
    " another machine in earnest, may use every core; its database is on this disk."
)


def measure(effort: Effort) -> list[Table]:
    """Start custodian and enclave with each of the models, and measure; a table for each placement."""
    encoder = distilbert(layers=1, heads=1) if effort is QUICK else distilbert()
    small = Tensor.from_array("x", SIZES[0].values())
    tokens = Tensor.from_array("input_ids", np.arange(128, dtype=np.int64).reshape(1, 128))
    runs = {
        "tiny model, 4 KB": _measure(tiny_model(), small, effort),
        "shape of DistilBERT, 128 tokens": _measure(encoder, tokens, effort),
    }
    return [_table({label: means[placement] for label, means in runs.items()}, placement) for placement in Placement]


Means = dict[str, list[float]]
"""For each way, the mean time of a query in each round, in microseconds."""


def _table(runs: dict[str, Means], placement: Placement) -> Table:
    rows = []
    goals = []
    for label, means in runs.items():
        slower = ratio(means[METERED], means[UNMETERED])
        throughput = ratio(means[UNMETERED], means[METERED])
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


def _measure(model: bytes, tensor: Tensor, effort: Effort) -> dict[Placement, Means]:
    with lent(model) as loan:
        loan.client.upload_model(model, model_id=OWN)
        return {placement: _means(loan, tensor, effort, placement) for placement in Placement}


def _means(loan: Loan, tensor: Tensor, effort: Effort, placement: Placement) -> Means:
    requests = {METERED: _request(tensor, LENT, loan.token), UNMETERED: _request(tensor, OWN, loan.token)}
    turns, seconds = (_TURNS, _TURN_SECONDS) if effort is not QUICK else (1, 0.0)
    means: Means = {name: [] for name in requests}
    with placed(placement, (loan.borrower,)), closing(RawClient(loan.borrower.port)) as client:
        client.open_gate()
        for request in requests.values():
            _turn(client, request, 20 * seconds)  # the enclave learns how long runs take, and how many units last
        for number in range(effort.rounds):
            spent, calls = dict.fromkeys(requests, 0), dict.fromkeys(requests, 0)
            for turn in range(turns):
                for name in list(requests)[:: 1 if (number + turn) % 2 else -1]:
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
    for table in measure(QUICK if options.quick else FULL):
        print(table.markdown())
