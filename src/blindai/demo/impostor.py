"""Attackers of attested TLS, as real servers on real sockets. Each counts what its victim let it have.

An impostor ends TLS with a key of its choice and answers the gate as it likes. If the victim accepts the
answer, whatever it sends next lands in `application_bytes`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from blindai.channel.gate import GATE_PATH
from blindai.channel.keyset import PrivateKeyset
from blindai.channel.tls import TLSFailure, TLSPipe, client_context, server_context

# Given the body of the victim's gate request, the body of the answer.
Answer = Callable[[bytes], bytes]

_HEAD_END = b"\r\n\r\n"
_READ_BYTES = 1 << 16
_PATIENCE_SECONDS = 10.0


class Impostor:
    """A TLS server on loopback that answers the gate through `answer`. A context manager."""

    def __init__(self, answer: Answer, identity: PrivateKeyset) -> None:
        """`identity` holds the TLS key that is shown: the attacker's own, or a stolen one."""
        self._answer = answer
        self._context = server_context(identity.tls_key, identity.certificate())
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = ThreadPoolExecutor(thread_name_prefix="impostor")
        self._lock = threading.Lock()
        self.gate_requests = 0
        self.application_bytes = 0

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._threads.submit(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and wait for the connections to end, so that the counts are final."""
        # close() alone does not wake a thread in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads.shutdown()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.submit(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(_PATIENCE_SECONDS)
        pipe = TLSPipe(self._context, server=True)
        with connection:
            try:
                request = self._gate_request(connection, pipe)
                pipe.write(http_answer(self._answer(request)))
                connection.sendall(pipe.outgoing())
                # Everything from here on is what the victim was tricked into sending.
                while plaintext := receive(connection, pipe):
                    with self._lock:
                        self.application_bytes += len(plaintext)
            except (OSError, TLSFailure):
                return

    def _gate_request(self, connection: socket.socket, pipe: TLSPipe) -> bytes:
        body = receive_message(connection, pipe)
        with self._lock:
            self.gate_requests += 1
        return body


class Accomplice:
    """The attacker's own connection to the genuine enclave, over which it fetches real answers of the gate."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    def ask(self, gate_request: bytes) -> bytes:
        """Send a gate request to the enclave; the body of its answer."""
        with socket.create_connection((self._host, self._port), timeout=_PATIENCE_SECONDS) as connection:
            pipe = TLSPipe(client_context(), server=False)
            while not pipe.handshake():
                connection.sendall(pipe.outgoing())
                pipe.feed(connection.recv(_READ_BYTES))
            head = f"POST {GATE_PATH} HTTP/1.1\r\nHost: enclave\r\nContent-Length: {len(gate_request)}\r\n\r\n"
            pipe.write(head.encode() + gate_request)
            connection.sendall(pipe.outgoing())
            return receive_message(connection, pipe)


def receive(connection: socket.socket, pipe: TLSPipe) -> bytes:
    """The next plaintext; b"" at the end of the connection.

    Raises:
        OSError, TLSFailure: the connection broke.
    """
    while True:
        if pipe.established or pipe.handshake():
            plaintext = pipe.read()
            if plaintext is not None:
                return plaintext
        if outgoing := pipe.outgoing():
            connection.sendall(outgoing)
        data = connection.recv(_READ_BYTES)
        if not data:
            return b""
        pipe.feed(data)


def receive_message(connection: socket.socket, pipe: TLSPipe) -> bytes:
    """The body of the next HTTP message.

    Raises:
        OSError, TLSFailure: the connection ended first.
    """
    received = b""
    while True:
        plaintext = receive(connection, pipe)
        if not plaintext:
            raise ConnectionResetError("the connection ended in the middle of a message")
        received += plaintext
        head, end, body = received.partition(_HEAD_END)
        if end and len(body) >= content_length(head):
            return body


def content_length(head: bytes) -> int:
    """The announced length of the body; 0 where none is."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


def http_answer(body: bytes) -> bytes:
    """A complete answer with a JSON body."""
    return f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
