"""Attestation results (RFC 9334, section 8.4): a list of checks and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from blindai.attestation.claims import Claims, DeviceClaims, Location
from blindai.errors import AttestationError


class Outcome(StrEnum):
    """A SKIP says that nothing was required; it never counts as a pass."""

    PASS = "PASS"
    FAIL = "FAIL"
    SKIP = "SKIP"


class Status(StrEnum):
    """The tier of the result, in the words of EAR (draft-ietf-rats-ear)."""

    AFFIRMING = "affirming"
    CONTRAINDICATED = "contraindicated"


class Mode(StrEnum):
    """How this connection was bound to the TEE: by a quote of its own, or by the key of a keyset verified recently."""

    FRESH = "fresh"
    RESUMED = "resumed"


# The steps in order, and how each is called on a screen. Every refusal names one of them.
STEPS: dict[str, str] = {
    "channel": "TLS 1.3, attestation answered",
    "evidence": "evidence well-formed",
    "endorsements": "root, certificates and collateral",
    "quote": "quote signature, up to its root",
    "binding": "bound to this connection, fresh",
    "platform": "platform allowed",
    "debug": "debug off, attributes strict",
    "tcb": "firmware and microcode (TCB)",
    "code": "code measurement",
    "hardware": "hardware measurement",
    "config": "measured configuration",
    "devices": "GPUs and switches",
}


class Range(msgspec.Struct, frozen=True):
    """Bytes of the evidence on which a check rests, for whoever wants to check by hand.

    Attributes:
        of: which part of the evidence, such as `quote`.
        start, end: from the first byte to the first behind it.
        use: what was done with them, such as `SHA-384, signed by the VCEK` or `compared`.
        value: the bytes, or what came of them, in lower-case hex where that is short.
    """

    of: str
    start: int
    end: int
    use: str
    value: str = ""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One check: its step, what was required and what was seen; `code` is set when it failed."""

    step: str
    name: str
    outcome: Outcome
    code: str = ""
    expected: str = ""
    got: str = ""
    ranges: tuple[Range, ...] = ()


class AttestationResult(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one piece of evidence, valid until `expires_at` (UTC) and for one connection only."""

    status: Status
    checks: tuple[Check, ...]
    mode: Mode
    policy_digest: str
    claims: Claims | None = None
    devices: tuple[DeviceClaims, ...] = ()
    code: str = ""
    step: str = ""
    expires_at: datetime | None = None
    keyset_digest: str = ""

    @property
    def simulated(self) -> bool:
        simulated = self.claims is not None and self.claims.simulated
        return simulated or any(device.simulated for device in self.devices)

    def tally(self) -> tuple[int, int]:
        """How many checks passed, of how many that were required (a SKIP is neither)."""
        required = [check for check in self.checks if check.outcome is not Outcome.SKIP]
        return sum(check.outcome is Outcome.PASS for check in required), len(required)

    def to_builtins(self) -> dict[str, Any]:
        """This result in the types of JSON: bytes as lower-case hex, times as RFC 3339 text; `simulated` is added."""
        plain: dict[str, Any] = msgspec.to_builtins(self, builtin_types=(bytes,))
        if self.claims is not None:
            plain["claims"]["report_data"] = self.claims.report_data.hex()
        for shown, device in zip(plain["devices"], self.devices, strict=True):
            shown["nonce"] = device.nonce.hex()
        return plain | {"simulated": self.simulated}

    def to_json(self) -> bytes:
        """`to_builtins`, encoded."""
        return msgspec.json.encode(self.to_builtins())

    def has_expired(self, now: datetime) -> bool:
        """Whether nothing may rely on this result at `now`; a refusal never was valid."""
        return self.expires_at is None or now >= self.expires_at

    def require_valid(self, now: datetime) -> None:
        """Raise unless this result still allows a request to be sent at `now`.

        Raises:
            AttestationError: `result.refused` or `result.expired`.
        """
        if self.status is not Status.AFFIRMING or self.expires_at is None:
            raise AttestationError("the attestation was refused", code="result.refused", step=self.step, result=self)
        if self.has_expired(now):
            raise AttestationError(
                "the attestation has expired",
                code="result.expired",
                step="binding",
                expected=f"a request before {self.expires_at:%Y-%m-%dT%H:%M:%SZ}",
                got=f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
                result=self,
            )


class OpenCheck:
    """A check that is being made; set `expected` and `got` as they become known."""

    def __init__(self, expected: str, *, within: str = "") -> None:
        self.expected = expected
        self.got = ""
        self.ranges: list[Range] = []
        self._within = within

    def uses(self, of: str, start: int, end: int, use: str, value: str = "") -> None:
        """Note bytes of the evidence on which this check rests (see `Range`)."""
        self.ranges.append(Range(self._within + of, start, end, use, value))

    def compares(self, claims: Claims, name: str, value: str = "") -> None:
        """Note that the claim `name` was compared, where its verifier said where it stands."""
        location: Location | None = claims.locations.get(name)
        if location is not None:
            self.uses(location.of, location.start, location.end, f"{name}, compared", value)


class Checklist:
    """Collects checks in order. The only place where a check is recorded."""

    def __init__(self) -> None:
        self._checks: list[Check] = []

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(self._checks)

    @contextmanager
    def check(self, step: str, *, expected: str = "", name: str = "", within: str = "") -> Iterator[OpenCheck]:
        """Record PASS when the block ends, FAIL when it raises `AttestationError` (which goes on).

        A step that is made several times, once per device, gives each time a `name` of its own, and in `within` where
        in the evidence the device's own stands.
        """
        opened = OpenCheck(expected, within=within)
        try:
            yield opened
        except AttestationError as error:
            error.step = error.step or step
            error.check = error.check or name or STEPS[step]
            opened.expected, opened.got = error.expected or opened.expected, error.got or opened.got
            self._add(step, Outcome.FAIL, error.code, opened, name)
            raise
        self._add(step, Outcome.PASS, "", opened, name)

    def adopt(self, checks: Iterable[Check], *, renamed: Mapping[str, str]) -> None:
        """Record checks that were made of a part of the evidence, whose own parts have other names in the whole."""
        for check in checks:
            ranges = tuple(msgspec.structs.replace(item, of=renamed.get(item.of, item.of)) for item in check.ranges)
            self._checks.append(msgspec.structs.replace(check, ranges=ranges))

    def skip(self, step: str, *, expected: str = "", got: str = "") -> None:
        """Record that nothing was required here."""
        skipped = OpenCheck(expected)
        skipped.got = got
        self._add(step, Outcome.SKIP, "", skipped)

    def skip_rest(self, reason: str) -> None:
        """Record every step that has not been reached as skipped."""
        reached = {check.step for check in self._checks}
        for step in STEPS:
            if step not in reached:
                self.skip(step, got=reason)

    def _add(self, step: str, outcome: Outcome, code: str, made: OpenCheck, name: str = "") -> None:
        self._checks.append(
            Check(
                step=step,
                name=name or STEPS[step],
                outcome=outcome,
                code=code,
                expected=made.expected,
                got=made.got,
                ranges=tuple(made.ranges),
            )
        )
