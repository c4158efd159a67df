"""What a policy requires of Intel's firmware and microcode: section [tcb] of a manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from blindai.attestation.policy.manifest import Origin, Table, require_known, require_range

# Intel's names (Intel PCS API v4, "TCB Info", tcbStatus). Revoked is left out: no policy can allow it.
TCB_STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
)
OUT_OF_DATE_STATUSES = frozenset({"OutOfDate", "OutOfDateConfigurationNeeded"})
REVOKED = "Revoked"

MAX_GRACE_DAYS = 1826  # five years: a longer grace would be no limit
MAX_EVALUATION_DATA_NUMBER = 2**31 - 1  # Intel's data are at some twenty; this only refuses what cannot be meant

_ADVISORY = re.compile(r"[A-Z]+-[A-Z]+-[0-9]{4,5}")  # INTEL-SA-00615


@dataclass(frozen=True, kw_only=True)
class TcbPolicy:
    """What is required of firmware and microcode, where Intel judges them.

    Attributes:
        statuses: the TCB statuses that are accepted, by Intel's names.
        grace_days: for how long after its date an out-of-date TCB level is accepted, where `statuses` lists it.
        minimum_evaluation_data_number: the oldest edition of Intel's TCB data that may judge the platform.
        denied_advisories: security advisories that must not apply; all others are accepted.
    """

    statuses: tuple[str, ...] = ("UpToDate", "SWHardeningNeeded")
    grace_days: int = 0
    minimum_evaluation_data_number: int = 0
    denied_advisories: tuple[str, ...] = ()

    @classmethod
    def read(cls, manifest: Table) -> Self:
        """The section `[tcb]`.

        Raises:
            ConfigurationError: `policy.unknown_key` or `policy.type`.
        """
        table = manifest.section("tcb", cls.__dataclass_fields__)
        return cls(
            statuses=table.texts("statuses", cls.statuses),
            grace_days=table.get("grace_days", int, cls.grace_days),
            minimum_evaluation_data_number=table.get("minimum_evaluation_data_number", int, 0),
            denied_advisories=table.texts("denied_advisories", ()),
        )

    def require_valid(self, origin: Origin) -> None:
        """Refuse what no policy can mean.

        Raises:
            ConfigurationError: `policy.revoked`, `policy.missing_key`, `policy.unknown_value`, `policy.range` or
                `policy.grace`.
        """
        path = ("tcb", "statuses")
        if REVOKED in self.statuses:
            message = "a revoked platform cannot be allowed: its attestation keys may be in anyone's hands"
            raise origin.error((*path, self.statuses.index(REVOKED)), "revoked", message)
        if not self.statuses:
            raise origin.error(path, "missing_key", "'statuses' is empty, so that no platform could be accepted")
        require_known(self.statuses, TCB_STATUSES, "TCB status", origin, path)
        require_range(self.grace_days, MAX_GRACE_DAYS, "grace_days", origin, ("tcb", "grace_days"))
        listed = OUT_OF_DATE_STATUSES.intersection(self.statuses)
        if listed and not self.grace_days:
            message = f"{min(listed)} is only accepted for a time; set 'grace_days' as well"
            raise origin.error((*path, self.statuses.index(min(listed))), "grace", message)
        if self.grace_days and not listed:
            message = f"'grace_days' has no effect unless 'statuses' lists {' or '.join(sorted(OUT_OF_DATE_STATUSES))}"
            raise origin.error(("tcb", "grace_days"), "grace", message)
        number, key = self.minimum_evaluation_data_number, "minimum_evaluation_data_number"
        require_range(number, MAX_EVALUATION_DATA_NUMBER, key, origin, ("tcb", key))
        for index, advisory in enumerate(self.denied_advisories):
            if not _ADVISORY.fullmatch(advisory):
                message = f"{advisory!r} is not the name of an advisory, such as INTEL-SA-00615"
                raise origin.error(("tcb", "denied_advisories", index), "unknown_value", message)
