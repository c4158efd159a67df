"""The log of a server: one line for each event, and never a reason to fail."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from blindai.channel.logs import configure_logs


@pytest.fixture(autouse=True)
def own_configuration() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_json_lines() -> None:
    stream = io.StringIO()
    configure_logs(stream, as_json=True)
    structlog.get_logger("test").info("stopped", requests=3)
    event = json.loads(stream.getvalue())
    assert (event["event"], event["requests"], event["level"]) == ("stopped", 3, "info")
    assert stream.getvalue().count("\n") == 1


def test_lines_for_people_have_no_colours_off_a_terminal() -> None:
    stream = io.StringIO()
    configure_logs(stream, as_json=False)
    structlog.get_logger("test").warning("cut_connections", connections=2)
    assert "cut_connections" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_stream_that_has_ended_fails_nothing() -> None:
    stream = io.StringIO()
    configure_logs(stream, as_json=True)
    stream.close()
    structlog.get_logger("test").error("attester_failed")


def test_a_broken_pipe_fails_nothing() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    configure_logs(Broken(), as_json=False)
    structlog.get_logger("test").error("attester_failed")
