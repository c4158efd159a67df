"""What serving adds to a bare run of the model, by size of input: goals 1 and 2."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from machine import Placement
from peer import PEERS, V2_BINARY, Peer, grpc_lane
from processes import Server, enclave, placed, script
from rawclient import RawClient
from report import Goal, Table
from timing import FULL, QUICK, Effort, Lane, Repeated, Run, Spread, interleave, ratio
from workload import MODEL, SIZES, Size, http_request, session, tiny_model

BARE = "bare"
OURS = "BlindAI, attested TLS"
UVICORN_TLS = "uvicorn, TLS"
UVICORN = "uvicorn, no TLS"

METHOD = (
    "One client, one connection, one request at a time. The model looks at sixteen"
    " floats whatever it is sent, so its run costs the same at every size. Shown is what the p50 of a request has over"
    " the p50 of `InferenceSession.run` in the client's process, in microseconds. The HTTP client is a socket of"
    " Python's `ssl` (or a plain one) that writes a prepared request and does not parse the answer; to the enclave it"
    " opens the gate first. The gRPC client sends a request that was encoded beforehand. Peers run without TLS, without"
    " access logs and metrics, with the model on their event loop. Only KServe and"
    " Triton take binary tensors over HTTP, MLServer by gRPC."
)

# JSON of this many numbers takes a second or so for each request.
_LARGEST_JSON = 150_000


def measure(effort: Effort, ours: Server, placement: Placement, *, peers: Sequence[Peer] = PEERS) -> Table:
    """Install the peers, start what `ours` is compared with, and measure."""
    notes = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / "tiny.onnx"
        path.write_bytes(tiny_model())
        plain = {
            UVICORN_TLS: stack.enter_context(script("plain_server.py")),
            UVICORN: stack.enter_context(script("plain_server.py", "--no-tls")),
        }
        running: list[tuple[Peer, Server]] = []
        for peer in peers:
            reason = peer.install()
            if reason:
                notes.append(f"{peer.name} could not be installed here: {reason}")
                continue
            try:
                running.append((peer, stack.enter_context(peer.serve(path, SIZES[0].values()))))
            except RuntimeError as error:
                notes.append(f"{peer.name} could not be run here: {error}")
        servers = Servers(folder, ours, plain, running)
        stack.enter_context(placed(placement, servers))
        runs = {size: _run(size, effort, servers) for size in SIZES}
    return _table(runs, notes, placement)


@dataclass(frozen=True)
class Servers:
    """All that run, and the folder for files that they share."""

    folder: Path
    ours: Server
    plain: dict[str, Server]
    peers: list[tuple[Peer, Server]]

    def __iter__(self) -> Iterator[Server]:
        yield from (self.ours, *self.plain.values(), *(server for _, server in self.peers))


def _run(size: Size, effort: Effort, servers: Servers) -> Run:
    with ExitStack() as stack:
        values = size.values()
        lanes: list[Lane] = [Repeated(BARE, partial(session(tiny_model()).run, None, {"x": values}))]
        attested = RawClient(servers.ours.port)
        stack.callback(attested.close)
        attested.open_gate()
        lanes.append(Repeated(OURS, partial(attested.exchange, http_request(size, f"/v2/models/{MODEL}/infer"))))
        for name, server in servers.plain.items():
            client = RawClient(server.port, tls=name == UVICORN_TLS)
            stack.callback(client.close)
            lanes.append(Repeated(name, partial(client.exchange, http_request(size, "/v2/models/tiny/infer"))))
        tensor = servers.folder / "tensor.bin"
        tensor.write_bytes(values.tobytes())
        for peer, server in servers.peers:
            form = peer.form(long=False)
            if form is not None and (form.body is V2_BINARY or size.elements <= _LARGEST_JSON):
                client = RawClient(server.port, tls=False)
                stack.callback(client.close)
                request = form.request("x", values)
                if not _answers(client, request):
                    continue
                lanes.append(Repeated(f"{peer.name}, {form.label}, no TLS", partial(client.exchange, request)))
            if peer.stubs:
                lanes.append(grpc_lane(stack, f"{peer.name}, gRPC, no TLS", peer, server, tensor))
        return interleave(lanes, effort)


def _answers(client: RawClient, request: bytes) -> bool:
    try:
        client.exchange(request)
    except RuntimeError:
        return False
    return True


def _table(runs: dict[Size, Run], notes: list[str], placement: Placement) -> Table:
    small, middle, _ = SIZES
    names = list(dict.fromkeys(name for run in runs.values() for name in run.p50))
    rows = [["bare run (p50)", *(runs[size].spread(BARE).text(1) for size in SIZES)]]
    for name in names:
        if name != BARE:
            cells = [Spread.of(run.added(name, BARE)).text() if name in run.p50 else "-" for run in runs.values()]
            rows.append([name, *cells])
    against = [
        _against(runs, UVICORN_TLS, "over uvicorn with TLS"),
        _against(runs, UVICORN, "over uvicorn without TLS"),
    ]
    return Table(
        title=f"Serving on {placement}: microseconds added to a bare run",
        method=METHOD,
        columns=["", *(size.label for size in SIZES)],
        rows=rows + against,
        goals=[
            Goal(1, "4 KB, added p50", placement, 75, Spread.of(runs[small].added(OURS, BARE)), "us"),
            Goal(1, "4 KB, added p50 against the best peer without TLS", placement, 0.25, _best(runs[small])),
            Goal(2, "600 KB, added p50 against the best peer without TLS", placement, 0.6, _best(runs[middle])),
        ],
        notes=notes,
        raw={size.label: run.p50 for size, run in runs.items()},
    )


def _against(runs: dict[Size, Run], other: str, label: str) -> list[str]:
    cells = [ratio(run.added(OURS, BARE), run.added(other, BARE)).text(2) for run in runs.values()]
    return [f"BlindAI {label} (ratio)", *cells]


def _best(run: Run) -> Spread | None:
    """The ratio to the peer that adds least."""
    peers = [name for name in run.p50 if name.startswith(tuple(peer.name for peer in PEERS))]
    if not peers:
        return None
    best = min(peers, key=lambda name: Spread.of(run.added(name, BARE)).median)
    return ratio(run.added(OURS, BARE), run.added(best, BARE))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    with enclave() as server:
        for placement in Placement:
            table = measure(
                QUICK if options.quick else FULL, server, placement, peers=() if options.no_peers else PEERS
            )
            print(table.markdown())
