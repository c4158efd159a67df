"""Simulated SEV-SNP evidence, good and tampered with, at a fixed time.

The keys of its root are in the repository, as they take a second to make. They protect nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from tests.attestation import simulation

from blindai.attestation.anchors import Anchor
from blindai.attestation.claims import Claims
from blindai.attestation.evidence import AmdEndorsements, Evidence
from blindai.attestation.simulated import amd_report
from blindai.attestation.simulated.amd import AmdFaults, SimulatedAmd
from blindai.attestation.simulated.amd_root import SimulatedAmdRoot
from blindai.errors import AttestationError

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
ROOT_FILE = Path(__file__).parents[1] / "plugins" / "simulated_amd_root.pem"

PRODUCTS = ("Milan", "Genoa", "Turin")
KINDS = [(product, version, key) for product in PRODUCTS for version in (2, 3, 5) for key in ("vcek", "vlek")]


@cache
def root() -> SimulatedAmdRoot:
    return SimulatedAmdRoot.from_pem(ROOT_FILE.read_bytes())


def anchor() -> Anchor:
    return root().anchor


def platform(**options: Any) -> SimulatedAmd:
    """A platform of its own; keyword arguments that it does not know are faults."""
    known = ("product", "report_version", "signing_key", "measurements", "guest_svn", "clock")
    faults = {name: value for name, value in options.items() if name not in known}
    own = {name: value for name, value in options.items() if name in known}
    return SimulatedAmd(root(), faults=AmdFaults(**faults), **{"clock": lambda: NOW, **own})


def healthy(product: str = "Milan", report_version: int = 3, signing_key: str = "vcek") -> SimulatedAmd:
    """One platform of each kind for all tests that leave it as it is."""
    return _healthy(product, report_version, signing_key)


@cache
def _healthy(product: str, report_version: int, signing_key: str) -> SimulatedAmd:
    return platform(product=product, report_version=report_version, signing_key=signing_key)


def good(*kind: Any) -> Evidence:
    return healthy(*kind).attest(REPORT_DATA)


def endorsements_of(evidence: Evidence) -> AmdEndorsements:
    assert evidence.amd is not None
    return evidence.amd


def with_endorsements(evidence: Evidence, **fields: Any) -> Evidence:
    """`evidence` with some of its endorsements replaced."""
    return msgspec.structs.replace(evidence, amd=msgspec.structs.replace(endorsements_of(evidence), **fields))


def with_report(evidence: Evidence, report: bytes) -> Evidence:
    return msgspec.structs.replace(evidence, quote=report)


def resigned(source: SimulatedAmd, changes: dict[int, bytes]) -> Evidence:
    """Evidence whose report was changed at these offsets and then signed anew, as the firmware could have done."""
    evidence = source.attest(REPORT_DATA)
    signed = bytearray(evidence.quote[:0x2A0])
    for at, value in changes.items():
        signed[at : at + len(value)] = value
    return with_report(evidence, amd_report.sign(source._key, bytes(signed)))


def accepted(evidence: Evidence, *, now: datetime = NOW) -> Claims:
    return simulation.accepted(evidence, anchors=(anchor(),), now=now)


def refused(evidence: Evidence, *, now: datetime = NOW, anchors: tuple[Anchor, ...] | None = None) -> AttestationError:
    return simulation.refused(evidence, anchors=(anchor(),) if anchors is None else anchors, now=now)


def step_and_code(evidence: Evidence, **options: Any) -> tuple[str, str]:
    error = refused(evidence, **options)
    return error.step, error.code
