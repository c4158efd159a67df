from __future__ import annotations

import io
from contextlib import redirect_stderr

import pytest

from blindai.client.model_file import ModelBody
from blindai.client.progress import MIN_BYTES, upload_progress, waiting_progress
from blindai.demo.patients import load_model

PAD = b"\xfa\x0f"  # a field that ONNX does not have, with so many bytes to skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@pytest.fixture
def body() -> ModelBody:
    """A little more than what gets a bar."""
    return ModelBody.open(load_model() + PAD + b"\x80\x80\x40" + bytes(MIN_BYTES))


def taken(body: ModelBody, stderr: io.StringIO | None, enabled: bool | None = None) -> bytes:
    # Here and not in a fixture, because pytest puts its own standard error into place after them.
    with redirect_stderr(stderr), upload_progress(body, "acme/[model]", enabled=enabled) as chunks:
        return b"".join(chunks)


def test_bar_on_a_terminal_reaches_the_end(body: ModelBody, terminal: Terminal) -> None:
    assert taken(body, terminal) == b"".join(body.chunks())
    shown = terminal.getvalue()
    assert "acme/[model]" in shown
    assert "1.0/1.0 MB" in shown
    assert "\x1b[38" in shown or "\x1b[3" in shown


def test_bar_has_no_colours_where_none_are_wanted(
    body: ModelBody, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    taken(body, terminal)
    assert "acme/[model]" in terminal.getvalue()
    assert "\x1b[3" not in terminal.getvalue()


def test_no_bar_on_what_is_no_terminal(body: ModelBody) -> None:
    stream = io.StringIO()
    assert taken(body, stream) == b"".join(body.chunks())
    assert stream.getvalue() == ""
    assert taken(body, None) == b"".join(body.chunks())


def test_no_bar_on_a_dumb_terminal(body: ModelBody, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    taken(body, terminal)
    assert terminal.getvalue() == ""


def test_no_bar_for_a_small_upload_unless_asked_for(terminal: Terminal) -> None:
    small = ModelBody.open(load_model())
    taken(small, terminal)
    assert terminal.getvalue() == ""
    taken(small, terminal, enabled=True)
    assert "acme/[model]" in terminal.getvalue()


def test_no_bar_when_switched_off(body: ModelBody, terminal: Terminal) -> None:
    assert taken(body, terminal, enabled=False) == b"".join(body.chunks())
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("enabled", [True, False])
def test_chunks_can_be_taken_again_from_the_beginning(body: ModelBody, terminal: Terminal, enabled: bool) -> None:
    with redirect_stderr(terminal), upload_progress(body, "model", enabled=enabled) as chunks:
        next(iter(chunks))
        assert b"".join(chunks) == b"".join(body.chunks())
    assert "2.0/1.0" not in terminal.getvalue()


def fail_after_one_chunk(body: ModelBody) -> None:
    with upload_progress(body, "model", enabled=True) as chunks:
        next(iter(chunks))
        raise ConnectionError


def test_bar_is_taken_down_when_the_upload_fails(body: ModelBody, terminal: Terminal) -> None:
    with redirect_stderr(terminal), pytest.raises(ConnectionError):
        fail_after_one_chunk(body)
    assert "model" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[?25h")  # the cursor is shown again


def test_chunks_are_passed_on_and_not_copied(body: ModelBody, terminal: Terminal) -> None:
    with redirect_stderr(terminal), upload_progress(body, "model", enabled=True) as chunks:
        assert all(isinstance(chunk, memoryview) for chunk in chunks)


def test_a_wait_is_said_on_a_terminal(terminal: Terminal) -> None:
    with redirect_stderr(terminal), waiting_progress("waiting for request-1"):
        pass
    assert "waiting for request-1" in terminal.getvalue()


@pytest.mark.parametrize("enabled", [None, False])
def test_a_wait_is_not_said_elsewhere(enabled: bool | None) -> None:
    with redirect_stderr(io.StringIO()) as stderr, waiting_progress("waiting for request-1", enabled=enabled):
        pass
    assert stderr.getvalue() == ""
