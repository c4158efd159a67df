"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

MAX_BYTES_IN_NAME = 24

CHECKOUT = Path(__file__).resolve().parents[1]


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A test is called the same in every process: keys and signatures, which are random, do not go into its name."""
    if isinstance(val, bytes) and len(val) > MAX_BYTES_IN_NAME:
        return f"{argname} of {len(val)} bytes"
    return None


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """A test that sets up the log, as `serve` does, sets it up for itself alone."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of evidence from real hardware: `BLINDAI_VECTORS`, else `../shared/vectors`.

    It is no part of the project. Where it is missing, the tests that need it fail: a run without it has not shown
    that genuine hardware is accepted.
    """
    folder = Path(os.environ.get("BLINDAI_VECTORS") or CHECKOUT.parent / "shared" / "vectors")
    if not (folder / "README.md").is_file():
        pytest.fail(f"no evidence from real hardware in {folder}: set BLINDAI_VECTORS to the folder that holds it")
    return folder
