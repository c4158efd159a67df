"""One control plane for the tests of a module, each with accounts and an enclave of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from cloud_scene import CloudScene, PlayedEnclave, Tenant

_NUMBERS = itertools.count()


@pytest.fixture
def scene(module_scene: CloudScene) -> Iterator[CloudScene]:
    yield module_scene
    module_scene.clock.shift = 0.0


@pytest.fixture
def tenant(scene: CloudScene) -> Tenant:
    return scene.tenant(f"tenant-{next(_NUMBERS)}")


@pytest.fixture
def other(scene: CloudScene) -> Tenant:
    return scene.tenant(f"tenant-{next(_NUMBERS)}")


@pytest.fixture
def enclave(scene: CloudScene) -> PlayedEnclave:
    return scene.played(f"https://enclave-{next(_NUMBERS)}.test:9443")
