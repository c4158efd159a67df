"""A real enclave in a process of its own, and the ways to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from attested_forwarder import AttestedForwarder
from blindai import Connection
from blindai.attestation.measure.local import local_policy
from blindai.demo.enclaves import served


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
def forwarder(address: str) -> Iterator[AttestedForwarder]:
    """A plain port to it."""
    with AttestedForwarder(address, local_policy()) as forwarder:
        yield forwarder
