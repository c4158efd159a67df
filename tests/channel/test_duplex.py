"""A connection taken over: bytes in both directions over real TLS, and every way in which it can end."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from blindai.channel.duplex import Duplex
from blindai.channel.keyset import PrivateKeyset
from blindai.channel.tls import TLSPipe, client_context, server_context
from blindai.errors import Unavailable


@pytest.fixture(scope="module")
def context() -> SSL.Context:
    keyset = PrivateKeyset(dt.datetime.now(dt.UTC))
    return server_context(keyset.tls_key, keyset.certificate())


def taken_over(context: SSL.Context) -> tuple[Duplex, TLSPipe]:
    """One end of an open connection, and the pipe of its peer."""
    client, server = TLSPipe(client_context(), server=False), TLSPipe(context, server=True)
    while not (client.established and server.established):
        client.established or client.handshake()
        server.feed(client.outgoing())
        server.established or server.handshake()
        client.feed(server.outgoing())
    return Duplex(client, "peer:1"), server


def read(pipe: TLSPipe) -> bytes:
    received = b""
    while plaintext := pipe.read():
        received += plaintext
    return received


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=50_000), step=st.integers(1, 5000))
def test_bytes_arrive_unchanged_however_the_wire_is_cut(context: SSL.Context, data: bytes, step: int) -> None:
    duplex, peer = taken_over(context)
    for wire in duplex.send(data):
        peer.feed(wire)
    assert read(peer) == data
    peer.write(data)
    wire = peer.outgoing()
    received = b""
    for place in range(0, len(wire), step):
        received += b"".join(duplex.receive(wire[place : place + step]))
    assert received == data
    assert not duplex.ended


def test_an_end_in_order_is_told_from_a_cut(context: SSL.Context) -> None:
    duplex, peer = taken_over(context)
    peer.write(b"last words")
    words = peer.outgoing()
    assert list(duplex.receive(words[:-1])) == []
    assert not duplex.ended  # whoever drives it hears of the end of the wire, and knows that this was a cut
    peer.close()
    assert list(duplex.receive(words[-1:] + peer.outgoing())) == [b"last words"]
    assert duplex.ended


def test_the_peer_is_told_in_order_too(context: SSL.Context) -> None:
    duplex, peer = taken_over(context)
    peer.feed(duplex.close())
    assert peer.read() == b""


def test_a_changed_record_is_refused(context: SSL.Context) -> None:
    duplex, peer = taken_over(context)
    peer.write(b"words")
    wire = bytearray(peer.outgoing())
    wire[-1] ^= 1
    with pytest.raises(Unavailable) as refused:
        list(duplex.receive(bytes(wire)))
    assert refused.value.code == "unavailable.protocol"
    assert not duplex.ended


def test_a_record_that_was_left_out_is_refused(context: SSL.Context) -> None:
    duplex, peer = taken_over(context)
    peer.write(b"one")
    peer.outgoing()
    peer.write(b"two")
    with pytest.raises(Unavailable) as refused:
        list(duplex.receive(peer.outgoing()))
    assert refused.value.code == "unavailable.protocol"
