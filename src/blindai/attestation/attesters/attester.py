"""What the enclave needs from the TEE it runs in."""

from __future__ import annotations

from typing import Protocol

from blindai.attestation.evidence import TEE, Evidence


class Attester(Protocol):
    """Makes evidence about the code that calls it.

    Attributes:
        tee: the TEE that signs.
        simulated: no hardware stands behind the evidence. Whoever shows the evidence must say so.
        quick: `attest` takes microseconds and waits for nothing, so an event loop may call it directly.
    """

    @property
    def tee(self) -> TEE: ...

    @property
    def simulated(self) -> bool: ...

    @property
    def quick(self) -> bool: ...

    def attest(self, report_data: bytes) -> Evidence:
        """Have `report_data`, exactly 64 bytes, signed by the TEE; endorsements come with it.

        Raises:
            ValueError: `report_data` is not 64 bytes.
        """
