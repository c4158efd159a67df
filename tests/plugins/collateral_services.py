"""A PCCS and a KDS on loopback that answer as the real ones do, and that can be made to fail in their ways.

They serve what simulated platforms would fetch. Nothing of the code under test is used to make an answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from blindai.attestation.evidence import IntelCollateral
from blindai.attestation.simulated.amd import SimulatedAmd
from blindai.attestation.simulated.intel import SimulatedIntel


class Reply(NamedTuple):
    """What goes over the wire. `cut` bytes at the end of the body never come; `hang` keeps the client waiting."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})
    cut: int = 0
    hang: bool = False


Answerer = Callable[[str, dict[str, str]], Reply]


class Service:
    """A running service.

    Attributes:
        url: its address.
        requests: the paths that were asked for, with their queries.
        faults: replies in place of the right ones: by path, for as long as they are here, or "" for every path.
    """

    def __init__(self, url: str, answer: Answerer) -> None:
        self.url = url
        self.requests: list[str] = []
        self.faults: dict[str, Reply] = {}
        self.go_on = threading.Event()
        self._answer = answer

    def reply(self, target: str) -> Reply:
        self.requests.append(target)
        parts = urlsplit(target)
        fault = self.faults.get(parts.path, self.faults.get(""))
        return self._answer(parts.path, dict(parse_qsl(parts.query))) if fault is None else fault


@contextmanager
def serving(answer: Answerer) -> Iterator[Service]:
    """Serve until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            reply = service.reply(self.path)
            if reply.hang:
                service.go_on.wait(60)
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(reply.body[: len(reply.body) - reply.cut])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service = Service(f"http://127.0.0.1:{server.server_port}", answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield service
    finally:
        service.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


def pccs(platform: SimulatedIntel) -> Answerer:
    """A PCCS that knows one simulated platform."""
    tree = "sgx" if platform.tee == "intel-sgx" else "tdx"
    return pccs_with(platform.collateral, tree=tree, fmspc="00906ed50000", ca="platform")


def pccs_with(collateral: Callable[[], IntelCollateral], *, tree: str, fmspc: str, ca: str) -> Answerer:
    """A PCCS that knows one platform; its root list is hex, as that of Intel's reference PCCS is."""

    def answer(path: str, query: dict[str, str]) -> Reply:
        held = collateral()
        version = "certification/v4"
        if path == f"/{tree}/{version}/tcb" and query.get("fmspc", "").lower() == fmspc:
            return signed("tcbInfo", held.tcb_info, held.tcb_info_signature, held.tcb_info_issuer_chain)
        if path == f"/{tree}/{version}/qe/identity":
            return signed(
                "enclaveIdentity", held.qe_identity, held.qe_identity_signature, held.qe_identity_issuer_chain
            )
        if path == f"/sgx/{version}/pckcrl" and query.get("ca") == ca:
            chain = {"SGX-PCK-CRL-Issuer-Chain": quote(held.pck_crl_issuer_chain)}
            der = bytes.fromhex(held.pck_crl)
            return Reply(body=der if query.get("encoding") == "der" else held.pck_crl.encode(), headers=chain)
        if path == f"/sgx/{version}/rootcacrl":
            return Reply(body=held.root_ca_crl.encode())
        return Reply(status=404)

    return answer


def signed(member: str, text: str, signature: str, chain: str) -> Reply:
    """An answer of Intel's PCS: the signed text in a frame, the issuer's chain in a header."""
    names = {"tcbInfo": "TCB-Info-Issuer-Chain", "enclaveIdentity": "SGX-Enclave-Identity-Issuer-Chain"}
    body = f'{{"{member}":{text},"signature":"{signature}"}}'.encode()
    return Reply(body=body, headers={names[member]: quote(chain), "Content-Type": "application/json"})


def kds(platform: SimulatedAmd) -> Answerer:
    """A KDS that knows one chip at one TCB."""

    def answer(path: str, query: dict[str, str]) -> Reply:
        endorsements = platform.endorsements()
        product = platform.product.name
        report = platform.report(bytes(64))
        hwid = report[0x1A0:0x1E0][: 8 if product == "Turin" else 64].hex()
        tcb = report[0x180:0x188]
        places = {"blSPL": 0, "teeSPL": 1, "snpSPL": 6, "ucodeSPL": 7}
        if product == "Turin":
            places = {"fmcSPL": 0, "blSPL": 1, "teeSPL": 2, "snpSPL": 3, "ucodeSPL": 7}
        own_path = f"/vcek/v1/{product}/{hwid}"
        if path == own_path and {name: int(value) for name, value in query.items()} == {
            name: tcb[at] for name, at in places.items()
        }:
            return Reply(body=endorsements.certificate)
        base = f"/{platform.signing_key}/v1/{product}"
        if path == f"{base}/cert_chain":
            chain = (endorsements.authority, endorsements.root)
            return Reply(
                body=b"".join(x509.load_der_x509_certificate(part).public_bytes(Encoding.PEM) for part in chain)
            )
        if path == f"{base}/crl" and endorsements.crl is not None:
            return Reply(body=endorsements.crl)
        return Reply(status=404)

    return answer
