"""The leanest HTTP client there can be in Python: one blocking socket, no parser, no checks. Good for timing only."""

from __future__ import annotations

import json
import secrets
import socket
import ssl

from blindai.channel.gate import GATE_PATH

# Servers send small answers here; a record of TLS brings at most 16 KiB at once.
_READ_BYTES = 1 << 16


def unverified_context() -> ssl.SSLContext:
    """TLS 1.3 that believes any certificate, as the attested client does before the gate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class RawClient:
    """One connection."""

    def __init__(self, port: int, *, tls: bool = True) -> None:
        self._port = port
        self._tls = tls
        self._gated = False
        self._socket = self._connected()

    def open_gate(self) -> None:
        """Have the enclave attest itself, and do not look at what it says: only its answers are timed later."""
        body = json.dumps({"v": 1, "mode": "fresh", "nonce": secrets.token_hex(32)}).encode()
        head = f"POST {GATE_PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self.exchange(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self._gated = True

    def exchange(self, request: bytes) -> bytes:
        """Send a request as it is; the body of the answer.

        Raises:
            RuntimeError: the answer is not 200.
        """
        try:
            self._socket.sendall(request)
            data = self._socket.recv(_READ_BYTES)
        except ConnectionError:
            data = b""
        if not data and not self._gated:
            # Some servers close what idles for five seconds, and here each idles while others are measured.
            self._socket.close()
            self._socket = self._connected()
            self._socket.sendall(request)
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        if not data.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"refused: {data[:1000].decode('latin-1')}")
        at = data.lower().find(b"content-length:", 0, end) + 15
        length = end + 4 + int(data[at : data.find(b"\r", at)])
        while len(data) < length:
            data += self._more()
        return data[end + 4 :]

    def send(self, data: bytes) -> None:
        """Send bytes as they are, and wait for no answer."""
        self._socket.sendall(data)

    def _connected(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(None)  # with a timeout, Python asks poll() before each read
        return unverified_context().wrap_socket(connection) if self._tls else connection

    def _more(self) -> bytes:
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise RuntimeError("the server closed the connection")
        return data

    def close(self) -> None:
        self._socket.close()
