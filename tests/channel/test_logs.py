"""The log of a server: one line for each event, and never a reason to fail."""

from __future__ import annotations

import io
import json

import pytest
import structlog

from blindai.channel.logs import configure_logs


def test_a_logger_that_was_used_before_follows(capsys: pytest.CaptureFixture[str]) -> None:
    """Modules make theirs when they are imported, and some write before the log is set up."""
    logger, stream = structlog.get_logger("test"), io.StringIO()
    configure_logs(io.StringIO(), as_json=False)
    logger.info("before")
    configure_logs(stream, as_json=True)
    logger.info("after")
    assert json.loads(stream.getvalue())["event"] == "after"
    assert not capsys.readouterr().out


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
