"""A fake of Azure's instance metadata service: HTTP on loopback, with the requests and answers of the real one.

Follows Microsoft's descriptions: a request without `Metadata: true` gets 400; `GET /metadata/THIM/amd/certification`
gives the processor's certificates as JSON; `POST /acc/tdquote` turns a TD report into a quote, both base64url.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from blindai.attestation.evidence import AmdEndorsements
from blindai.attestation.simulated.azure import SimulatedAzure


class FakeMetadata(ThreadingHTTPServer):
    """Answers for one simulated virtual machine. `fault` changes every answer; `asked` counts them."""

    def __init__(self, machine: SimulatedAzure) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.machine = machine
        self.fault = ""
        self.asked = 0

    @property
    def port(self) -> int:
        return self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    server: FakeMetadata

    def do_GET(self) -> None:
        self._answer("/metadata/THIM/amd/certification", lambda body: _certification(self.server.machine))

    def do_POST(self) -> None:
        self._answer("/acc/tdquote", lambda body: _td_quote(self.server.machine, body))

    def _answer(self, path: str, make: object) -> None:
        self.server.asked += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Metadata") != "true" or self.path != path:
            self._send(400, b'{"error":"Bad request"}')
        elif self.server.fault == "status":
            self._send(503, b"")
        elif self.server.fault == "words":
            self._send(200, b"<html>")
        elif self.server.fault == "empty":
            self._send(200, b'{"vcekCert":"","certificateChain":"","quote":"="}')
        elif self.server.fault == "large":
            self._send(200, bytes(1 << 18))
        else:
            assert callable(make)
            self._send(200, json.dumps(make(body)).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def _certification(machine: SimulatedAzure) -> dict[str, str]:
    found: AmdEndorsements = machine.amd_endorsements()
    chain = _pem(found.authority) + _pem(found.root)
    return {"vcekCert": _pem(found.certificate), "tcbm": "DB18000000000004", "certificateChain": chain}


def _td_quote(machine: SimulatedAzure, body: bytes) -> dict[str, str]:
    report = base64.urlsafe_b64decode(json.loads(body)["report"])
    return {"quote": base64.urlsafe_b64encode(machine.td_quote(report)).rstrip(b"=").decode()}


def _pem(der: bytes) -> str:
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n"


@contextmanager
def fake_metadata(machine: SimulatedAzure) -> Iterator[FakeMetadata]:
    with FakeMetadata(machine) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)
