"""Processors behind the fake kernels."""

from __future__ import annotations

import pytest
from tests.attestation import simulation

from blindai.attestation.simulated.amd import SimulatedAmd
from blindai.attestation.simulated.amd_root import SimulatedAmdRoot
from blindai.attestation.simulated.intel import SimulatedIntel


@pytest.fixture(scope="session")
def amd_root() -> SimulatedAmdRoot:
    return SimulatedAmdRoot.generate()


@pytest.fixture(scope="session")
def milan(amd_root: SimulatedAmdRoot) -> SimulatedAmd:
    return SimulatedAmd(amd_root)


@pytest.fixture(scope="session")
def with_vlek(amd_root: SimulatedAmdRoot) -> SimulatedAmd:
    return SimulatedAmd(amd_root, signing_key="vlek")


@pytest.fixture
def tdx() -> SimulatedIntel:
    return simulation.healthy("tdx-v4")


@pytest.fixture
def sgx() -> SimulatedIntel:
    return simulation.healthy("sgx-v3")
