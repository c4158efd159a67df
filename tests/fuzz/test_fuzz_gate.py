"""The property of fuzz_gate.py under Hypothesis, so that it is tried in every run of the suite."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindai.channel.server import AttestedProtocol
from blindai.channel.statement import Statement


def _load() -> ModuleType:
    path = Path(__file__).with_name("fuzz_gate.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz_gate = _load()


@pytest.fixture(scope="module", autouse=True)
def _world() -> Iterator[None]:
    yield
    fuzz_gate.world().runner.close()
    fuzz_gate.world.cache_clear()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A seed with some of its bytes replaced, dropped or inserted."""
    data = bytearray(draw(st.sampled_from(fuzz_gate.world().seeds)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(1, len(data)))
        fragment = draw(
            st.binary(max_size=3)
            | st.sampled_from([b"\r\n", b"\r\n\r\n", b"null", b"1e400", b"[" * 2000, b'""', b"\xff", b'"v":2,'])
        )
        data[start : start + draw(st.integers(0, 3))] = fragment
    return bytes(data)


@settings(max_examples=300, deadline=None)
@given(damaged())
def test_a_damaged_message_opens_nothing_and_gets_nothing(data: bytes) -> None:
    fuzz_gate.check(data)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 4), st.binary(max_size=400))
def test_any_bytes_open_nothing_and_get_nothing(where: int, data: bytes) -> None:
    fuzz_gate.check(bytes([where]) + data)


def test_seeds() -> None:
    for seed in fuzz_gate.world().seeds:
        fuzz_gate.check(seed)


def test_a_server_without_a_gate_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AttestedProtocol, "_gate_received", lambda self, plaintext: self._open())
    with pytest.raises(AssertionError, match="got past the gate"):
        fuzz_gate.check(bytes([fuzz_gate.TLS_TO_SERVER]) + fuzz_gate.APPLICATION)


def test_a_client_without_a_binding_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Statement, "_tagged", lambda self, domain: domain.encode())
    genuine = next(
        seed for seed in fuzz_gate.World.seeds.func(fuzz_gate.world()) if seed[0] == fuzz_gate.BODY_TO_CLIENT
    )
    with pytest.raises(AssertionError, match="a peer was accepted"):
        fuzz_gate.check(genuine)
