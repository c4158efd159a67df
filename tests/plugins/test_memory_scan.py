"""The search of another process's memory finds what is there, wherever it begins, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from memory_scan import _BLOCK_BYTES, NEEDLE_BYTES, halves, needles, scan

PROGRAM = """
import mmap, os
needle = bytearray(64)
os.readv(0, [needle])
held = mmap.mmap(-1, {size})
offset = {offset}
held[offset:offset + len(needle)] = needle
needle[:] = bytes(len(needle))
os.write(1, b"held\\n")
os.read(0, 1)
held[:] = bytes(len(held))
os.write(1, b"wiped\\n")
os.read(0, 1)
"""


@pytest.fixture
def secret() -> bytes:
    return os.urandom(64)


@pytest.fixture(params=[0, 1, 7, 4093, _BLOCK_BYTES - 20, _BLOCK_BYTES - 1])
def child(request: pytest.FixtureRequest, secret: bytes) -> Iterator[subprocess.Popen[bytes]]:
    program = PROGRAM.format(size=2 * _BLOCK_BYTES, offset=request.param)
    # A function bound at its first call is so by code that saves the vector registers on the stack, and what they hold.
    bound = {**os.environ, "LD_BIND_NOW": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=bound
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(secret)
        child.stdin.flush()
        assert child.stdout.readline() == b"held\n"
        yield child
        child.kill()


def test_a_secret_is_found_until_it_is_wiped(child: subprocess.Popen[bytes], secret: bytes) -> None:
    sought = {"secret": needles(secret, step=1), "another": needles(os.urandom(64)), "key": halves(secret)}
    found = scan(child.pid, sought)
    assert (found["secret"].needles, found["secret"].of) == (33, 33)
    assert found["secret"].where == {"/dev/zero (deleted)": 33}  # what shared anonymous memory is called
    assert found["key"].needles == 2
    assert (found["another"].needles, found["another"].where) == (0, {})
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"\n")
    child.stdin.flush()
    assert child.stdout.readline() == b"wiped\n"
    assert [hit.needles for hit in scan(child.pid, sought).values()] == [0, 0, 0]


def test_needles_cover_each_part_of_a_secret(secret: bytes) -> None:
    assert needles(secret * 2) == [secret[:NEEDLE_BYTES]] * 2
    assert len(needles(secret, step=32)) == 2
    assert needles(secret[: NEEDLE_BYTES - 1]) == []
    assert b"".join(halves(secret)) == secret
