"""Verifiers are functions of their arguments: they open no file, no socket and no process.

Import-linter keeps the modules for that out of the verifiers' own imports; here the interpreter itself is asked, so
that what they call is held to it too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.attestation import azure, simulation, snp

from blindai.attestation.anchors import Anchor
from blindai.attestation.evidence import TEE, Evidence
from blindai.attestation.result import Checklist
from blindai.attestation.verifiers import verify

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


EVIDENCE: dict[str, tuple[Evidence, tuple[Anchor, ...]]] = {
    "intel-sgx": (simulation.good("sgx-v3"), (simulation.anchor(),)),
    "intel-tdx": (simulation.good("tdx-v4"), (simulation.anchor(),)),
    "amd-sev-snp": (snp.good(), (snp.anchor(),)),
    "azure-sev-snp": (azure.good(TEE.AZURE_SEV_SNP), azure.anchors()),
    "azure-tdx": (azure.good(TEE.AZURE_TDX), azure.anchors()),
}


@pytest.mark.parametrize("name", EVIDENCE)
def test_nothing_outside_is_touched(name: str) -> None:
    evidence, anchors = EVIDENCE[name]
    verify(evidence, anchors=anchors, now=simulation.NOW, checks=Checklist())  # whatever is imported lazily is, now
    with listening() as seen:
        verify(evidence, anchors=anchors, now=simulation.NOW, checks=Checklist())
    assert seen == []


def test_the_hook_hears() -> None:
    with listening() as seen, open("/dev/null", "rb"):  # noqa: PTH123  # the plain function is what the hook names
        pass
    assert any(event.startswith("open") for event in seen)
