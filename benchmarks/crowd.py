"""Many clients at once on an encoder of text: answers a second, beside other model servers and a bare engine (goal 3).

One process per server, two cores for all of them and their clients. The bare engine is held to the same number of cores
in this process: its threads take requests from a list, one by one or sixteen at a time.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from peer import PEERS, Form, Peer
from processes import Server, enclave
from rawclient import RawClient
from report import Goal, Table
from timing import FULL, QUICK, Effort, Repeated, Spread, interleave, ratio
from workload import distilbert, session

import blindai
from blindai.wire import v2

OURS = "BlindAI, attested TLS"
MODEL = "bench/encoder"
TOKENS = 8
CLIENTS = 32
BATCH = 16
CORES = 2
RATES = f"{CLIENTS} clients on an encoder: answers a second"

METHOD = (
    f"An encoder of the shape of DistilBERT with random weights, {TOKENS} tokens a request. {CLIENTS} connections, each"
    " with one request at a time, all of them sending as fast as they are answered; the servers are measured in turns."
    " The bare engine is ONNX Runtime in this process, two threads that run one request each, or sixteen as one. Each"
    " peer is started anew for each row, as its documentation advises for long runs; 'batched' puts at most sixteen"
    " requests together. Peers run without TLS."
)

Ask = Callable[[], object]


def load(asks: Sequence[Ask], seconds: float) -> float:
    """Answers a second, when each of `asks` is called over and over on a thread of its own for so long."""
    counts = [0] * len(asks)
    together = threading.Barrier(len(asks) + 1)
    over = threading.Event()
    errors: list[Exception] = []

    def keep_asking(number: int, ask: Ask) -> None:
        together.wait()
        try:
            while not over.is_set():
                ask()
                counts[number] += 1
        except (OSError, RuntimeError) as error:
            errors.append(error)

    threads = [threading.Thread(target=keep_asking, args=one, daemon=True) for one in enumerate(asks)]
    for thread in threads:
        thread.start()
    together.wait()
    started = time.perf_counter()
    over.wait(seconds)
    over.set()
    answered = sum(counts)
    took = time.perf_counter() - started
    for thread in threads:
        thread.join()
    if errors:
        raise RuntimeError(f"a request failed under load: {' '.join(str(errors[0]).split())[:300]}")
    return answered / took


class Crowd:
    """The connections to one server, each with its request."""

    def __init__(self, name: str, connect: Callable[[], Ask], clients: int) -> None:
        self.name = name
        self._asks = [connect() for _ in range(clients)]
        self.rates: list[float] = []

    def measure(self, seconds: float) -> None:
        self.rates.append(load(self._asks, seconds))


def measure(effort: Effort, *, peers: Sequence[Peer] = PEERS, tokens: int = TOKENS) -> list[Table]:
    """Start all servers, and measure them in turns."""
    quick = effort is QUICK
    model = distilbert(layers=1, heads=1) if quick else distilbert()
    seconds, rounds = (0.1, 1) if quick else (2.0, 5)
    values = np.random.default_rng(7).integers(0, 1000, (1, tokens))
    notes: list[str] = []
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "encoder.onnx"
        path.write_bytes(model)
        ours = stack.enter_context(enclave())
        with blindai.Connection(str(ours.said["address"]), simulation=True, progress=False) as connection:
            connection.upload_model(path, model_id=MODEL)
        alone = _alone(effort, ours, model, values)
        crowds = [Crowd(OURS, lambda: _attested(ours, values), CLIENTS)]
        single = Crowd(f"{OURS}, one client", lambda: _attested(ours, values), 1)
        bare = session(model)
        one = Crowd("bare engine, one by one", lambda: lambda: bare.run(None, {"input_ids": values}), CORES)
        rows = np.repeat(values, BATCH, axis=0)
        bound = Crowd("bare engine, sixteen as one", lambda: lambda: bare.run(None, {"input_ids": rows}), CORES)
        crowds += [single, one, bound]
        for peer in peers:
            crowds += _crowds(stack, peer, path, values, notes)
        for _ in range(rounds):
            for crowd in list(crowds):
                try:
                    crowd.measure(seconds)
                except RuntimeError as error:
                    if crowd.name.startswith(OURS):
                        raise
                    notes.append(f"{crowd.name}: {error}")
                    crowds.remove(crowd)
    bound.rates = [rate * BATCH for rate in bound.rates]
    return [alone, _table(crowds, notes)]


def _attested(server: Server, values: np.ndarray) -> Ask:
    client = RawClient(server.port)
    client.open_gate()
    buffers, length = v2.encode_request([v2.Tensor.from_array("input_ids", values)])
    form = Form("", f"/v2/models/{MODEL}/infer", lambda *_: (b"".join(buffers), length))
    request = form.request("input_ids", values)
    return lambda: client.exchange(request)


def _crowds(stack: ExitStack, peer: Peer, path: Path, values: np.ndarray, notes: list[str]) -> Iterator[Crowd]:
    reason = peer.install()
    if reason:
        notes.append(f"{peer.name} could not be installed here: {reason}")
        return
    for batched in (False, True):
        form = peer.form(long=True, batched=batched)
        if form is None:
            continue
        try:
            server = stack.enter_context(peer.serve(path, values, long=True, batch=form.batch))
            request = form.request("input_ids", values)
            yield Crowd(f"{peer.name}, {form.label}, no TLS", lambda: _plain(server, request), CLIENTS)  # noqa: B023 - called before the next turn
        except (RuntimeError, OSError) as error:
            notes.append(f"{peer.name} could not be run here: {error}")
            return


def _plain(server: Server, request: bytes) -> Ask:
    client = RawClient(server.port, tls=False)
    client.exchange(request)
    return lambda: client.exchange(request)


def _alone(effort: Effort, server: Server, model: bytes, values: np.ndarray) -> Table:
    """One client: what is added to a run that takes long."""
    bare = session(model)
    run = interleave(
        [Repeated("bare", lambda: bare.run(None, {"input_ids": values})), Repeated("ours", _attested(server, values))],
        effort,
    )
    share = ratio(run.p50["ours"], run.p50["bare"])
    return Table(
        title="One client on an encoder: end to end against a bare run",
        method=f"The encoder of the next table, {TOKENS} tokens a request, one connection, one request at a time.",
        columns=["", "p50, ms"],
        rows=[
            ["bare run", Spread.of(value / 1e3 for value in run.p50["bare"]).text(2)],
            [OURS, Spread.of(value / 1e3 for value in run.p50["ours"]).text(2)],
            ["ratio", share.text(3)],
        ],
        goals=[Goal(3, "DistilBERT, one client, end to end against a bare run", "two cores", 1.02, share)],
        raw=run.p50,
    )


def _table(crowds: Sequence[Crowd], notes: list[str]) -> Table:
    rates = {crowd.name: crowd.rates for crowd in crowds if crowd.rates}
    ours, single = rates[OURS], rates[f"{OURS}, one client"]
    bound = rates["bare engine, sixteen as one"]
    unbatched = {name: Spread.of(all_) for name, all_ in rates.items() if "no TLS" in name and "batched" not in name}
    best = max(unbatched, key=lambda name: unbatched[name].median, default=None)
    return Table(
        title=RATES,
        method=METHOD,
        columns=["", "answers a second", "of ours"],
        rows=[[name, Spread.of(all_).text(), ratio(all_, ours).text(2)] for name, all_ in rates.items()],
        goals=[
            Goal(3, f"{CLIENTS} clients against one client", "two cores", 4.5, ratio(ours, single), least=True),
            Goal(
                3,
                f"{CLIENTS} clients against the best unbatched server",
                "two cores",
                2.4,
                ratio(ours, rates[best]) if best else None,
                least=True,
            ),
            Goal(3, f"{CLIENTS} clients against the bare engine", "two cores", 0.85, ratio(ours, bound), least=True),
        ],
        notes=[*dict.fromkeys(notes)],
        raw=rates,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    for table in measure(QUICK if options.quick else FULL, peers=() if options.no_peers else PEERS):
        print(table.markdown())
