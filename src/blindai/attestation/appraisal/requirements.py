"""What a policy requires of claims that a verifier vouches for: the steps of an appraisal from `binding` on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from blindai.attestation.anchors import AMD_TEES
from blindai.attestation.appraisal import tcb
from blindai.attestation.claims import FLAGS, PROTECTIVE_FLAGS, Claims
from blindai.attestation.evidence import TEE
from blindai.attestation.policy import Policy
from blindai.attestation.policy.reference_values import HARDWARE_FORMS, NOT_REPORTED, Deviation, HardwareReference
from blindai.attestation.result import STEPS, OpenCheck
from blindai.errors import AttestationError

# Attributes whose refusal has a code of its own, with what to look at first in front.
_ATTRIBUTE_CODES = {"migratable": "platform.migratable", "smt": "platform.smt"}


class Binding(Protocol):
    """What ties evidence to one connection. Made from the live connection itself, never from what the peer says."""

    def committed(self, tee: TEE) -> bytes:
        """What a quote of `tee` must carry: the 64 bytes of report_data, or their SHA-256 (`evidence.committed`)."""

    def refusal(self, got: bytes) -> AttestationError:
        """Explain other report data: step `binding`, with the likely cause."""


class Requirements(msgspec.Struct, frozen=True):
    """One method per step: each notes on its check what it required and saw; `AttestationError` refuses."""

    claims: Claims
    policy: Policy
    bound_to: Binding
    config_digest: str
    now: datetime
    not_after: datetime

    def steps(self) -> tuple[tuple[str, Callable[[OpenCheck], None]], ...]:
        return (
            ("binding", self.binding),
            ("platform", self.platform),
            ("debug", self.debug),
            ("tcb", self.tcb),
            ("code", self.code),
            ("hardware", self.hardware),
            ("config", self.config),
        )

    def unrequired(self, step: str) -> str:
        """Why the policy requires nothing in this step, or an empty string if it does."""
        if step == "hardware" and self.claims.tee not in HARDWARE_FORMS:
            return f"{self.claims.tee} measures no hardware"
        if step == "hardware" and not any(reference.tee is self.claims.tee for reference in self.policy.hardware):
            return "the policy pins no hardware"
        if step == "tcb":
            return tcb.unrequired(self.claims, self.policy)
        if step == "config" and not self.policy.config_digests:
            return f"{self.config_digest}: the policy pins no configuration"
        return ""

    def ends(self) -> list[datetime]:
        """The moments at which something that was relied on runs out."""
        return [self.claims.not_after, self.not_after, *tcb.ends(self.claims, self.policy)]

    def binding(self, check: OpenCheck) -> None:
        expected = self.bound_to.committed(self.claims.tee)
        check.expected, check.got = expected.hex(), self.claims.report_data.hex()
        check.compares(self.claims, "report_data", check.got)
        if self.claims.report_data != expected:
            raise self.bound_to.refusal(self.claims.report_data)
        for code, what, end in (
            ("binding.keyset_expired", "the enclave's keys have run out", self.not_after),
            ("binding.evidence_expired", "the endorsements of the evidence have run out", self.claims.not_after),
        ):
            if self.now >= end:
                raise AttestationError(
                    what,
                    code=code,
                    expected=f"a time before {utc(end)}",
                    got=utc(self.now),
                    likely="the clock of this computer is ahead, or the enclave was not restarted in time",
                )

    def platform(self, check: OpenCheck) -> None:
        claims, policy = self.claims, self.policy
        check.expected = " or ".join(policy.accepted_tees)
        check.got = f"{claims.tee}{' (simulated)' if claims.simulated else ''}, {claims.anchor}"
        if claims.tee not in policy.accepted_tees:
            raise AttestationError(
                "the enclave runs in a kind of TEE that the policy does not accept",
                code="platform.tee",
                expected=f"{check.expected} ({policy.place('accepted_tees')})",
                got=claims.tee,
                likely="the operator moved to other machines",
            )
        if claims.simulated and not policy.allow_simulated:
            raise AttestationError(
                "the enclave is simulated: no hardware vouches for it",
                code="platform.simulated",
                expected=f"real hardware ({policy.place('allow_simulated')})",
                got=check.got,
                likely="this is a server for development",
                hint="to try things out with data that may leak, use Connection(..., simulation=True)",
            )
        if claims.tee in AMD_TEES:
            self._require_amd(check)
        if policy.chips:
            check.compares(claims, "chip_id", claims.chip_id)
        if policy.chips and claims.chip_id not in policy.chips:
            raise AttestationError(
                "the enclave runs on a processor that the policy does not list",
                code="chip.unknown" if claims.chip_id else "chip.masked",
                expected=f"one of {len(policy.chips)} processors ({policy.place('chips', 'allowed')})",
                got=claims.chip_id or "the platform does not reveal its processor",
                likely="the operator moved to other machines, or relays to one that it owns",
            )

    def _require_amd(self, check: OpenCheck) -> None:
        claims, policy = self.claims, self.policy
        check.got += f", {claims.product}, {claims.signing_key.upper()}, VMPL {claims.vmpl}"
        check.compares(claims, "product", claims.product)
        check.compares(claims, "signing_key", claims.signing_key)
        check.compares(claims, "vmpl", str(claims.vmpl))
        if claims.product not in policy.amd.products:
            raise AttestationError(
                "the enclave runs on a product line that the policy does not accept",
                code="platform.product",
                expected=f"{' or '.join(policy.amd.products)} ({policy.place('amd', 'products')})",
                got=claims.product or NOT_REPORTED,
                likely="the operator moved to other machines",
            )
        if claims.signing_key not in policy.amd.keys:
            raise AttestationError(
                "the report is signed by a kind of key that the policy does not accept",
                code="platform.key",
                expected=f"{' or '.join(policy.amd.keys)} ({policy.place('amd', 'keys')})",
                got=claims.signing_key or NOT_REPORTED,
                likely="the cloud signs with a key that all of its machines share (VLEK), in place of the chip's own"
                if claims.signing_key == "vlek"
                else "",
            )
        if claims.vmpl != 0:
            raise AttestationError(
                "the report was requested from a lower privilege level of the guest, which others in it control",
                code="platform.vmpl",
                expected="VMPL 0",
                got=NOT_REPORTED if claims.vmpl is None else f"VMPL {claims.vmpl}",
                likely="the enclave runs below a paravisor or a service module (SVSM)",
            )

    def debug(self, check: OpenCheck) -> None:
        raised = sorted(name for name, is_set in self.claims.flags.items() if is_set and name not in PROTECTIVE_FLAGS)
        allowed = self.policy.allowed_attributes
        check.expected = f"debug off; nothing but {', '.join(allowed) or 'the protective attributes'}"
        check.got = f"debug {'on' if self.claims.debug else 'off'}; {', '.join(raised) or 'nothing else'}"
        check.compares(self.claims, "debug", "1" if self.claims.debug else "0")
        check.compares(self.claims, "flags")
        if self.claims.debug:
            raise AttestationError(
                "the enclave is in debug mode: its host can read it",
                code="platform.debug",
                expected="debug off",
                got="debug on",
                likely="a build for development was deployed",
            )
        refused = sorted(set(raised) - set(allowed), key=lambda name: (name not in _ATTRIBUTE_CODES, name))
        if refused:
            raise AttestationError(
                "the enclave has an attribute that the policy does not allow",
                code=_ATTRIBUTE_CODES.get(refused[0], "platform.attributes"),
                expected=f"{', '.join(allowed) or 'none'} ({self.policy.place('attributes', 'allowed')})",
                got=", ".join(refused),
                likely=FLAGS.get(refused[0], ""),
            )

    def tcb(self, check: OpenCheck) -> None:
        tcb.require(self.claims, self.policy, self.now, check)

    def code(self, check: OpenCheck) -> None:
        deviations = self._compare("code", self.policy.code, check)
        if not deviations:
            return
        if all(deviation.outdated for deviation in deviations):
            raise AttestationError(
                "the enclave runs an older version than you accept",
                code="code.outdated",
                check=_check_name("code", deviations[0]),
                expected=check.expected,
                got=check.got,
                likely="the operator did not upgrade, or went back to a version with a known weakness",
            )
        raise AttestationError(
            "the simulated enclave runs code you have not approved"
            if self.claims.simulated
            else "the enclave is genuine, but runs code you have not approved",
            code="code.unknown",
            check=_check_name("code", deviations[0]),
            expected=check.expected,
            got=check.got,
            likely="the server runs another version of BlindAI, or a changed copy"
            if self.claims.simulated
            else "the operator upgraded; this code is not in your policy",
        )

    def hardware(self, check: OpenCheck) -> None:
        deviations = self._compare("hardware", self.policy.hardware, check)
        if deviations:
            raise AttestationError(
                "the enclave runs on a machine shape or firmware you have not approved",
                code="hardware.unknown",
                check=_check_name("hardware", deviations[0]),
                expected=check.expected,
                got=check.got,
                likely="the operator changed the virtual machine's size or its firmware",
            )

    def config(self, check: OpenCheck) -> None:
        check.got = self.config_digest
        check.expected = " or ".join(self.policy.config_digests)
        if self.config_digest not in self.policy.config_digests:
            raise AttestationError(
                "the enclave runs approved code, but with a configuration you have not approved",
                code="config.unknown",
                expected=f"{check.expected} ({self.policy.place('config', 'digests')})",
                got=self.config_digest or "none",
                likely="it was started with other keys, limits or flags",
            )

    def _compare(self, key: str, references: Sequence[HardwareReference], check: OpenCheck) -> list[Deviation]:
        """Nothing if one of `references` matches, else where the closest one differs. Notes either on `check`."""
        candidates = [
            (index, reference, reference.deviations(self.claims))
            for index, reference in enumerate(references)
            if reference.tee is self.claims.tee
        ]
        if not candidates:
            check.expected, check.got = f"[[{key}]] for {self.claims.tee}", f"none ({self.policy.place(key)})"
            return [Deviation("tee", check.expected, check.got)]
        index, closest, deviations = min(candidates, key=lambda candidate: len(candidate[2]))
        if deviations:
            first, others = deviations[0], len(candidates) - 1
            place = self.policy.place(key, index, first.key)
            check.expected = f"{first.expected} ({place})" + (f"; {others} more in the policy" if others else "")
            check.got = first.got
        else:
            for register in closest.measurements:
                check.compares(self.claims, register, self.claims.measurements[register])
            seen = [f"{register} {self.claims.measurements[register]}" for register in closest.measurements]
            numbers = [number.removeprefix("minimum_") for number in closest.numbers()]
            seen += [f"{number} {self.claims.svns[number]}" for number in numbers]
            check.expected, check.got = f"{closest.name} ({self.policy.place(key, index)})", ", ".join(seen)
        return deviations


def utc(moment: datetime) -> str:
    """A time as people and logs read it."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _check_name(step: str, deviation: Deviation) -> str:
    """As in `code measurement (MRTD)`."""
    return f"{STEPS[step]} ({deviation.key.removeprefix('minimum_').replace('_', ' ').upper()})"
