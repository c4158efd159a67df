"""Flows over real sockets, blocking and on asyncio, against a peer that does exactly what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from blindai.channel.flow import READ, AsyncStream, BlockingStream, Flow
from blindai.errors import Unavailable

Peer = Callable[[socket.socket], None]
Listen = Callable[["Peer | None"], "Listener"]


class Listener:
    """A server for one connection, on which `peer` has the word; without one it neither speaks nor listens."""

    def __init__(self, peer: Peer | None) -> None:
        self._end = threading.Event()
        self._peer = peer
        self.done = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._socket.accept()
            with connection:
                connection.settimeout(10)
                if self._peer is None:
                    self._end.wait(10)
                else:
                    self._peer(connection)
        self.done.set()

    def close(self) -> None:
        self._end.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def listen() -> Iterator[Listen]:
    listeners: list[Listener] = []

    def one(peer: Peer | None) -> Listener:
        listeners.append(Listener(peer))
        return listeners[-1]

    yield one
    for listener in listeners:
        listener.close()


class Driver:
    """One of the two streams, behind the same blocking calls."""

    def __init__(self, *, is_async: bool) -> None:
        self._runner = asyncio.Runner() if is_async else None
        self.stream: Any = None

    def connect(self, port: int, *, host: str = "127.0.0.1", seconds: float | None = 5, connect: float = 5) -> None:
        if self._runner is None:
            self.stream = BlockingStream(host, port, connect_seconds=connect, seconds=seconds)
        else:
            self.stream = self._runner.run(AsyncStream.connect(host, port, connect_seconds=connect, seconds=seconds))

    def run(self, flow: Flow[Any], **options: Any) -> Any:
        if self._runner is None:
            return self.stream.run(flow, **options)
        return self._runner.run(self.stream.run(flow, **options))

    def is_stale(self) -> bool:
        return bool(self.stream.is_stale())

    def idle(self) -> None:
        """Let the loop of a caller go on."""
        if self._runner is not None:
            self._runner.run(asyncio.sleep(0.05))

    def close(self) -> None:
        if self.stream is not None:
            if self._runner is not None:

                async def close() -> None:
                    self.stream.close()
                    await asyncio.sleep(0)

                self._runner.run(close())
            else:
                self.stream.close()
        if self._runner is not None:
            self._runner.close()


@pytest.fixture(params=[False, True], ids=["blocking", "asyncio"])
def driver(request: pytest.FixtureRequest, listen: Listen) -> Iterator[Driver]:
    one = Driver(is_async=request.param)
    yield one
    one.close()


def read_all(count: int) -> Flow[bytes]:
    data = b""
    while len(data) < count:
        received = yield READ
        if not received:
            return data
        data += received
    return data


def write(data: bytes) -> Flow[None]:
    yield data


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def cut(connection: socket.socket) -> None:
    """Reset the connection, once it is there for both ends."""
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestRun:
    def test_writes_and_reads(self, driver: Driver, listen: Listen) -> None:
        driver.connect(listen(echo).port)

        def talk() -> Flow[list[bytes]]:
            heard = []
            for word in (b"one", b"two"):
                yield word
                heard.append((yield from read_all(3)))
            return heard

        assert driver.run(talk()) == [b"one", b"two"]
        assert driver.run(talk()) == [b"one", b"two"]

    def test_a_flow_without_io(self, driver: Driver, listen: Listen) -> None:
        driver.connect(listen(echo).port)

        def counting() -> Flow[int]:
            yield from ()
            return 7

        assert driver.run(counting()) == 7

    def test_many_megabytes(self, driver: Driver, listen: Listen) -> None:
        data = bytes(range(256)) * (16 << 12)  # 16 MiB

        def peer(connection: socket.socket) -> None:
            received = bytearray()
            while len(received) < len(data):
                received += connection.recv(1 << 20)
            connection.sendall(received)

        driver.connect(listen(peer).port)

        def talk() -> Flow[bytes]:
            yield data
            return (yield from read_all(len(data)))

        assert driver.run(talk()) == data

    def test_more_arrives_than_is_asked_for(self, driver: Driver, listen: Listen) -> None:
        """The peer must wait, and everything comes all the same."""
        data = bytes(range(256)) * (8 << 12)
        driver.connect(listen(lambda connection: connection.sendall(data)).port)
        driver.idle()
        assert driver.run(read_all(len(data))) == data
        assert driver.run(read_all(1)) == b""

    def test_end_of_stream(self, driver: Driver, listen: Listen) -> None:
        driver.connect(listen(lambda connection: connection.sendall(b"last")).port)
        assert driver.run(read_all(100)) == b"last"
        assert driver.run(read_all(1)) == b""

    def test_reset(self, driver: Driver, listen: Listen) -> None:
        listener = listen(cut)
        driver.connect(listener.port)
        driver.run(write(b"x"))
        listener.done.wait(10)
        assert driver.run(read_all(1)) == b""

    def test_writing_to_a_peer_that_has_gone(self, driver: Driver, listen: Listen) -> None:
        """It is not an error yet: what the peer said before may explain why it went."""
        listener = listen(cut)
        driver.connect(listener.port)
        driver.run(write(b"x"))
        listener.done.wait(10)
        for _ in range(20):
            driver.run(write(bytes(100_000)))
        assert driver.run(read_all(1)) == b""

    def test_what_a_peer_said_before_it_went_can_be_read(self, driver: Driver, listen: Listen) -> None:
        def peer(connection: socket.socket) -> None:
            connection.sendall(b"no, thanks")
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass

        driver.connect(listen(peer).port)

        def talk() -> Flow[bytes]:
            for _ in range(5):
                yield bytes(100_000)
            return (yield from read_all(100))

        assert driver.run(talk()) == b"no, thanks"

    def test_errors_of_the_flow_come_out(self, driver: Driver, listen: Listen) -> None:
        driver.connect(listen(echo).port)
        ended = []

        def broken() -> Flow[None]:
            try:
                yield b"x"
                raise LookupError("mine")
            finally:
                ended.append(True)

        with pytest.raises(LookupError, match="mine"):
            driver.run(broken())
        assert ended == [True]


class TestTime:
    @pytest.mark.parametrize("own", [True, False])
    def test_a_read_without_end(self, driver: Driver, listen: Listen, own: bool) -> None:
        driver.connect(listen(None).port, seconds=0.05 if own else None)
        with pytest.raises(Unavailable) as caught:
            driver.run(read_all(1), **({} if own else {"seconds": 0.05}))
        assert caught.value.code == "unavailable.timeout"

    def test_a_write_without_end(self, driver: Driver, listen: Listen) -> None:
        driver.connect(listen(None).port, seconds=0.05)

        def flood() -> Flow[None]:
            while True:
                yield bytes(1 << 20)

        with pytest.raises(Unavailable) as caught:
            driver.run(flood())
        assert caught.value.code == "unavailable.timeout"

    def test_a_bound_for_one_run_only(self, driver: Driver, listen: Listen) -> None:
        speak = threading.Event()

        def peer(connection: socket.socket) -> None:
            speak.wait(10)
            connection.sendall(b"x")

        driver.connect(listen(peer).port, seconds=None)
        with pytest.raises(Unavailable):
            driver.run(read_all(1), seconds=0.05)
        speak.set()
        assert driver.run(read_all(1)) == b"x"


class TestConnect:
    def test_nobody_listens(self, driver: Driver) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(Unavailable) as caught:
            driver.connect(port)
        assert caught.value.code == "unavailable.connect"
        assert "blindai serve" in caught.value.hint

    def test_a_name_that_does_not_exist(self, driver: Driver) -> None:
        with pytest.raises(Unavailable) as caught:
            driver.connect(9, host="no-such-host.invalid")
        assert caught.value.code == "unavailable.connect"

    def test_nobody_answers(self, driver: Driver) -> None:
        """A full backlog: the connection is neither taken nor refused."""
        with socket.socket() as listener, contextlib.ExitStack() as others:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(4):
                other = others.enter_context(socket.socket())
                other.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    other.connect(listener.getsockname())
            with pytest.raises(Unavailable) as caught:
                driver.connect(listener.getsockname()[1], connect=0.05)
        assert caught.value.code == "unavailable.timeout"


class TestStale:
    def test_an_open_connection_is_not(self, driver: Driver, listen: Listen) -> None:
        driver.connect(listen(echo).port)
        assert not driver.is_stale()

    @pytest.mark.parametrize(
        "peer",
        [lambda connection: connection.recv(1), cut, lambda connection: connection.sendall(connection.recv(1))],
        ids=["closed", "reset", "spoke and closed"],
    )
    def test_a_peer_that_ended_it(self, driver: Driver, listen: Listen, peer: Peer) -> None:
        driver.connect(listen(peer).port)
        driver.run(write(b"x"))
        eventually(driver.is_stale)
        driver.idle()
        assert driver.is_stale()

    def test_a_peer_that_speaks_out_of_turn(self, driver: Driver, listen: Listen) -> None:
        def peer(connection: socket.socket) -> None:
            connection.sendall(b"408")
            connection.recv(1)

        driver.connect(listen(peer).port)
        eventually(driver.is_stale)
        driver.idle()
        assert driver.is_stale()

    def test_where_there_is_no_poll(self, listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(select, "poll")
        stream = BlockingStream("127.0.0.1", listen(echo).port, connect_seconds=5, seconds=5)
        assert not stream.is_stale()
        stream.run(write(b"x"))
        eventually(stream.is_stale)
        stream.close()


def test_a_cancelled_run_ends_its_flow(listen: Listen) -> None:
    listener = listen(None)
    ended = []

    def waiting() -> Flow[None]:
        try:
            yield READ
        finally:
            ended.append(True)

    async def main() -> None:
        stream = await AsyncStream.connect("127.0.0.1", listener.port, connect_seconds=5, seconds=None)
        task = asyncio.create_task(stream.run(waiting()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stream.close()

    asyncio.run(main())
    assert ended == [True]


def test_a_slow_peer_makes_a_run_wait(listen: Listen) -> None:
    """The peer begins to read only when the run is known to wait for it."""
    size = 64 << 20
    waiting = threading.Event()

    def peer(connection: socket.socket) -> None:
        waiting.wait(10)
        left = size
        while left:
            left -= len(connection.recv(1 << 20))

    listener = listen(peer)

    async def main() -> None:
        stream = await AsyncStream.connect("127.0.0.1", listener.port, connect_seconds=5, seconds=5)
        task = asyncio.create_task(stream.run(write(bytes(size))))

        def full() -> bool:
            return stream._full

        while not full():
            await asyncio.sleep(0.001)
        assert not task.done()
        waiting.set()
        await task
        assert not full()
        stream.close()

    asyncio.run(main())
