"""The page of enclaves: the verdict as it is, and what it is worth."""

from __future__ import annotations

import pytest

from blindai.attestation.evidence import TEE
from blindai.cloud.console.fleet import PLATFORMS
from cloud_scene import CloudScene
from console_world import Person

PAGE = "/accounts/alice/enclaves"


def test_every_check_with_what_was_expected_and_got(alice: Person, small_scene: CloudScene) -> None:
    assert "No enclave is there at this moment" in alice.get(PAGE).words
    enclave = small_scene.played("https://enclave.test:9443")
    enclave.report(first=True)
    words = alice.get(PAGE).words
    (view,) = small_scene.plane.fleet.instances()
    checks = view.verdict["checks"]
    required = [check for check in checks if check["outcome"] != "SKIP"]
    assert f"Attested {len(required)} of {len(required)} required checks" in words
    for check in checks:
        assert f"{check['outcome']} {check['name']}" in words
        for told in ("expected", "got"):
            assert not check.get(told) or f"{told} {' '.join(check[told].split())}" in words
    assert "Platform Intel TDX, simulated" in words
    assert "SIMULATED. This is a program that plays an enclave" in words
    assert "This page proves nothing by itself." in words
    assert "blindai verify https://enclave.test:9443 --explain --simulation" in words
    assert "your models" in words
    assert enclave.id in words


def test_enclaves_of_before_are_told_apart(alice: Person, small_scene: CloudScene) -> None:
    first = small_scene.played("https://enclave.test:9443")
    first.report(first=True)
    second = small_scene.played("https://enclave.test:9443")
    second.report(first=True)
    answer = alice.get(PAGE)
    assert "1 that were there before" in answer.words
    assert answer.text.index(second.id) < answer.text.index("there before") < answer.text.index(first.id)
    assert answer.words.count("Verify it yourself") == 1


@pytest.mark.parametrize("tee", list(TEE))
def test_every_platform_has_a_name_for_people(tee: TEE) -> None:
    assert PLATFORMS[tee]
