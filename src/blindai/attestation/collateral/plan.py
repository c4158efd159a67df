"""What must be fetched for one platform, and how endorsements are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

import msgspec

from blindai.attestation.collateral.document import Document, Entry
from blindai.attestation.evidence import AmdEndorsements, Evidence, IntelCollateral


class Endorsements(msgspec.Struct, frozen=True, kw_only=True):
    """What goes beside the evidence of one platform.

    Attributes:
        subject: of which platform, as `Plan.subject`.
        not_after: until when all of it is valid.
    """

    subject: tuple[object, ...]
    not_after: datetime
    intel: IntelCollateral | None = None
    amd: AmdEndorsements | None = None

    def beside(self, evidence: Evidence) -> Evidence:
        """`evidence` with these endorsements."""
        return msgspec.structs.replace(
            evidence, intel_collateral=self.intel or evidence.intel_collateral, amd=self.amd or evidence.amd
        )


class Plan(Protocol):
    """The documents that endorse one platform."""

    @property
    def platform(self) -> str:
        """How messages call the platform."""

    @property
    def documents(self) -> tuple[Document, ...]: ...

    def assemble(self, entries: Mapping[str, Entry]) -> Endorsements:
        """Put the entries, one for each document by its name, together.

        Raises:
            AttestationError: step `endorsements`; they do not belong together, or to this platform.
        """
