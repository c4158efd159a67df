"""The attester of the simulated platform."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from blindai.attestation.anchors import Anchor
from blindai.attestation.evidence import TEE, Evidence
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.simulated.intel import Faults, SimulatedIntel
from blindai.attestation.simulated.root import SimulatedRoot


class SimulatedAttester:
    """Attests the installed `blindai` package on a simulated Intel platform.

    Args:
        tee: the TEE to simulate.
        root: the simulated root; by default this installation's, made on first use.
        directory: where this installation's root is kept, if not in the user's data folder.
        measurements: registers to report in place of the package's own, to play other code.
        quote_version: 3 for SGX, 4 or 5 for TDX.
        faults: what is wrong with the platform.

    Raises:
        ConfigurationError: `simulated.root`; the root cannot be read or written.
    """

    simulated = True
    quick = True

    def __init__(
        self,
        *,
        tee: TEE = TEE.INTEL_TDX,
        root: SimulatedRoot | None = None,
        directory: Path | None = None,
        measurements: Mapping[str, str] | None = None,
        quote_version: int | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.tee = tee
        self._platform = SimulatedIntel(
            root or SimulatedRoot.load_or_create(directory),
            tee=tee,
            quote_version=quote_version,
            measurements=measure_package(tee=tee) if measurements is None else measurements,
            faults=faults,
        )

    @property
    def anchor(self) -> Anchor:
        """The anchor that a policy must name to accept this platform."""
        return self._platform.anchor

    def attest(self, report_data: bytes) -> Evidence:
        """Have `report_data`, 64 bytes, signed. See `Attester.attest`."""
        return self._platform.attest(report_data)
