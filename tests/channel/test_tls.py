"""Both ends of TLS in memory."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import ssl
from itertools import pairwise
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from blindai.channel import tls
from blindai.channel.keyset import PrivateKeyset
from blindai.channel.tls import TLSFailure, TLSPipe, client_context, server_context

NONCE = bytes(range(32))


@pytest.fixture(scope="module")
def keyset() -> PrivateKeyset:
    return PrivateKeyset(dt.datetime.now(dt.UTC))


@pytest.fixture(scope="module")
def context(keyset: PrivateKeyset) -> SSL.Context:
    return server_context(keyset.tls_key, keyset.certificate())


def shake(client: TLSPipe, server: TLSPipe) -> None:
    while not (client.established and server.established):
        client.established or client.handshake()
        server.feed(client.outgoing())
        server.established or server.handshake()
        client.feed(server.outgoing())


def pair(context: SSL.Context) -> tuple[TLSPipe, TLSPipe]:
    client, server = TLSPipe(client_context(), server=False), TLSPipe(context, server=True)
    shake(client, server)
    return client, server


def move(source: TLSPipe, target: TLSPipe) -> bytes:
    target.feed(source.outgoing())
    received = b""
    while plaintext := target.read():
        received += plaintext
    return received


def taken(server: TLSPipe) -> bytes:
    """All plaintext that waits, record by record."""
    received = b""
    while plaintext := server.read():
        received += plaintext
    return received


def test_version_and_group(context: SSL.Context) -> None:
    client, server = pair(context)
    assert client.version == server.version == "TLSv1.3"
    assert client.group == server.group == "X25519MLKEM768"


def test_both_ends_export_the_same_for_the_same_nonce_only(context: SSL.Context) -> None:
    client, server = pair(context)
    assert client.exported(NONCE) == server.exported(NONCE)
    assert len(bytes.fromhex(client.exported(NONCE))) == 32
    assert client.exported(NONCE) != server.exported(bytes(32))


def test_two_connections_export_different_bytes(context: SSL.Context) -> None:
    assert pair(context)[0].exported(NONCE) != pair(context)[0].exported(NONCE)


def test_the_exporter_is_that_of_the_protocol(context: SSL.Context) -> None:
    """Label and length as in the description of the protocol, asked of OpenSSL directly."""
    client, server = pair(context)
    by_hand = server._connection.export_keying_material(b"EXPORTER-BlindAI-v1", 32, NONCE)
    assert client.exported(NONCE) == by_hand.hex()


def test_the_peers_key(context: SSL.Context, keyset: PrivateKeyset) -> None:
    client, server = pair(context)
    assert client.peer_spki_sha256() == keyset.public.tls_spki_sha256
    assert server.peer_spki_sha256() is None  # a client shows none


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 1_000_000])
def test_data_in_both_directions(context: SSL.Context, size: int) -> None:
    client, server = pair(context)
    data = os.urandom(size)
    for kind in (bytes, bytearray, memoryview):
        client.write(kind(data))
        assert move(client, server) == data
        server.write(kind(data))
        assert move(server, client) == data


def test_a_record_at_a_time(context: SSL.Context) -> None:
    client, server = pair(context)
    client.write(bytes(40_000))
    server.feed(client.outgoing())
    assert [len(server.read() or b"") for _ in range(3)] == [16_384, 16_384, 7_232]
    assert server.read() is None


def test_byte_by_byte(context: SSL.Context) -> None:
    client, server = TLSPipe(client_context(), server=False), TLSPipe(context, server=True)
    for _ in range(4):
        for source, target in ((client, server), (server, client)):
            source.established or source.handshake()
            for byte in source.outgoing():
                target.feed(bytes([byte]))
                target.established or target.handshake()
    client.write(b"hello")
    record = client.outgoing()
    for byte in record[:-1]:
        server.feed(bytes([byte]))
        assert server.read() is None
    server.feed(record[-1:])
    assert server.read() == b"hello"


def test_close_notify(context: SSL.Context) -> None:
    client, server = pair(context)
    client.close()
    server.feed(client.outgoing())
    assert server.read() == b""
    client.close()  # twice is harmless
    with pytest.raises(TLSFailure) as caught:
        client.write(b"after the end")
    assert "shutdown" in caught.value.reason


def test_closing_what_was_never_open() -> None:
    TLSPipe(client_context(), server=False).close()


def test_changed_record(context: SSL.Context) -> None:
    client, server = pair(context)
    client.write(b"hello")
    record = bytearray(client.outgoing())
    record[-1] ^= 1
    server.feed(bytes(record))
    with pytest.raises(TLSFailure) as caught:
        server.read()
    assert caught.value.reason == "record layer failure"
    # The peer is told (alert bad_record_mac), and then fails too.
    client.feed(server.outgoing())
    with pytest.raises(TLSFailure):
        client.read()


def test_replayed_record(context: SSL.Context) -> None:
    client, server = pair(context)
    client.write(b"hello")
    record = client.outgoing()
    server.feed(record + record)
    assert server.read() == b"hello"
    with pytest.raises(TLSFailure):
        server.read()


@pytest.mark.parametrize("version", [SSL.TLS1_VERSION, SSL.TLS1_1_VERSION, SSL.TLS1_2_VERSION])
def test_older_versions_are_refused_by_both_ends(context: SSL.Context, keyset: PrivateKeyset, version: int) -> None:
    old_client = SSL.Context(SSL.TLS_METHOD)
    old_server = SSL.Context(SSL.TLS_METHOD)
    for old in (old_client, old_server):
        old.set_min_proto_version(version)
        old.set_max_proto_version(version)
        old.set_cipher_list(b"ALL:@SECLEVEL=0")
    old_server.use_certificate(keyset.certificate())
    old_server.use_privatekey(keyset.tls_key)
    for client, server in (
        (TLSPipe(old_client, server=False), TLSPipe(context, server=True)),
        (TLSPipe(client_context(), server=False), TLSPipe(old_server, server=True)),
    ):
        with pytest.raises(TLSFailure) as caught:
            shake(client, server)
        assert "protocol" in caught.value.reason


def test_a_certificate_of_another_kind_of_key() -> None:
    key = rsa.generate_private_key(65537, 2048)
    client, _ = pair(server_context(key, certificate_of(key)))  # type: ignore[arg-type] # an impostor's
    assert client.peer_spki_sha256() is None


def test_a_certificate_that_cannot_be_read(context: SSL.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = pair(context)

    class Unreadable:
        def public_key(self) -> Any:
            raise ValueError("an unknown curve")

    monkeypatch.setattr(client._connection, "get_peer_certificate", lambda **_: Unreadable(), raising=False)
    assert client.peer_spki_sha256() is None


def test_no_session_is_offered_or_kept(context: SSL.Context) -> None:
    contexts = [client_context(), client_context()]
    for one in contexts:
        assert one.get_session_cache_mode() == SSL.SESS_CACHE_OFF
    assert context.get_session_cache_mode() == SSL.SESS_CACHE_OFF


def test_a_failed_handshake_leaves_an_alert(context: SSL.Context) -> None:
    server = TLSPipe(context, server=True)
    server.feed(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")
    with pytest.raises(TLSFailure):
        server.handshake()
    assert server.outgoing()[:1] == b"\x15"  # an alert record (RFC 8446, section 5.1)
    assert not server.established


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=200), server=st.booleans())
def test_any_bytes_instead_of_a_handshake(context: SSL.Context, data: bytes, server: bool) -> None:
    pipe = TLSPipe(context if server else client_context(), server=server)
    if not server:
        pipe.handshake()
    pipe.feed(data)
    with contextlib.suppress(TLSFailure):
        assert not pipe.handshake()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(data=st.binary(min_size=1, max_size=100))
def test_any_bytes_instead_of_a_record(context: SSL.Context, data: bytes) -> None:
    _, server = pair(context)
    server.feed(data)
    with contextlib.suppress(TLSFailure):
        assert server.read() is None


def test_reasons_of_errors_without_a_reason() -> None:
    assert tls._reason(SSL.SysCallError(-1, "Unexpected EOF")) == "connection closed by the peer"
    assert tls._reason(SSL.Error()) == "unknown TLS error"
    assert tls._reason(SSL.Error([])) == "unknown TLS error"


def test_the_standard_librarys_client_gets_in(context: SSL.Context) -> None:
    """TLS as anybody else understands it, with the certificate unverified."""
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    other.check_hostname, other.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = other.wrap_bio(incoming, outgoing)
    server = TLSPipe(context, server=True)
    for _ in range(3):
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        server.feed(outgoing.read())
        server.established or server.handshake()
        incoming.write(server.outgoing())
    client.write(b"hello")
    server.feed(outgoing.read())
    assert server.read() == b"hello"
    assert client.version() == "TLSv1.3"


def certificate_of(key: Any) -> x509.Certificate:
    name = x509.Name([])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )


def test_a_key_that_does_not_fit_the_certificate(keyset: PrivateKeyset) -> None:
    with pytest.raises(SSL.Error):
        server_context(ec.generate_private_key(ec.SECP256R1()), keyset.certificate())


@given(lengths=st.lists(st.integers(0, 3) | st.integers(16_380, 16_390) | st.integers(0, 200_000), max_size=6))
@settings(deadline=None)
def test_portions_are_the_same_bytes_in_bounded_pieces(lengths: list[int]) -> None:
    data = os.urandom(sum(lengths))
    parts = [data[sum(lengths[:index]) : sum(lengths[: index + 1])] for index in range(len(lengths))]
    portions = list(tls.pieces(parts))
    assert b"".join(portions) == data
    assert all(len(portion) <= tls.PIECE_BYTES for portion in portions)


def test_a_small_request_is_one_record() -> None:
    assert list(tls.pieces([b"head", b"json", memoryview(b"tensor")])) == [b"headjsontensor"]


def test_many_medium_parts_go_out_as_they_come(context: SSL.Context) -> None:
    client, server = TLSPipe(client_context(), server=False), TLSPipe(context, server=True)
    shake(client, server)
    for piece in tls.pieces([bytes(40_000)] * 5):
        client.write(piece)
    assert len(client.outgoing()) > 200_000


# Counting records.


@given(
    st.lists(st.integers(0, 40_000), min_size=1, max_size=4), st.lists(st.integers(0, 130_000), max_size=12), st.data()
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_records_cut_anywhere_are_read_as_soon_as_they_are_whole(
    context: SSL.Context, sizes: list[int], cuts: list[int], data: st.DataObject
) -> None:
    client, server = pair(context)
    sent = [os.urandom(size) for size in sizes]
    for part in sent:
        client.write(part)
    wire = client.outgoing()
    edges = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    received = b""
    for start, end in pairwise(edges):
        server.feed(wire[start:end])
        if data.draw(st.booleans()):
            space = memoryview(bytearray(data.draw(st.integers(1, 50_000))))
            while (size := server.read_into(space)) is not None:
                received += space[:size]
        received += taken(server)
        # OpenSSL, asked without counting, has nothing more either.
        with pytest.raises(SSL.WantReadError):
            server._connection.recv(1)
    assert received == b"".join(sent)


def test_what_cannot_be_a_record_is_refused_before_it_is_whole(context: SSL.Context) -> None:
    for odd in (b"GET / HTTP/1.1", b"\x17\x03\x03\xff\xff", b"\x17\x07\x03\x00\x20"):
        _, server = pair(context)
        server.feed(odd)
        with pytest.raises(TLSFailure):
            server.read()


def test_space_is_filled_record_by_record(context: SSL.Context) -> None:
    client, server = pair(context)
    client.write(b"a" * 20_000)
    client.write(b"b" * 10)
    server.feed(client.outgoing())
    space = memoryview(bytearray(20_005))
    assert server.read_into(space) == 20_005
    assert bytes(space) == b"a" * 20_000 + b"b" * 5
    assert server.read() == b"b" * 5
    assert server.read_into(space) is None


def test_the_end_comes_after_what_was_sent_before_it(context: SSL.Context) -> None:
    client, server = pair(context)
    client.write(b"abc")
    client.close()
    server.feed(client.outgoing())
    space = memoryview(bytearray(10))
    assert server.read_into(space) == 3
    assert server.read_into(space) == 0
    assert server.read() == b""


def test_a_key_update_is_answered(keyset: PrivateKeyset) -> None:
    """TLS has something of its own to say, and `owes` tells (RFC 8446, section 4.6.3)."""
    secrets: dict[str, bytes] = {}
    context = server_context(keyset.tls_key, keyset.certificate())
    context.set_keylog_callback(lambda _, line: _keep(secrets, line))
    _, server = pair(context)
    owed = [server.owes]
    server.feed(_key_update(secrets["CLIENT_TRAFFIC_SECRET_0"]))
    assert server.read() is None
    owed.append(server.owes)
    assert owed == [False, True]
    # OpenSSL puts the answer before the next plaintext.
    server.write(b"abc")
    first, second = (5 + 5 + 1 + 16, 5 + 3 + 1 + 16)
    assert len(server.outgoing()) == first + second


def _keep(secrets: dict[str, bytes], line: bytes) -> None:
    name, _, secret = line.decode().split()
    secrets[name] = bytes.fromhex(secret)


def _key_update(secret: bytes) -> bytes:
    """The first record of a client, in TLS_AES_256_GCM_SHA384: it changes its key and wants the server to do so too."""
    key, nonce = (
        HKDFExpand(hashes.SHA384(), size, bytes([0, size, len(label)]) + label + b"\0").derive(secret)
        for label, size in ((b"tls13 key", 32), (b"tls13 iv", 12))
    )
    inner = b"\x18\0\0\x01\x01" + b"\x16"
    header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
    return header + AESGCM(key).encrypt(nonce, inner, header)
