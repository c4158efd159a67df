"""What a policy requires of AMD's processors: section [amd] of a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from blindai.attestation.policy.manifest import Origin, Table, require_known, require_range

_PARTS = ("boot_loader", "tee", "snp", "microcode")
# Each product line, and the parts of its firmware that have a security version (AMD 57230, "TCB_VERSION").
PRODUCT_PARTS: dict[str, tuple[str, ...]] = {"Milan": _PARTS, "Genoa": _PARTS, "Turin": ("fmc", *_PARTS)}
SIGNING_KEYS = ("vcek", "vlek")

MAX_PART_VERSION = 0xFF  # each part has one byte of TCB_VERSION


@dataclass(frozen=True, kw_only=True)
class AmdPolicy:
    """What is required of AMD's processors, their firmware and what vouches for them.

    Attributes:
        products: the product lines that are accepted.
        keys: the kinds of key that may sign a report: `vcek` belongs to one chip, `vlek` to a cloud's whole fleet.
        require_crl: AMD's revocation list must travel with the evidence.
        minimum_tcb: by product line and part of the firmware, the lowest security version that is accepted. Parts
            that are not named are not checked.
    """

    products: tuple[str, ...] = tuple(PRODUCT_PARTS)
    keys: tuple[str, ...] = SIGNING_KEYS
    require_crl: bool = True
    minimum_tcb: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def read(cls, manifest: Table) -> Self:
        """The section `[amd]` with its tables `[amd.minimum_tcb.PRODUCT]`.

        Raises:
            ConfigurationError: `policy.unknown_key` or `policy.type`.
        """
        table = manifest.section("amd", cls.__dataclass_fields__)
        floors = table.section("minimum_tcb", PRODUCT_PARTS)
        return cls(
            products=table.texts("products", cls.products),
            keys=table.texts("keys", cls.keys),
            require_crl=table.get("require_crl", bool, cls.require_crl),
            minimum_tcb={
                product: _floor(floors, product, parts) for product, parts in PRODUCT_PARTS.items() if product in floors
            },
        )

    def require_valid(self, origin: Origin) -> None:
        """Refuse what no policy can mean.

        Raises:
            ConfigurationError: `policy.missing_key`, `policy.unknown_value`, `policy.unknown_key` or `policy.range`.
        """
        for key, noun, given, known in (
            ("products", "product line", self.products, tuple(PRODUCT_PARTS)),
            ("keys", "kind of key", self.keys, SIGNING_KEYS),
        ):
            if not given:
                message = f"{key!r} is empty, so that no processor of AMD could be accepted"
                raise origin.error(("amd", key), "missing_key", message)
            require_known(given, known, noun, origin, ("amd", key))
        for product, floor in self.minimum_tcb.items():
            path = ("amd", "minimum_tcb", product)
            if product not in self.products:
                message = f"{product!r} has a lowest TCB, but is not among 'products'"
                raise origin.error(path, "unknown_value", message)
            for part, version in floor.items():
                if part not in PRODUCT_PARTS[product]:
                    raise origin.error(
                        (*path, part), "unknown_key", f"{product} has no firmware of this name: {part!r}"
                    )
                require_range(version, MAX_PART_VERSION, part, origin, (*path, part))


def _floor(floors: Table, product: str, parts: tuple[str, ...]) -> dict[str, int]:
    table = floors.section(product, parts)
    return {part: table.get(part, int) for part in parts if part in table}
