from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from blindai.demo.custody.line import Line


class Echo:
    """Answers every message with its own name in front."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(100):
                    connection.sendall(self._name + data)

    def close(self) -> None:
        # close() alone does not wake a thread in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echoes() -> Iterator[tuple[Echo, Echo]]:
    pair = Echo(b"first "), Echo(b"second ")
    yield pair
    for echo in pair:
        echo.close()


def connect(line: Line) -> socket.socket:
    return socket.create_connection(("127.0.0.1", line.port), timeout=10)


def is_cut(connection: socket.socket) -> bool:
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


def test_bytes_pass_both_ways(echoes: tuple[Echo, Echo]) -> None:
    with Line(echoes[0].port) as line, connect(line) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"first hello"


def test_a_bent_line_is_cut_and_leads_elsewhere(echoes: tuple[Echo, Echo]) -> None:
    with Line(echoes[0].port) as line, connect(line) as before:
        before.sendall(b"hello")
        before.recv(100)
        line.bend(echoes[1].port)
        assert is_cut(before)
        with connect(line) as after:
            after.sendall(b"hello")
            assert after.recv(100) == b"second hello"


def test_a_cut_line_leads_nowhere(echoes: tuple[Echo, Echo]) -> None:
    with Line(echoes[0].port) as line:
        line.cut()
        with connect(line) as connection:
            assert is_cut(connection)


def test_a_line_to_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with Line(port) as line, connect(line) as connection:
        assert is_cut(connection)


def test_what_is_open_ends_with_the_line(echoes: tuple[Echo, Echo]) -> None:
    with Line(echoes[0].port) as line:
        connection = connect(line)
        connection.sendall(b"hello")
        connection.recv(100)
    with connection:
        assert is_cut(connection)
