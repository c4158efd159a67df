"""Connections: what is refused, with which code, and whether the connection lives on."""

from __future__ import annotations

import asyncio
import http.client
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from blindai.enclave.config import EnclaveConfig, Limits, Timeouts
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.enclave.limits import MAX_DRAINED_BYTES, MAX_PIPELINED_REQUESTS
from enclave_server import Response, RunningServer, Wire, binary_request

ONES = np.ones((1, 4), np.float32)
Start = Callable[..., RunningServer]


def alive(wire: Wire) -> bool:
    return wire.request("GET", "/v2").status == 200


def assert_refused(wire: Wire, status: int, code: str) -> None:
    """The refusal comes, says that the connection ends, and it does; the server takes new ones."""
    response = wire.response()
    response.assert_problem(status, code)
    assert response.headers["connection"] == "close"
    wire.socket.shutdown(socket.SHUT_WR)
    assert wire.closed()


def send_for_ever(wire: Wire, data: bytes) -> None:
    while True:
        wire.send(data)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """One for all tests that leave it as it was: the default configuration, and `model`."""
    running = RunningServer(EnclaveConfig(), OnnxRuntimeEngine(), simulated=False)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def model(server: RunningServer, adder: bytes) -> str:
    assert server.upload("acme/add", adder).status == 201
    return "acme/add"


@pytest.fixture
def own_server(start_server: Start) -> RunningServer:
    """For a test that changes or counts what is there."""
    return start_server()


@pytest.fixture
def own_model(own_server: RunningServer, adder: bytes) -> str:
    assert own_server.upload("acme/add", adder).status == 201
    return "acme/add"


def infer_head(model: str, *headers: str) -> bytes:
    lines = (f"POST /v2/models/{model}/infer HTTP/1.1", "Host: x", *headers, "", "")
    return "\r\n".join(lines).encode()


# Requests that two readers could understand differently.


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (["Content-Length: 2", "Content-Length: 2"], "http.content_length"),
        (["Content-Length: 2", "Content-Length: 3"], "http.content_length"),
        (["Content-Length: 2, 2"], "http.content_length"),
        (["Content-Length: -1"], "http.content_length"),
        (["Content-Length: +2"], "http.content_length"),
        (["Content-Length: 0x2"], "http.content_length"),
        (["Content-Length: 2 2"], "http.content_length"),
        (["Content-Length: 99999999999999999999999999"], "http.content_length"),
        (["Content-Length: 9999999999999999"], "http.content_length"),
        (["Content-Length:"], "http.content_length"),
        (["Content-Length: 2", "Transfer-Encoding: chunked"], None),
        (["Transfer-Encoding: chunked", "Content-Length: 2"], None),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], None),
        (["Transfer-Encoding: gzip, chunked"], "http.transfer_encoding"),
        (["Transfer-Encoding: chunked, identity"], "http.transfer_encoding"),
        (["Transfer-Encoding: xchunked"], "http.transfer_encoding"),
        (["Transfer-Encoding:"], "http.transfer_encoding"),
        (["Transfer-Encoding : chunked"], "http.request"),
        (["Transfer-Encoding:\x0bchunked"], None),
        ([" Content-Length: 2"], "http.request"),
        (["Content-Length: 2", " 3"], None),
        (["Host: y"], "http.request"),
        (["X\0Y: 1"], "http.request"),
        (["X: \0"], "http.request"),
        (["X: 1\rContent-Length: 2"], "http.request"),
        ([": 1"], "http.request"),
        (["no colon"], "http.request"),
    ],
)
@pytest.mark.parametrize("target", ["/v2/models/acme/add/infer", "/v2/repository/index"])
def test_ambiguous_framing_is_refused(
    server: RunningServer, model: str, target: str, headers: list[str], code: str | None
) -> None:
    with server.connect() as wire:
        wire.head("POST", target, *headers)
        response = wire.response()
        assert response.status == 400
        # The parser names some of these after the header it saw last; all are framing.
        assert response.json["code"] == code or (
            code is None and response.json["code"] in {"http.content_length", "http.transfer_encoding", "http.request"}
        )
        assert response.headers["connection"] == "close"
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.closed()
    assert server.request("GET", "/v2").status == 200


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        ("GET /v2", 400, "http.request"),
        ("GET /v2 HTTP/0.9", 400, "http.request"),
        ("GET /v2 HTTP/2.0", 400, "http.request"),
        ("GET /v2 HTTP/1.2", 400, "http.request"),
        ("GET /v2 HTTP/1.1 x", 400, "http.request"),
        ("BREW /v2 HTTP/1.1", 400, "http.request"),
        ("PRI * HTTP/2.0", 400, "http.request"),
        ("OPTIONS * HTTP/1.1", 400, "http.target"),
        ("GET http://elsewhere/v2 HTTP/1.1", 400, "http.target"),
        ("CONNECT elsewhere:443 HTTP/1.1", 400, None),
        ("GET v2 HTTP/1.1", 400, None),
        ("GET /" + "a" * 2000 + " HTTP/1.1", 414, "http.url_too_long"),
        ("\x16\x03\x01 TLS", 400, "http.request"),
    ],
)
def test_request_lines(server: RunningServer, line: str, status: int, code: str | None) -> None:
    with server.connect() as wire:
        wire.send(f"{line}\r\nHost: x\r\n\r\n".encode("latin-1"))
        response = wire.response()
        response.assert_problem(status, code or response.json["code"])
        assert response.json["code"].startswith("http.")
    assert server.request("GET", "/v2").status == 200


def test_host_is_required(server: RunningServer) -> None:
    with server.connect() as wire:
        wire.send(b"GET /v2 HTTP/1.1\r\n\r\n")
        assert_refused(wire, 400, "http.request")


@pytest.mark.parametrize(
    "body", [b"x\r\n", b"-1\r\nab", b"2\r\nabc", b"2\r\nab\r\n\r\n", b"ffffffffffffffffff\r\n", b"2;x\ny\r\n"]
)
@pytest.mark.parametrize("target", ["/v2/models/acme/add/infer", "/v2/repository/models/acme/new"])
def test_broken_chunks(server: RunningServer, model: str, target: str, body: bytes) -> None:
    with server.connect() as wire:
        wire.head("PUT" if "repository" in target else "POST", target, "Transfer-Encoding: chunked")
        wire.send(body)
        assert_refused(wire, 400, "http.request")
    assert server.index() == [("acme/add", "1", "READY")]


def test_trailers_are_refused(server: RunningServer, model: str) -> None:
    with server.connect() as wire:
        wire.head("POST", "/v2/models/acme/add/infer", "Transfer-Encoding: chunked")
        wire.send(b"0\r\nInference-Header-Content-Length: 5\r\n\r\n")
        assert_refused(wire, 400, "http.trailers")


def test_upgrades_are_refused(server: RunningServer) -> None:
    with server.connect() as wire:
        wire.head("GET", "/v2", "Connection: Upgrade", "Upgrade: websocket")
        assert_refused(wire, 400, "http.upgrade")


# Sizes.


def test_headers_have_a_limit_in_number(server: RunningServer) -> None:
    with server.connect() as wire:
        wire.head("GET", "/v2", *(f"X-{n}: 1" for n in range(server.config.limits.max_headers)))
        assert_refused(wire, 431, "http.headers_too_large")


@pytest.mark.parametrize("lines", [1, 20])
def test_headers_have_a_limit_in_bytes(server: RunningServer, lines: int) -> None:
    with server.connect() as wire:
        size = server.config.limits.max_header_bytes // lines
        wire.head("GET", "/v2", *(f"X-{n}: {'a' * size}" for n in range(lines)))
        assert_refused(wire, 431, "http.headers_too_large")


def test_a_header_without_end_is_refused(server: RunningServer) -> None:
    with server.connect() as wire:
        wire.send(b"GET /v2 HTTP/1.1\r\nHost: x\r\nX: ")
        for _ in range(1000):
            wire.send(b"a" * 1000)
            if wire.readable():
                break
        assert_refused(wire, 431, "http.headers_too_large")


@pytest.mark.parametrize("extra", [1, MAX_DRAINED_BYTES + 1])
def test_a_body_above_the_limit_is_refused_before_it_is_read(start_server: Start, adder: bytes, extra: int) -> None:
    server = start_server(EnclaveConfig(limits=Limits(max_body_bytes=1000)))
    server.upload("acme/add", adder)
    with server.connect() as wire:
        wire.send(infer_head("acme/add", f"Content-Length: {1000 + extra}"))
        response = wire.response()
        response.assert_problem(413, "quota.body")
        if extra == 1:
            # Little enough to read past: the connection lives on.
            assert "connection" not in response.headers
            wire.send(b"x" * 1001)
            assert wire.infer("acme/add", ONES).status == 200
        else:
            assert response.headers["connection"] == "close"
    assert server.call(lambda: server.application.bodies.used) == 0


def test_a_chunked_body_above_the_limit_is_refused_on_the_way(start_server: Start, adder: bytes) -> None:
    server = start_server(EnclaveConfig(limits=Limits(max_body_bytes=1000)))
    server.upload("acme/add", adder)
    with server.connect() as wire:
        wire.send(infer_head("acme/add", "Transfer-Encoding: chunked"))
        for _ in range(3):
            wire.send(b"190\r\n" + b" " * 0x190 + b"\r\n")
        assert_refused(wire, 413, "quota.body")
    assert server.call(lambda: server.application.bodies.used) == 0


def test_bodies_share_one_budget(start_server: Start, adder: bytes) -> None:
    server = start_server(EnclaveConfig(limits=Limits(max_body_bytes=1000, max_bodies_bytes=1500)))
    server.upload("acme/add", adder)
    with server.connect() as first, server.connect() as second:
        first.send(infer_head("acme/add", "Content-Length: 1000"))
        server.eventually(lambda: server.application.bodies.used == 1000)
        second.send(infer_head("acme/add", "Content-Length: 1000") + b"x" * 1000)
        response = second.response()
        response.assert_problem(503, "busy")
        assert response.headers["retry-after"]
        first.reset()
        server.eventually(lambda: server.application.bodies.used == 0)
        assert second.infer("acme/add", ONES).status == 200


def test_connections_have_a_limit(start_server: Start) -> None:
    server = start_server(EnclaveConfig(limits=Limits(max_connections=1)))
    with server.connect() as first:
        assert alive(first)
        with server.connect() as second:
            assert_refused(second, 503, "busy")
        assert alive(first)
    server.eventually(lambda: True)
    assert server.request("GET", "/v2").status == 200


# Several requests on one connection.


def test_responses_keep_the_order_of_pipelined_requests(server: RunningServer, model: str) -> None:
    body, length = binary_request(ONES)
    infer = infer_head(model, f"Content-Length: {len(body)}", f"Inference-Header-Content-Length: {length}") + body
    metadata = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"
    missing = b"GET /v3 HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.connect() as wire:
        for _ in range(4):
            wire.send(infer + metadata + infer + infer + missing)
            responses = [wire.response() for _ in range(5)]
            assert [response.status for response in responses] == [200, 200, 200, 200, 404]
            assert responses[1].json["name"] == "blindai"


def test_requests_cut_anywhere_add_up_to_no_limit(server: RunningServer, model: str) -> None:
    """The bytes and the time of a head are its own, even where every read ends in the middle of the next one."""
    body, length = binary_request(ONES)
    head = infer_head(
        model, f"Content-Length: {len(body)}", f"Inference-Header-Content-Length: {length}", "X: " + "x" * 900
    )
    with server.connect() as wire:
        wire.send(head[:50])
        for _ in range(60):
            wire.send(head[50:] + body + head[:50])
            assert wire.response().status == 200


def test_pipelining_has_a_limit(server: RunningServer) -> None:
    with server.connect() as wire:
        wire.send(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n" * (MAX_PIPELINED_REQUESTS + 20))
        responses = [wire.response() for _ in range(MAX_PIPELINED_REQUESTS + 1)]
        assert {response.status for response in responses} == {200}
        assert_refused(wire, 400, "http.pipelining")


def test_what_comes_after_a_broken_request_is_not_served(server: RunningServer) -> None:
    with server.connect() as wire:
        wire.send(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\nGET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.response().status == 200
        assert_refused(wire, 400, "http.request")


@pytest.mark.parametrize("broken", [b"x\r\n", b"2\r\nabc"])
@pytest.mark.parametrize("target", ["/v2/models/acme/slow/infer", "/v2/repository/index"])
def test_a_broken_body_behind_a_run_waits_for_its_answer(
    own_server: RunningServer, slow: bytes, target: str, broken: bytes
) -> None:
    own_server.upload("acme/slow", slow)
    body, length = binary_request(np.full((1, 1), 3e5, np.float32))
    first = infer_head("acme/slow", f"Content-Length: {len(body)}", f"Inference-Header-Content-Length: {length}") + body
    second = f"POST {target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + broken
    with own_server.connect() as wire:
        wire.send(first + second)
        assert wire.response().status == 200
        assert_refused(wire, 400, "http.request")
    assert own_server.call(lambda: own_server.application.bodies.used) == 0


def test_what_comes_after_connection_close_is_not_served(server: RunningServer, model: str) -> None:
    with server.connect() as wire:
        wire.send(b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.response().headers["connection"] == "close"
        assert wire.closed()


def test_http_1_0_is_answered_and_closed(server: RunningServer) -> None:
    with server.connect() as wire:
        wire.send(b"GET /v2 HTTP/1.0\r\n\r\n")
        assert wire.response().status == 200
        assert wire.closed()


# 100-continue and other negotiation.


@pytest.mark.parametrize("target", ["/v2/models/acme/add/infer", "/v2/repository/index"])
def test_continue_comes_before_the_body(server: RunningServer, model: str, target: str) -> None:
    body, length = binary_request(ONES) if target.endswith("infer") else (b"{}", 2)
    with server.connect() as wire:
        wire.head(
            "POST",
            target,
            f"Content-Length: {len(body)}",
            f"Inference-Header-Content-Length: {length}",
            "Expect: 100-continue",
        )
        assert wire.response().status == 100
        wire.send(body)
        assert wire.response().status == 200
        assert alive(wire)


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("POST", "/v2/models/acme/none/infer", 404, "model.not_found"),
        ("PUT", "/v2/repository/models/acme/..", 400, "model.id"),
        ("PUT", "/v2/repository/models/acme/huge", 413, "quota.model_size"),
    ],
)
def test_a_final_answer_takes_the_place_of_continue(
    own_server: RunningServer, method: str, target: str, status: int, code: str
) -> None:
    length = 3 << 30 if "huge" in target else 10
    with own_server.connect() as wire:
        wire.head(method, target, f"Content-Length: {length}", "Expect: 100-continue")
        # Whether the body comes is open, so the connection cannot be used again.
        assert_refused(wire, status, code)
    assert own_server.index() == []


def test_other_expectations_are_refused(server: RunningServer, model: str) -> None:
    with server.connect() as wire:
        wire.request("POST", "/v2/repository/index", b"{}", "Expect: 200-ok").assert_problem(417, "http.expect")
        assert alive(wire)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, identity"])
@pytest.mark.parametrize("target", ["/v2/models/acme/add/infer", "/v2/repository/index"])
def test_compressed_bodies_are_refused(server: RunningServer, model: str, target: str, coding: str) -> None:
    with server.connect() as wire:
        response = wire.request("POST", target, b"\x1f\x8b" + bytes(20), f"Content-Encoding: {coding}")
        response.assert_problem(415, "http.content_encoding")
        assert alive(wire)


# Unread bodies.


def test_a_small_unwanted_body_is_read_past(server: RunningServer) -> None:
    with server.connect() as wire:
        wire.request("POST", "/v2/nowhere", b"x" * 100_000).assert_problem(404, "http.not_found")
        assert alive(wire)


def test_a_large_unwanted_body_ends_the_connection_after_the_answer(server: RunningServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("POST", "/v2/nowhere")
    connection.putheader("Content-Length", str(8 << 20))
    connection.endheaders()
    for _ in range(8):
        connection.send(bytes(1 << 20))
    response = connection.getresponse()
    assert (response.status, response.headers["connection"]) == (404, "close")
    connection.close()


def test_an_endless_unwanted_body_is_not_read_for_ever(server: RunningServer) -> None:
    with server.connect() as wire:
        wire.head("POST", "/v2/nowhere", "Transfer-Encoding: chunked")
        assert wire.response().status == 404
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        with pytest.raises(ConnectionError):
            send_for_ever(wire, chunk)
    assert server.request("GET", "/v2").status == 200


# Time.


def quick(**timeouts: int) -> EnclaveConfig:
    return EnclaveConfig(timeouts=Timeouts(**timeouts))


def test_a_head_that_does_not_end(start_server: Start) -> None:
    with start_server(quick(head_ms=100)).connect() as wire:
        wire.send(b"GET /v2 HTTP/1.1\r\n")
        assert_refused(wire, 408, "http.timeout")


def test_a_head_that_drips(start_server: Start) -> None:
    with start_server(quick(head_ms=200)).connect() as wire:
        wire.send(b"GET /v2 HTTP/1.1\r\nX: ")
        while not wire.readable():
            wire.send(b"a")
            time.sleep(0.01)
        assert_refused(wire, 408, "http.timeout")


@pytest.mark.parametrize(
    "target", ["/v2/models/acme/add/infer", "/v2/repository/models/acme/new", "/v2/repository/index"]
)
def test_a_body_that_stalls(start_server: Start, adder: bytes, target: str) -> None:
    server = start_server(quick(body_ms=200))
    server.upload("acme/add", adder)
    before = server.call(lambda: server.application.repository.memory.used)
    with server.connect() as wire:
        wire.head("PUT" if target.endswith("new") else "POST", target, "Content-Length: 1000")
        wire.send(b"x")
        assert_refused(wire, 408, "http.timeout")
    server.eventually(lambda: server.application.repository.memory.used == before)
    assert server.call(lambda: (server.application.bodies.used, server.application.repository.pending)) == (0, set())
    assert server.index() == [("acme/add", "1", "READY")]


def test_a_body_that_drips_below_the_slowest_rate(start_server: Start, adder: bytes) -> None:
    server = start_server(quick(body_ms=200))
    server.upload("acme/add", adder)
    with server.connect() as wire:
        wire.send(infer_head("acme/add", "Content-Length: 100000"))
        while not wire.readable():
            wire.send(b"x")
            time.sleep(0.02)
        assert_refused(wire, 408, "http.timeout")


def test_an_answered_request_that_stalls_gets_no_second_answer(start_server: Start) -> None:
    with start_server(quick(body_ms=100)).connect() as wire:
        wire.head("POST", "/v2/nowhere", "Content-Length: 1000")
        assert wire.response().status == 404
        assert wire.closed()


def test_an_idle_connection_is_closed_without_a_word(start_server: Start) -> None:
    server = start_server(quick(idle_ms=100))
    with server.connect() as unused, server.connect() as used:
        assert alive(used)
        assert used.closed()
        assert unused.closed()


def test_a_slow_run_does_not_time_out(start_server: Start, slow: bytes) -> None:
    server = start_server(quick(head_ms=100, body_ms=100, idle_ms=100))
    server.upload("acme/slow", slow)
    with server.connect() as wire:
        assert wire.infer("acme/slow", np.full((1, 1), 3e5, np.float32)).status == 200


def test_a_client_that_does_not_read_is_cut(start_server: Start, adder: bytes) -> None:
    server = start_server(quick(write_ms=300))
    server.upload("acme/add", adder)
    body, length = binary_request(np.zeros((1, 1_000_000), np.float32))
    request = (
        infer_head("acme/add", f"Content-Length: {len(body)}", f"Inference-Header-Content-Length: {length}") + body
    )
    with server.connect() as wire:
        wire.socket.settimeout(0.05)
        try:
            while True:
                wire.send(request)
        except TimeoutError:
            pass
        except ConnectionError:
            return
        server.eventually(lambda: server.application.bodies.used == 0)
        wire.socket.settimeout(20)
        with pytest.raises((ConnectionError, AssertionError)):
            _ = [wire.response() for _ in range(10_000)]


def test_a_client_that_reads_slowly_gets_every_answer(own_server: RunningServer, own_model: str) -> None:
    """Writing pauses and goes on, with requests waiting behind it."""
    values = np.arange(1_000_000, dtype=np.float32).reshape(1, -1)
    body, length = binary_request(values)
    head = infer_head(own_model, f"Content-Length: {len(body)}", f"Inference-Header-Content-Length: {length}")
    metadata = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"
    with own_server.connect() as wire, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(wire.send, (head + body + metadata) * 6)
        for _ in range(6):
            time.sleep(0.02)
            response = wire.response()
            start = int(response.headers["inference-header-content-length"])
            assert np.array_equal(np.frombuffer(response.body[start:], np.float32), values[0] + 1)
            assert wire.response().json["name"] == "blindai"
        sending.result()
        assert alive(wire)
    own_server.eventually(lambda: own_server.application.bodies.used == 0)


# Clients that go away.


def test_a_client_that_goes_away_in_the_middle_of_a_body(own_server: RunningServer, own_model: str) -> None:
    memory = own_server.call(lambda: own_server.application.repository.memory.used)
    for target, method in ((f"/v2/models/{own_model}/infer", "POST"), ("/v2/repository/models/acme/new", "PUT")):
        for leave in (Wire.close, Wire.reset):
            wire = own_server.connect()
            wire.head(method, target, "Content-Length: 100000")
            wire.send(b"x" * 5000)
            leave(wire)
    own_server.eventually(lambda: own_server.application.bodies.used == 0)
    own_server.eventually(lambda: own_server.application.repository.memory.used == memory)
    assert own_server.call(lambda: own_server.application.repository.pending) == set()
    assert own_server.index() == [("acme/add", "1", "READY")]


def test_a_client_that_goes_away_during_a_run(own_server: RunningServer, slow: bytes) -> None:
    own_server.upload("acme/slow", slow)
    for _ in range(3):
        wire = own_server.connect()
        body, length = binary_request(np.full((1, 1), 3e5, np.float32))
        wire.send(
            infer_head("acme/slow", f"Content-Length: {len(body)}", f"Inference-Header-Content-Length: {length}") + body
        )
        wire.reset()
    with own_server.connect() as wire:
        assert wire.infer("acme/slow", ONES).status == 200
    own_server.eventually(lambda: own_server.application.bodies.used == 0)
    assert own_server.request("DELETE", "/v2/repository/models/acme/slow").status == 200
    own_server.eventually(lambda: own_server.application.repository.memory.used == 0)


# What every response has, or must not have.


@pytest.mark.parametrize("simulated", [False, True])
def test_simulation_shows_on_every_kind_of_response(start_server: Start, adder: bytes, simulated: bool) -> None:
    server = start_server(simulated=simulated)
    responses: list[Response] = [server.upload("acme/add", adder)]
    with server.connect() as wire:
        responses.append(wire.infer("acme/add", ONES))
        responses.append(wire.request("GET", "/v2"))
        responses.append(wire.request("GET", "/nowhere"))
        responses.append(wire.request("POST", "/v2/models/acme/none/infer"))
        wire.send(b"nonsense\r\n\r\n")
        responses.append(wire.response())
    assert [response.status for response in responses] == [201, 200, 200, 404, 404, 400]
    assert {response.headers.get("blindai-platform") for response in responses} == {"simulated" if simulated else None}
    for response in responses:
        assert not {"server", "date", "x-powered-by"} & set(response.headers)


def test_unforeseen_errors_show_an_incident_and_nothing_else(
    own_server: RunningServer, own_model: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret of a client")

    def fail_at_once(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret of a client")

    application = own_server.application
    monkeypatch.setattr(application.repository, "delete", fail)
    monkeypatch.setattr(application._inference, "_succeeded", fail_at_once)
    monkeypatch.setattr(application._inference, "_failed", fail_at_once)
    with own_server.connect() as wire:
        response = wire.request("DELETE", f"/v2/repository/models/{own_model}")
        response.assert_problem(500, "internal")
    with own_server.connect() as wire:
        wire.request(
            "POST", f"/v2/models/{own_model}/infer", b"{}", "Inference-Header-Content-Length: x"
        ).assert_problem(500, "internal")
        assert alive(wire)
    logged = capfd.readouterr().out
    incident = response.json["error"].rsplit(" ", 1)[1]
    assert incident in logged
    assert "RuntimeError" in logged
    assert b"secret" not in response.body
    assert "secret" not in logged


def test_no_bytes_kill_the_server(own_server: RunningServer, own_model: str) -> None:
    import random

    dice = random.Random(2)
    body, length = binary_request(ONES)
    good = infer_head(own_model, f"Content-Length: {len(body)}", f"Inference-Header-Content-Length: {length}") + body
    for _ in range(150):
        data = bytearray(good * 2)
        for _ in range(dice.randint(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        with own_server.connect() as wire:
            wire.send(bytes(data[: dice.randrange(len(data))]))
            wire.socket.shutdown(socket.SHUT_WR)
            while wire.socket.recv(65536):
                pass
    with own_server.connect() as wire:
        assert wire.infer(own_model, ONES).status == 200
    assert own_server.call(lambda: own_server.application.bodies.used) == 0
    assert own_server.call(lambda: len(asyncio.all_tasks())) < 10
