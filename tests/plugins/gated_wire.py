"""A connection to an attested enclave on which exactly what is given is sent, once its gate is open.

It believes any certificate and looks at no evidence: for clients who mean harm, and for those who try everything.
"""

from __future__ import annotations

import json
import secrets
import ssl

from blindai.channel.gate import GATE_PATH
from enclave_server import Wire


class TLSWire(Wire):
    """A TLS connection whose peer nobody has attested."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._file.close()
        self.socket = context.wrap_socket(self.socket)
        self._file = self.socket.makefile("rb")


class GatedWire(TLSWire):
    """As `TLSWire`, with its gate open.

    Args:
        address: the enclave's, `https://127.0.0.1:PORT`.
    """

    def __init__(self, address: str) -> None:
        super().__init__(int(address.rpartition(":")[2]))
        opening = json.dumps({"v": 1, "mode": "fresh", "nonce": secrets.token_hex(32)}).encode()
        answer = self.request("POST", GATE_PATH, opening, "Content-Type: application/json")
        assert answer.status == 200, answer.body
