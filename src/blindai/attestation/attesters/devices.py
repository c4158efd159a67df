"""From the name of a kind of device to what attests them: GPUs and switches beside the processor."""

from __future__ import annotations

import re
from pathlib import Path

from blindai.attestation.anchors import Anchor
from blindai.attestation.attesters.attester import DeviceAttester
from blindai.attestation.attesters.nvidia import NvidiaAttester, NvmlMissing
from blindai.attestation.evidence import DeviceEvidence, DeviceKind
from blindai.attestation.policy.gpus import MAX_DEVICES
from blindai.attestation.simulated.nvidia import DeviceFaults, SimulatedDevice, SimulatedNvidiaRoot
from blindai.errors import ConfigurationError

_SIMULATED = re.compile(r"simulated(?::([0-9]{1,2}))?")


class SimulatedDeviceAttester:
    """Attests simulated GPUs and switches.

    Args:
        count: how many GPUs.
        switches: how many switches.
        root: the simulated root; by default this installation's, made on first use.
        directory: where this installation's root is kept, if not in the user's data folder.
        faults: what is wrong with the first GPU.

    Raises:
        ConfigurationError: `simulated.root`; the root cannot be read or written.
    """

    simulated = True
    quick = True

    def __init__(
        self,
        *,
        count: int = 1,
        switches: int = 0,
        root: SimulatedNvidiaRoot | None = None,
        directory: Path | None = None,
        faults: DeviceFaults | None = None,
    ) -> None:
        root = root or SimulatedNvidiaRoot.load_or_create(directory)
        self.devices = [
            SimulatedDevice(root, number=number, faults=faults if number == 1 else None)
            for number in range(1, count + 1)
        ]
        self.devices += [
            SimulatedDevice(root, kind=DeviceKind.NVIDIA_SWITCH, number=number) for number in range(1, switches + 1)
        ]
        self.anchor: Anchor = root.anchor

    def attest(self, nonce: bytes) -> tuple[DeviceEvidence, ...]:
        """Have `nonce`, 32 bytes, signed by every device. See `DeviceAttester.attest`."""
        return tuple(device.attest(nonce) for device in self.devices)


def open_devices(name: str) -> DeviceAttester | None:
    """What attests the devices beside the processor.

    Args:
        name: `none`; `nvidia`, NVIDIA's GPUs through their driver; `auto`, the same where there are any in
            confidential mode; `simulated` or `simulated:N`, N simulated GPUs.

    Raises:
        ConfigurationError: `attester.unknown_devices`; `simulated.root`; for `nvidia`, what `NvidiaAttester` raises.
    """
    if name == "none":
        return None
    if name == "nvidia":
        return NvidiaAttester.open()
    if name == "auto":
        try:
            return NvidiaAttester.open()
        except NvmlMissing:
            return None
    match = _SIMULATED.fullmatch(name)
    if match is None or not 1 <= int(match[1] or 1) <= MAX_DEVICES:
        raise ConfigurationError(
            f"there are no devices of this kind: {name!r}",
            code="attester.unknown_devices",
            hint=f"choose one of none, auto, nvidia, simulated, simulated:2 (at most {MAX_DEVICES})",
        )
    return SimulatedDeviceAttester(count=int(match[1] or 1))
