"""The proxy between plain clients and an attested server: what passes, and what a cut looks like."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from attested_speaker import AttestedSpeaker, read_request
from blindai.attestation.policy import Policy
from blindai.channel.clock import SYSTEM_CLOCK
from blindai.channel.keyset import PrivateKeyset
from blindai.client.proxy import connection
from blindai.client.proxy.address import UnixAddress
from blindai.client.proxy.upstream import Upstream
from blindai.demo.impostor import Impostor
from enclave_server import Wire
from running_proxy import RunningProxy

from .conftest import StartProxy, StartSpeaker, echo

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def ask(proxy: RunningProxy, method: str = "GET", target: str = "/", **options: Any) -> http.client.HTTPResponse:
    made = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    headers = {"Connection": "close", **options.pop("headers", {})}
    made.request(method, target, headers=headers, **options)
    return made.getresponse()


class TestBodies:
    def test_a_large_body_passes_unchanged_both_ways(self, proxy: RunningProxy) -> None:
        body = hashlib.shake_256(b"body").digest(5_000_000)
        assert ask(proxy, "POST", body=body).read() == body

    def test_a_body_in_chunks_goes_on_in_chunks(self, proxy: RunningProxy) -> None:
        answer = ask(proxy, "POST", body=iter([b"first ", b"second"]), encode_chunked=True)
        assert answer.read() == b"6\r\nfirst \r\n6\r\nsecond\r\n0\r\n\r\n"

    def test_an_answer_in_chunks_arrives_as_it_comes(
        self, start_speaker: StartSpeaker, start_proxy: StartProxy
    ) -> None:
        """Server-sent events: the second is sent only when the client has had the first."""
        had_first = threading.Event()

        async def events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"9\r\ndata: 1\n\n\r\n"
            )
            await asyncio.to_thread(had_first.wait, 20)
            writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
            await writer.drain()

        answer = ask(start_proxy(start_speaker(events).address))
        assert answer.read1() == b"data: 1\n\n"
        had_first.set()
        assert answer.read() == b"data: 2\n\n"
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.headers["blindai-platform"] == "simulated"

    def test_a_client_that_asks_first_is_told_to_go_on_by_the_enclave(
        self, start_speaker: StartSpeaker, start_proxy: StartProxy
    ) -> None:
        async def upload(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"\r\nExpect: 100-continue\r\n" in head
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(3)
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\n" + body)
            await writer.drain()

        with Wire(start_proxy(start_speaker(upload).address).port) as wire:
            wire.send(b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
            assert wire.response().status == 100
            wire.send(b"abc")
            answer = wire.response()
            assert (answer.status, answer.body) == (201, b"abc")

    def test_an_upload_that_is_refused_early_gets_its_answer(
        self, start_speaker: StartSpeaker, start_proxy: StartProxy
    ) -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
            await writer.drain()

        with Wire(start_proxy(start_speaker(refuse).address).port) as wire:
            wire.send(b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nabc")
            answer = wire.response()
            assert (answer.status, answer.body, answer.headers["connection"]) == (413, b"no", "close")
            assert wire.closed()

    def test_a_client_that_takes_nothing_makes_the_enclave_wait(
        self, start_speaker: StartSpeaker, start_proxy: StartProxy
    ) -> None:
        """Backpressure end to end: the proxy holds a bounded part of what the enclave has to say."""
        whole = 200_000_000
        written = 0

        async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % whole)
            while written < whole:
                writer.write(bytes(100_000))
                written += 100_000
                await writer.drain()

        with Wire(start_proxy(start_speaker(pour).address).port) as wire:
            wire.send(GET)
            before = -1
            while written != before:
                before = written
                threading.Event().wait(0.5)
            assert written < whole / 4

    def test_head_and_no_content_have_no_body(self, start_speaker: StartSpeaker, start_proxy: StartProxy) -> None:
        async def speech(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
            await read_request(reader)
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
            await writer.drain()

        with Wire(start_proxy(start_speaker(speech).address).port) as wire:
            wire.send(GET.replace(b"GET", b"HEAD"))
            assert wire.response(head=True).headers["content-length"] == "500"
            wire.send(GET)
            assert wire.response(head=True).status == 204
            wire.send(GET)
            assert wire.response().body == b"x"

    def test_a_client_of_http_1_0(self, proxy: RunningProxy) -> None:
        with Wire(proxy.port) as wire:
            wire.send(b"POST / HTTP/1.0\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi")
            answer = wire.response()
            assert (answer.body, answer.headers["connection"]) == (b"hi", "close")
            assert wire.closed()


class TestHeads:
    def test_what_concerns_one_connection_stays_there(
        self, start_speaker: StartSpeaker, start_proxy: StartProxy
    ) -> None:
        async def speech(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(
                b"HTTP/1.1 200 Fine\r\nContent-Length: 0\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"
                b"X-Two: 1\r\nX-Two: 2\r\n\r\n"
            )
            await writer.drain()

        speaker = start_speaker(speech)
        proxy = start_proxy(speaker.address)
        with Wire(proxy.port) as wire:
            wire.send(
                b"GET /v2?a=%20b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer for-the-enclave\r\n"
                b"Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n"
                b"Proxy-Connection: keep-alive\r\nProxy-Authorization: Bearer local\r\nBlindAI-Proxy-Token: local\r\n"
                b"X-Kept: yes\r\n\r\n"
            )
            answer = wire.response()
        assert "x-hop" not in answer.headers
        assert "keep-alive" not in answer.headers
        assert answer.headers["x-two"] == "2"
        host = speaker.address.removeprefix("https://").encode()
        assert bytes(speaker.heard) == (
            b"GET /v2?a=%20b HTTP/1.1\r\nHost: " + host + b"\r\nAuthorization: Bearer for-the-enclave\r\n"
            b"X-Kept: yes\r\nVia: 1.1 blindai-proxy\r\n\r\n"
        )


class TestConnections:
    def test_one_attested_connection_serves_many_requests_of_a_client(
        self, proxy: RunningProxy, speaker: AttestedSpeaker
    ) -> None:
        made = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
        for number in range(5):
            made.request("POST", "/", body=b"%d" % number)
            assert made.getresponse().read() == b"%d" % number
        made.close()
        assert speaker.connections == 1

    def test_clients_do_not_wait_for_each_other(self, start_speaker: StartSpeaker, start_proxy: StartProxy) -> None:
        meeting = threading.Barrier(5)

        async def speech(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            await asyncio.to_thread(meeting.wait, 20)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()

        proxy = start_proxy(start_speaker(speech).address)
        with ThreadPoolExecutor(5) as pool:
            assert list(pool.map(lambda _: ask(proxy).read(), range(5))) == [b"ok"] * 5

    def test_pipelined_requests_are_answered_one_after_the_other(self, proxy: RunningProxy) -> None:
        count = 2000
        with Wire(proxy.port) as wire:
            requests = b"".join(
                b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n%04d" % number
                for number in range(count)
            )
            sending = threading.Thread(target=wire.send, args=(requests,))
            sending.start()
            assert [wire.response().body for _ in range(count)] == [b"%04d" % number for number in range(count)]
            sending.join()

    def test_ten_thousand_requests_before_the_first_answer_wait_in_the_network(
        self, start_speaker: StartSpeaker, start_proxy: StartProxy
    ) -> None:
        """The proxy takes no more than a read or two of them while one is unanswered."""
        answer = threading.Event()

        async def speech(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            await asyncio.to_thread(answer.wait, 20)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        speaker = start_speaker(speech)
        proxy = start_proxy(speaker.address)
        request = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Filling: " + b"x" * 1000 + b"\r\n\r\n"
        with Wire(proxy.port) as wire:
            wire.socket.settimeout(2)
            sent = 0
            with contextlib.suppress(TimeoutError):
                for _ in range(10_000):
                    sent += wire.socket.send(request)
            # What the kernel holds for a loopback connection, and little more.
            assert sent < 10_000 * len(request)
            assert speaker.heard.count(b"X-Filling") == 1
            answer.set()

    def test_an_enclave_that_ended_its_connection_meanwhile_is_connected_to_again(
        self, start_speaker: StartSpeaker, start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rested: list[Upstream] = []
        rest = Upstream.rest

        def noted(upstream: Upstream) -> None:
            rest(upstream)
            rested.append(upstream)

        monkeypatch.setattr(Upstream, "rest", noted)

        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # and no word that it will close
            await writer.drain()

        speaker = start_speaker(once)
        proxy = start_proxy(speaker.address)
        with Wire(proxy.port) as wire:
            for number in range(3):
                wire.send(GET)
                assert wire.response().body == b"ok"
                assert speaker.connections == number + 1
                while len(rested) <= number or not (ahead := rested[number]._ahead) or not ahead.done():
                    threading.Event().wait(0.01)

    def test_a_verdict_that_expired_is_made_anew(self, policy: Policy, speaker: AttestedSpeaker) -> None:
        class LateClock:
            offset = 0.0

            def now(self) -> float:
                return SYSTEM_CLOCK.now() + self.offset

            def monotonic(self) -> float:
                return SYSTEM_CLOCK.monotonic() + self.offset

        clock = LateClock()
        with RunningProxy(speaker.address, policy, clock=clock) as proxy, Wire(proxy.port) as wire:
            wire.send(GET)
            assert wire.response().status == 200
            clock.offset = 10 * 365 * 86400.0
            wire.send(GET)
            # Everything has expired by then, the evidence too: nothing is sent on an old verdict.
            assert wire.response().status == 502
        assert speaker.connections <= 2
        assert speaker.heard.count(b"GET / ") == 1

    def test_too_many_connections(self, policy: Policy, speaker: AttestedSpeaker) -> None:
        with RunningProxy(speaker.address, policy, max_connections=1) as proxy, Wire(proxy.port) as first:
            first.send(GET)
            assert first.response().status == 200
            with Wire(proxy.port) as second:
                second.response().assert_problem(503, "busy")
            first.send(GET)
            assert first.response().status == 200


class TestCuts:
    @pytest.mark.parametrize(
        "beginning",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        ],
    )
    def test_an_enclave_that_dies_in_the_middle_leaves_a_cut(
        self, start_speaker: StartSpeaker, start_proxy: StartProxy, beginning: bytes
    ) -> None:
        async def speech(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(beginning)
            await writer.drain()

        with (
            ask(start_proxy(start_speaker(speech).address)) as answer,
            pytest.raises((http.client.IncompleteRead, ConnectionResetError)),
        ):
            answer.read()

    def test_a_client_of_http_1_0_gets_no_answer_whose_end_it_could_not_tell_from_a_cut(
        self, start_speaker: StartSpeaker, start_proxy: StartProxy
    ) -> None:
        async def speech(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            await writer.drain()

        with Wire(start_proxy(start_speaker(speech).address).port) as wire:
            wire.send(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
            wire.response().assert_problem(400, "http.request")

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"SSH-2.0-OpenSSH\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n",
        ],
    )
    def test_an_answer_that_is_none(self, start_speaker: StartSpeaker, start_proxy: StartProxy, answer: bytes) -> None:
        async def speech(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(answer)
            await writer.drain()

        refused = ask(start_proxy(start_speaker(speech).address))
        assert refused.status == 502
        assert b'"code":"unavailable.' in refused.read()

    def test_a_client_that_leaves_has_its_request_cancelled(
        self, start_speaker: StartSpeaker, start_proxy: StartProxy
    ) -> None:
        left, begun = threading.Event(), threading.Event()

        async def speech(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            begun.set()
            with contextlib.suppress(ConnectionError):
                assert await reader.read(1) == b""
            left.set()

        with Wire(start_proxy(start_speaker(speech).address).port) as wire:
            wire.send(GET)
            assert begun.wait(20)
        assert left.wait(20)

    def test_an_upload_that_is_cut_is_not_ended_for_the_enclave(
        self, start_speaker: StartSpeaker, start_proxy: StartProxy
    ) -> None:
        begun, ended = threading.Event(), threading.Event()

        async def speech(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"4\r\nhalf\r\n")
            begun.set()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            ended.set()

        speaker = start_speaker(speech)
        with Wire(start_proxy(speaker.address).port) as wire:
            wire.send(b"PUT / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            assert begun.wait(20)
        assert ended.wait(20)
        assert speaker.heard.endswith(b"4\r\nhalf\r\n")


class TestTheEnclaveIsRefused:
    def test_nothing_is_sent_to_an_impostor(self, start_proxy: StartProxy) -> None:
        with Impostor(lambda _: b"{}", PrivateKeyset(datetime.now(UTC))) as impostor:
            proxy = start_proxy(impostor.address)
            answer = ask(proxy, "POST", body=b"secret", headers={"Authorization": "Bearer key"})
            body = answer.read()
        assert answer.status == 502
        assert b'"code":"channel.not_attested"' in body
        assert b'"step":"channel"' in body
        assert impostor.gate_requests >= 1
        assert impostor.application_bytes == 0
        assert proxy.refused_codes == ["channel.not_attested"]

    def test_nothing_is_sent_to_an_enclave_with_other_code(
        self, start_proxy: StartProxy, speaker: AttestedSpeaker, policy: Policy
    ) -> None:
        text = policy.to_toml()
        start = text.index('mrtd = "') + len('mrtd = "')
        other = Policy.parse(text[:start] + ("0" if text[start] != "0" else "1") + text[start + 1 :], "other")
        proxy = start_proxy(speaker.address, policy=other)
        answer = ask(proxy, "POST", body=b"secret")
        assert (answer.status, b'"code":"code.unknown","hint"' in answer.read()) == (502, True)
        assert bytes(speaker.heard) == b""

    def test_nothing_listens(self, start_proxy: StartProxy) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        answer = ask(start_proxy(f"https://127.0.0.1:{port}"))
        assert (answer.status, b'"code":"unavailable.connect"' in answer.read()) == (502, True)


class TestSlowClients:
    def test_a_head_that_does_not_end(self, proxy: RunningProxy, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
        with Wire(proxy.port) as wire:
            wire.send(b"GET / HT")
            wire.response().assert_problem(408, "http.timeout")

    def test_a_body_that_does_not_go_on(
        self, proxy: RunningProxy, speaker: AttestedSpeaker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "BODY_SECONDS", 0.2)
        with Wire(proxy.port) as wire:
            wire.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\na")
            wire.response().assert_problem(408, "http.timeout")

    def test_a_connection_that_says_nothing_is_closed(
        self, proxy: RunningProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "IDLE_SECONDS", 0.2)
        with Wire(proxy.port) as wire:
            assert wire.closed()
        assert proxy.refusals == []


class TestStop:
    def test_what_is_being_answered_is_answered(self, start_speaker: StartSpeaker, policy: Policy) -> None:
        begun, go_on = threading.Event(), threading.Event()

        async def speech(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            begun.set()
            await asyncio.to_thread(go_on.wait, 20)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()

        origin = "https://app.example"
        proxy = RunningProxy(start_speaker(speech).address, policy, origins=[origin], hosts=["x"])
        with proxy, Wire(proxy.port) as busy, Wire(proxy.port) as idle:
            busy.send(GET)
            assert begun.wait(20)
            idle.head("OPTIONS", "/", f"Origin: {origin}", "Access-Control-Request-Method: GET")
            try:
                assert idle.response(head=True).status == 204
                proxy.stop()
                assert idle.closed()
            finally:
                go_on.set()
            answer = busy.response()
            assert (answer.body, answer.headers["connection"]) == (b"ok", "close")


class TestUnixSocket:
    def test_requests_pass(self, start_proxy: StartProxy, speaker: AttestedSpeaker, tmp_path: Path) -> None:
        path = tmp_path / "proxy"
        proxy = start_proxy(speaker.address, where=UnixAddress(path))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as plain:
            plain.settimeout(20)
            plain.connect(str(path))
            plain.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
            answer = b""
            while data := plain.recv(1000):
                answer += data
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nhi")
        assert proxy.refusals == []


def test_the_echo_is_one(start_speaker: StartSpeaker, start_proxy: StartProxy) -> None:
    """The tests above rely on it."""
    assert ask(start_proxy(start_speaker(echo).address), "POST", body=b"x").read() == b"x"
