"""The attester of the simulated platform."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from blindai.attestation.anchors import Anchor
from blindai.attestation.evidence import TEE, Evidence
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.simulated.amd import DEFAULT_REPORT_VERSION, AmdFaults, SimulatedAmd
from blindai.attestation.simulated.amd_root import SimulatedAmdRoot
from blindai.attestation.simulated.intel import Faults, SimulatedIntel
from blindai.attestation.simulated.root import KeptRoot, SimulatedRoot

T = TypeVar("T")


class SimulatedAttester:
    """Attests the installed `blindai` package on a simulated platform.

    Args:
        tee: the TEE to simulate: TDX, SGX or SEV-SNP.
        root: the simulated root of its vendor; by default this installation's, made on first use.
        directory: where this installation's root is kept, if not in the user's data folder.
        measurements: registers to report in place of the package's own, to play other code.
        quote_version: 3 for SGX, 4 or 5 for TDX, 2, 3 or 5 for SEV-SNP.
        faults: what is wrong with the platform.

    Raises:
        ValueError: root or faults are those of another vendor's platform.
        ConfigurationError: `simulated.root`; the root cannot be read or written.
    """

    simulated = True
    quick = True

    def __init__(
        self,
        *,
        tee: TEE = TEE.INTEL_TDX,
        root: KeptRoot | None = None,
        directory: Path | None = None,
        measurements: Mapping[str, str] | None = None,
        quote_version: int | None = None,
        faults: Faults | AmdFaults | None = None,
    ) -> None:
        self.tee = tee
        registers = measure_package(tee=tee) if measurements is None else measurements
        self._platform: SimulatedIntel | SimulatedAmd
        if tee is TEE.AMD_SEV_SNP:
            self._platform = SimulatedAmd(
                _own(SimulatedAmdRoot, root) or SimulatedAmdRoot.load_or_create(directory),
                report_version=quote_version or DEFAULT_REPORT_VERSION,
                measurements=registers,
                faults=_own(AmdFaults, faults),
            )
        else:
            self._platform = SimulatedIntel(
                _own(SimulatedRoot, root) or SimulatedRoot.load_or_create(directory),
                tee=tee,
                quote_version=quote_version,
                measurements=registers,
                faults=_own(Faults, faults),
            )

    @property
    def anchor(self) -> Anchor:
        """The anchor that a policy must name to accept this platform."""
        return self._platform.anchor

    def attest(self, report_data: bytes) -> Evidence:
        """Have `report_data`, 64 bytes, signed. See `Attester.attest`."""
        return self._platform.attest(report_data)


def _own(kind: type[T], given: object) -> T | None:
    if given is not None and not isinstance(given, kind):
        raise ValueError(f"this platform takes {kind.__name__}, not {type(given).__name__}")
    return given
