"""A real enclave in a process of its own, and the ways to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from blindai import Connection
from blindai.demo.enclaves import served
from proxy_process import ProxyProcess


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where an enclave of the simulated platform serves."""
    with served() as address:
        yield address


@pytest.fixture(scope="module")
def connection(address: str) -> Iterator[Connection]:
    """The SDK's client for it."""
    with Connection(address, simulation=True, progress=False) as connection:
        yield connection


@pytest.fixture(scope="module")
def proxy(address: str) -> Iterator[ProxyProcess]:
    """A plain port to it, without a token."""
    with ProxyProcess(address) as proxy:
        yield proxy
