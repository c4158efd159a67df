"""The policy for this very installation: its own code, on its own simulated platform."""

from __future__ import annotations

from pathlib import Path

from blindai.attestation.anchors import Vendor
from blindai.attestation.measure.simulated import measure_package
from blindai.attestation.policy import Policy
from blindai.attestation.simulated.amd_root import SimulatedAmdRoot
from blindai.attestation.simulated.nvidia import SimulatedNvidiaRoot
from blindai.attestation.simulated.root import SimulatedRoot


def local_policy(directory: Path | None = None) -> Policy:
    """What `simulation=True` accepts and `blindai measure` writes.

    The root of the simulated AMD platform takes a while to make: it is among them once such a platform was started.

    Args:
        directory: where this installation's simulated root is kept, if not in the user's data folder.

    Raises:
        ConfigurationError: `simulated.root`, the root cannot be read or written.
    """
    import blindai

    roots = {Vendor.INTEL: SimulatedRoot.load_or_create(directory).anchor.spki_sha256}
    amd = SimulatedAmdRoot.load(directory)
    if amd is not None:
        roots[Vendor.AMD] = amd.anchor.spki_sha256
    gpus = SimulatedNvidiaRoot.load(directory)
    if gpus is not None:
        roots[Vendor.NVIDIA] = gpus.anchor.spki_sha256
    return Policy.simulated(roots, measure_package(), name=f"blindai {blindai.__version__}")
