"""What a connection costs: goal 6."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from functools import partial

from machine import Placement
from processes import Server, enclave, placed, script
from rawclient import RawClient
from report import Goal, Table
from timing import FULL, QUICK, Effort, Repeated, interleave, ratio
from verifying import forget_everything

from blindai.attestation.measure.local import local_policy
from blindai.channel.client import AttestedChannel
from blindai.channel.flow import READ, BlockingStream, Flow
from blindai.channel.http1 import request_head
from blindai.channel.relying_party import RelyingParty
from blindai.channel.tls import TLSPipe, client_context

BARE = "handshake alone"
PLAIN = "handshake and one exchange"
PYTHON = "handshake and one exchange, Python's `ssl`"
RESUMED = "resumed gate"
FRESH = "fresh gate"
FIRST = "fresh gate, an enclave never met before"

METHOD = (
    "From before `connect()` until the client may send its first request; a new TCP connection each time."
    " All handshakes are TLS 1.3 with P-256 certificates, without resumption, by the same"
    " library (pyOpenSSL over memory buffers), the same settings and the same socket code, unless the row says"
    " otherwise. *Handshake alone* ends when the client's last flight is sent: what the server still has to do with it"
    " is not in it. *And one exchange* adds a request of one line and an answer of two bytes, because the gate is an"
    " exchange too: this is what the gates are compared with. *Resumed* and *fresh* are whole gates, with a new nonce,"
    " exporter, statement and signature each time, and for *fresh* a new quote and every check of the policy; the"
    " client remembers the collateral and certificate chains it has verified before. In the last row it has never seen"
    " any of them."
)


def measure(effort: Effort, ours: Server, placement: Placement) -> Table:
    """Start the server to compare with, and measure."""
    with ExitStack() as stack:
        plain = stack.enter_context(script("handshake_server.py"))
        stack.enter_context(placed(placement, (ours, plain)))
        party = RelyingParty(f"127.0.0.1:{ours.port}", local_policy())
        context = client_context()
        get = request_head("GET", "/", "localhost", ())
        _attested(party, ours.port, resume=False)
        lanes = [
            Repeated(BARE, partial(_plain, context, plain.port, b"")),
            Repeated(PLAIN, partial(_plain, context, plain.port, get)),
            Repeated(PYTHON, partial(_python, plain.port, get)),
            Repeated(RESUMED, partial(_attested, party, ours.port, resume=True)),
            Repeated(FRESH, partial(_attested, party, ours.port, resume=False)),
            Repeated(FIRST, partial(_attested, party, ours.port, resume=False), between=forget_everything),
        ]
        run = interleave(lanes, effort)
    fresh, resumed, first = (ratio(run.p50[name], run.p50[PLAIN]) for name in (FRESH, RESUMED, FIRST))
    rows = [
        [
            lane.name,
            run.spread(lane.name).text(),
            ratio(run.p50[lane.name], run.p50[PLAIN]).text(2),
            ratio(run.p50[lane.name], run.p50[BARE]).text(2),
        ]
        for lane in lanes
    ]
    return Table(
        title=f"Connecting on {placement}",
        method=METHOD,
        columns=["", "p50, microseconds", f"against {PLAIN}", f"against {BARE}"],
        rows=rows,
        goals=[
            Goal(6, "fresh gate with full verification, against plain TLS 1.3", placement, 2.5, fresh),
            Goal(6, "the same, nothing remembered of that enclave", placement, 2.5, first),
            Goal(6, "resumed gate, against plain TLS 1.3", placement, 1.3, resumed),
        ],
        raw=run.p50,
    )


def _handshake(pipe: TLSPipe, request: bytes) -> Flow[None]:
    while not pipe.handshake():
        if outgoing := pipe.outgoing():
            yield outgoing
        pipe.feed((yield READ))
    if request:
        yield pipe.outgoing()
        pipe.write(request)
    yield pipe.outgoing()
    while request and not pipe.read():
        pipe.feed((yield READ))


def _plain(context: object, port: int, request: bytes) -> None:
    pipe = TLSPipe(context, server=False)  # type: ignore[arg-type] # pyOpenSSL's, kept out of the signatures here
    stream = BlockingStream("127.0.0.1", port, connect_seconds=10, seconds=10)
    stream.run(_handshake(pipe, request))
    stream.close()


def _python(port: int, request: bytes) -> None:
    client = RawClient(port)
    client.exchange(request)
    client.close()


def _attested(party: RelyingParty, port: int, *, resume: bool) -> None:
    channel = AttestedChannel(party)
    stream = BlockingStream("127.0.0.1", port, connect_seconds=10, seconds=10)
    stream.run(channel.open(resume=resume))
    stream.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with enclave() as server:
        for placement in Placement:
            print(measure(QUICK if options.quick else FULL, server, placement).markdown())
