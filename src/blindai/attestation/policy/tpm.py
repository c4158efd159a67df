"""What a policy requires of TPMs: section [tpm] of a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from blindai.attestation.anchors import Anchor, Vendor
from blindai.attestation.policy.manifest import Origin, Table, require_hex

DIGEST_BYTES = 32  # SHA-256

_SHOWN_DIGITS = 8  # of a root's fingerprint, to tell the roots of a policy apart by eye


@dataclass(frozen=True, kw_only=True)
class TpmPolicy:
    """What is required of a TPM that stands alone; that of an Azure machine is vouched for by the processor.

    Attributes:
        roots: SHA-256 of the SubjectPublicKeyInfo of the makers' roots that may vouch for endorsement keys. There is
            no list that all makers share, so none is built in.
    """

    roots: tuple[str, ...] = ()

    @classmethod
    def read(cls, manifest: Table) -> Self:
        """The section `[tpm]`.

        Raises:
            ConfigurationError: `policy.unknown_key` or `policy.type`.
        """
        table = manifest.section("tpm", cls.__dataclass_fields__)
        return cls(roots=tuple(root.lower() for root in table.texts("roots", ())))

    def require_valid(self, origin: Origin) -> None:
        """Refuse a root that is no fingerprint.

        Raises:
            ConfigurationError: `policy.hex` or `policy.length`.
        """
        for index, root in enumerate(self.roots):
            require_hex(root, (DIGEST_BYTES,), "roots", origin, ("tpm", "roots", index))

    def anchors(self) -> tuple[Anchor, ...]:
        """The roots as trust anchors."""
        return tuple(Anchor(f"TPM root {root[:_SHOWN_DIGITS]}", Vendor.TPM, root) for root in self.roots)
