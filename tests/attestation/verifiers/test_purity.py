"""Verifiers are functions of their arguments: they open no file, no socket and no process.

Import-linter keeps the modules for that out of the verifiers' own imports; here the interpreter itself is asked, so
that what they call is held to it too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.attestation import azure, simulation, snp, tpm

from blindai.attestation.anchors import Anchor
from blindai.attestation.evidence import TEE, Activation, Evidence
from blindai.attestation.result import Checklist, OpenCheck
from blindai.attestation.simulated.nvidia import SimulatedDevice, SimulatedNvidiaRoot
from blindai.attestation.verifiers import verify
from blindai.attestation.verifiers.nvidia import verify_device

Judge = Callable[[], object]

OUTSIDE = ("open", "os.", "socket.", "subprocess.", "urllib.", "http.", "shutil.", "tempfile.")

_seen: list[str] | None = None


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _seen is not None and event.startswith(OUTSIDE):
        _seen.append(f"{event} {arguments}")


# An audit hook cannot be removed (PEP 578), so that it is added once and listens only when asked to.
sys.addaudithook(_hook)


@contextmanager
def listening() -> Iterator[list[str]]:
    global _seen  # noqa: PLW0603  # the hook has no other way to know
    found: list[str] = []
    _seen = found
    try:
        yield found
    finally:
        _seen = None


def of_processor(evidence: Evidence, anchors: tuple[Anchor, ...], activation: Activation | None = None) -> Judge:
    return lambda: verify(evidence, anchors=anchors, now=simulation.NOW, checks=Checklist(), activation=activation)


def of_device() -> Judge:
    root = SimulatedNvidiaRoot.generate(simulation.NOW)
    evidence = SimulatedDevice(root, now=simulation.NOW).attest(bytes(32))
    return lambda: verify_device(evidence, anchors=(root.anchor,), now=simulation.NOW, check=OpenCheck(""))


JUDGES: dict[str, Judge] = {
    "intel-sgx": of_processor(simulation.good("sgx-v3"), (simulation.anchor(),)),
    "intel-tdx": of_processor(simulation.good("tdx-v4"), (simulation.anchor(),)),
    "amd-sev-snp": of_processor(snp.good(), (snp.anchor(),)),
    "azure-sev-snp": of_processor(azure.good(TEE.AZURE_SEV_SNP), azure.anchors()),
    "azure-tdx": of_processor(azure.good(TEE.AZURE_TDX), azure.anchors()),
    "tpm": of_processor(tpm.good(), (tpm.root().anchor,), tpm.activation()),
    "nvidia-gpu": of_device(),
}


def test_every_tee_is_among_them() -> None:
    assert set(TEE) <= JUDGES.keys()


@pytest.mark.parametrize("name", JUDGES)
def test_nothing_outside_is_touched(name: str) -> None:
    judge = JUDGES[name]
    judge()  # whatever is imported lazily is imported now
    with listening() as seen:
        judge()
    assert seen == []


def test_the_hook_hears() -> None:
    with listening() as seen, open("/dev/null", "rb"):  # noqa: PTH123  # the plain function is what the hook names
        pass
    assert any(event.startswith("open") for event in seen)
