"""What a policy requires of GPUs and switches: section [gpus] of a manifest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from blindai.attestation.claims import DeviceClaims
from blindai.attestation.policy.manifest import Origin, Path, Table, require_hex, require_known, require_range

GPU_ARCHITECTURES = ("hopper", "blackwell")
ARCHITECTURES = (*GPU_ARCHITECTURES, "ls10")
MODES = ("single", "multi", "protected-pcie")

# The largest machines have 8 GPUs and 4 switches; this refuses what cannot be meant. The first time that a device is
# met, its certificates cost some four milliseconds: all of them together stay below a tenth of a second.
MAX_DEVICES = 24
MAX_INDEX = 0xFE  # the last index that SPDM gives to one measurement
MEASUREMENT_BYTES = 48  # SHA-384

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")


@dataclass(frozen=True, kw_only=True)
class GoldenMeasurements:
    """What one release of driver and VBIOS measures.

    Attributes:
        architecture: of the devices that it is for.
        vbios: version of the VBIOS, of a switch its BIOS, as in `DeviceClaims.firmware`.
        driver: version of the driver; empty for any, as a switch has none.
        measurements: by index, counted from 1 as SPDM does, the values of which each device must report one. Indices
            that are not named are not compared.
    """

    architecture: str
    vbios: str
    measurements: Mapping[int, tuple[str, ...]]
    driver: str = ""

    @classmethod
    def read(cls, table: Table) -> Self:
        """One table `[[gpus.golden]]`.

        Raises:
            ConfigurationError: `policy.unknown_key`, `policy.missing_key` or `policy.type`.
        """
        table.only(cls.__dataclass_fields__)
        indices = [str(index) for index in range(1, MAX_INDEX + 1)]
        values = table.section("measurements", indices)
        return cls(
            architecture=table.get("architecture", str),
            vbios=table.get("vbios", str),
            driver=table.get("driver", str, ""),
            measurements={
                int(index): tuple(value.lower() for value in values.texts(index))
                for index in indices
                if index in values
            },
        )

    def is_for(self, device: DeviceClaims) -> bool:
        """Whether it is this device's release that was measured."""
        same_driver = not self.driver or self.driver == device.driver
        return self.architecture == device.architecture and self.vbios == device.firmware and same_driver

    def deviations(self, device: DeviceClaims) -> list[int]:
        """The indices at which `device` reports something else, or nothing."""
        return [index for index, values in self.measurements.items() if device.measurements.get(index) not in values]


@dataclass(frozen=True, kw_only=True)
class GpuPolicy:
    """What is required of the GPUs and switches beside the processor.

    Attributes:
        count: how many GPUs there must be, no more and no less; None leaves it to `minimum`.
        minimum: how many GPUs there must be at least, where `count` is None; 0 takes any number, and none.
        switches: how many NVSwitches there must be, no more and no less.
        architectures: of GPUs, that are accepted.
        drivers: versions of the driver that are accepted; empty accepts all.
        vbios: versions of a GPU's VBIOS that are accepted; empty accepts all.
        modes: that are accepted, of devices that say theirs; empty accepts all.
        golden: measurements per release. Where there are any, each device must match one; without, none is compared.
    """

    count: int | None = None
    minimum: int | None = None
    switches: int = 0
    architectures: tuple[str, ...] = GPU_ARCHITECTURES
    drivers: tuple[str, ...] = ()
    vbios: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    golden: tuple[GoldenMeasurements, ...] = field(default=())

    @property
    def requires_some(self) -> bool:
        """Whether there must be a device at all."""
        return bool(self.count or self.minimum or self.switches)

    @classmethod
    def read(cls, manifest: Table) -> Self | None:
        """The section `[gpus]` with its tables `[[gpus.golden]]`; None where there is none: no device is accepted.

        Raises:
            ConfigurationError: `policy.unknown_key`, `policy.missing_key` or `policy.type`.
        """
        if "gpus" not in manifest:
            return None
        table = manifest.section("gpus", cls.__dataclass_fields__)
        return cls(
            count=table.get("count", int) if "count" in table else None,
            minimum=table.get("minimum", int) if "minimum" in table else None,
            switches=table.get("switches", int, 0),
            architectures=table.texts("architectures", cls.architectures),
            drivers=table.texts("drivers", ()),
            vbios=table.texts("vbios", ()),
            modes=table.texts("modes", ()),
            golden=tuple(map(GoldenMeasurements.read, table.tables("golden"))),
        )

    def require_valid(self, origin: Origin) -> None:
        """Refuse what no policy can mean.

        Raises:
            ConfigurationError: `policy.missing_key`, `policy.unknown_value`, `policy.hex`, `policy.range` or
                `policy.gpus`.
        """
        for key, number in (("count", self.count), ("minimum", self.minimum), ("switches", self.switches)):
            if number is not None:
                require_range(number, MAX_DEVICES, key, origin, ("gpus", key))
        if (self.count is None) is (self.minimum is None):
            message = "[gpus] needs either 'count', the number of GPUs, or 'minimum', the least of them"
            raise origin.error(("gpus", "count" if self.minimum is None else "minimum"), "gpus", message)
        if not self.architectures:
            message = "'architectures' is empty, so that no GPU could be accepted"
            raise origin.error(("gpus", "architectures"), "missing_key", message)
        path = ("gpus", "architectures")
        require_known(self.architectures, GPU_ARCHITECTURES, "architecture", origin, path)
        require_known(self.modes, MODES, "mode", origin, ("gpus", "modes"))
        for key, versions in (("drivers", self.drivers), ("vbios", self.vbios)):
            _require_versions(versions, origin, ("gpus", key))
        for index, golden in enumerate(self.golden):
            _require_golden(golden, origin, ("gpus", "golden", index))

    def to_toml(self) -> Iterator[str]:
        """The lines of the section."""
        yield "# The GPUs and switches beside the processor. Their freshness is proven, not that they share its box."
        yield "[gpus]"
        for key in ("count", "minimum", "switches"):
            if (number := getattr(self, key)) is not None:
                yield f"{key} = {number}"
        for key in ("architectures", "drivers", "vbios", "modes"):
            yield f"{key} = {_list(getattr(self, key))}"
        yield ""
        for golden in self.golden:
            yield "[[gpus.golden]]"
            yield f"architecture = {_string(golden.architecture)}"
            if golden.driver:
                yield f"driver = {_string(golden.driver)}"
            yield f"vbios = {_string(golden.vbios)}"
            yield "[gpus.golden.measurements]"
            yield from (f"{index} = {_list(values)}" for index, values in sorted(golden.measurements.items()))
            yield ""


def _require_golden(golden: GoldenMeasurements, origin: Origin, path: Path) -> None:
    require_known([golden.architecture], ARCHITECTURES, "architecture", origin, (*path, "architecture"))
    _require_versions([golden.vbios], origin, (*path, "vbios"))
    _require_versions([golden.driver] if golden.driver else [], origin, (*path, "driver"))
    if not golden.measurements:
        message = "[[gpus.golden]] names no measurement, so that nothing would be pinned"
        raise origin.error((*path, "measurements"), "missing_key", message)
    for index, values in golden.measurements.items():
        place = (*path, "measurements", str(index))
        if not values:
            raise origin.error(place, "missing_key", f"measurement {index} has no value that could be accepted")
        for position, value in enumerate(values):
            require_hex(value, (MEASUREMENT_BYTES,), str(index), origin, (*place, position))


def _require_versions(versions: Iterable[str], origin: Origin, path: Path) -> None:
    for index, version in enumerate(versions):
        if not _VERSION.fullmatch(version):
            message = f"{version!r} is not a version, such as 550.90.07 or 96.00.9F.00.01"
            raise origin.error((*path, index), "unknown_value", message)


def _list(values: Iterable[str]) -> str:
    return f"[{', '.join(map(_string, values))}]"


def _string(value: str) -> str:
    return f'"{value}"'  # a version, a name or hex: nothing in it needs an escape
