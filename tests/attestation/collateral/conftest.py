from __future__ import annotations

from collections.abc import Iterator

import pytest

from blindai.attestation.evidence import TEE
from blindai.attestation.simulated.amd import SimulatedAmd
from blindai.attestation.simulated.amd_root import SimulatedAmdRoot
from blindai.attestation.simulated.intel import SimulatedIntel
from blindai.attestation.simulated.root import SimulatedRoot
from collateral_services import Service, kds, pccs, serving
from collateral_world import START, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def intel_root() -> SimulatedRoot:
    return SimulatedRoot.generate(START)


@pytest.fixture(scope="session")
def amd_root() -> SimulatedAmdRoot:
    return SimulatedAmdRoot.generate()


@pytest.fixture
def tdx(world: World, intel_root: SimulatedRoot) -> SimulatedIntel:
    return SimulatedIntel(intel_root, tee=TEE.INTEL_TDX, clock=world.clock)


@pytest.fixture
def snp(world: World, amd_root: SimulatedAmdRoot) -> SimulatedAmd:
    return SimulatedAmd(amd_root, clock=world.clock)


@pytest.fixture
def intel_service(tdx: SimulatedIntel) -> Iterator[Service]:
    with serving(pccs(tdx)) as service:
        yield service


@pytest.fixture
def amd_service(snp: SimulatedAmd) -> Iterator[Service]:
    with serving(kds(snp)) as service:
        yield service
