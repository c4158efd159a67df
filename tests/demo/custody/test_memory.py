from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from blindai.demo.custody import memory
from blindai.demo.patients import load_model

# The bytes are made in the process itself, twice: its source, which is in its memory too, does not hold them.
HOLDER = """\
import sys
held = bytes(i ^ 0x5A for i in range(64))
print(len(held), flush=True)
sys.stdin.read()
"""

HELD = bytes(i ^ 0x5A for i in range(64))


@pytest.fixture
def holder() -> Iterator[int]:
    """A process that holds `HELD`; its id."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "64\n"
        yield process.pid
        process.kill()


def test_what_a_process_holds_is_found(holder: int) -> None:
    assert memory.occurrences(holder, [HELD]) >= 1
    assert memory.occurrences(holder, [HELD[:32], HELD[32:]]) >= 2


def test_what_a_process_does_not_hold_is_not_found(holder: int) -> None:
    assert memory.occurrences(holder, [HELD[::-1]]) == 0


def test_what_lies_across_two_blocks_is_found_once(holder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = memory.occurrences(holder, [HELD])
    # Blocks so small that the bytes cannot lie within one.
    monkeypatch.setattr(memory, "_BLOCK_BYTES", 4096 + 48)
    assert memory.occurrences(holder, [HELD]) == expected


def test_a_process_that_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    with pytest.raises(FileNotFoundError):
        memory.occurrences(process.pid, [HELD])


def test_the_weights_of_the_demo_in_the_file_and_in_memory() -> None:
    model = load_model()
    windows = memory.weights(model)
    in_the_file = [window for window in windows if window in model]
    # Offsets and scales of 30 features, two rows of coefficients: as 5 bytes each in the file, as 4 in memory.
    assert len(in_the_file) == 2 * (30 * 5 // 32) + 60 * 5 // 32
    assert len(windows) - len(in_the_file) == 2 * (30 * 4 // 32) + 60 * 4 // 32
    assert {len(window) for window in windows} == {memory.WINDOW_BYTES}
