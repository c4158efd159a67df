"""The property of fuzz_v2.py under Hypothesis, so that it is tried in every run of the suite."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def _load() -> ModuleType:
    path = Path(__file__).with_name("fuzz_v2.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz_v2 = _load()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A seed with some of its bytes replaced, dropped or inserted."""
    data = bytearray(draw(st.sampled_from(fuzz_v2.SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        fragment = draw(
            st.binary(max_size=2) | st.sampled_from([b"-1", b"1e999", b"NaN", b"null", b"[", b'""', b"BYTES"])
        )
        data[start : start + draw(st.integers(0, 3))] = fragment
    return bytes(draw(st.sampled_from([b"\x00", b"\x01", b"\xc8"])) + data)


@settings(max_examples=500)
@given(damaged())
def test_a_damaged_message_is_refused_or_comes_back_unchanged(data: bytes) -> None:
    fuzz_v2.check(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_come_back_unchanged(data: bytes) -> None:
    fuzz_v2.check(data)


@pytest.mark.parametrize("seed", fuzz_v2.SEEDS)
def test_the_seeds_reach_beyond_the_json_parser(seed: bytes) -> None:
    body, header_length = fuzz_v2.split(b"\x01" + seed)
    assert header_length is not None
    assert body == seed
    assert 0 < header_length <= len(seed)
    fuzz_v2.check(b"\x01" + seed)
