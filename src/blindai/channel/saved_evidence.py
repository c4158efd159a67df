"""Saved evidence: a file with all that an appraisal needs to be repeated by hand, by anyone, later, offline.

    {"kind": "attestation", "v": 1, "blindai": "0.1.0", "address": "https://host:9443",
     "verdict": {"status", "code", "step", "policy_digest"},
     "gate": {"at", "statement", "claimed", "keyset", "config", "evidence", "activation"}}

Bytes are base64 (RFC 4648, section 4). The verdict is a note of what was found then; an audit makes its own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from datetime import datetime
from pathlib import Path

import msgspec

import blindai
from blindai.attestation.evidence import Evidence
from blindai.attestation.policy import Policy
from blindai.attestation.result import STEPS, AttestationResult, Checklist, Status
from blindai.channel.gate import MAX_ANSWER_BYTES
from blindai.channel.statement import config_digest
from blindai.channel.transcript import Transcript
from blindai.errors import AttestationError, ConfigurationError, InvalidInput, harmless

KIND = "attestation"
VERSION = 1

# What a gate may answer, indented, with the few lines around it.
MAX_FILE_BYTES = 2 * MAX_ANSWER_BYTES


# In place of "bound to this connection, fresh".
RECORDED_BINDING = "bound to the recorded connection"

# What no audit of a file can find out.
UNKNOWABLE = (
    "that nonce, exporter value and TLS key are those of a live connection: they are as recorded",
    "that the recorded time is right",
    "that whoever recorded this sent its data over that connection",
)


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was decided when the evidence was saved; `code` and `step` of a refusal.

    Attributes:
        policy_digest: SHA-256 of the manifest that decided; empty where the refusal came before it was needed.
    """

    status: Status
    code: str = ""
    step: str = ""
    policy_digest: str = ""


class SavedEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One fresh gate and the verdict on it, as a file.

    Attributes:
        kind: tells this file from others that can be audited.
        v: version of the format.
        blindai: the release that wrote it.
        address: whom the relying party meant to reach.
    """

    kind: str = KIND
    v: int = VERSION
    blindai: str
    address: str
    verdict: Verdict
    gate: Transcript

    @classmethod
    def of(cls, transcript: Transcript, outcome: AttestationResult | AttestationError, address: str) -> SavedEvidence:
        """The record of a gate that ended with `outcome`."""
        if isinstance(outcome, AttestationError):
            policy_digest = outcome.result.policy_digest if outcome.result is not None else ""
            verdict = Verdict(Status.CONTRAINDICATED, outcome.code, outcome.step, policy_digest)
        else:
            verdict = Verdict(outcome.status, policy_digest=outcome.policy_digest)
        return cls(blindai=blindai.__version__, address=address, verdict=verdict, gate=transcript)

    def encode(self) -> bytes:
        """As indented JSON, for people to look at."""
        return msgspec.json.format(_encoder.encode(self), indent=1) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> SavedEvidence:
        """Strictly parse what `encode` wrote.

        Raises:
            InvalidInput: `input.saved_evidence`; of another kind or version, or not such a file at all.
        """
        if len(data) > MAX_FILE_BYTES:
            raise _unreadable(f"it has more than {MAX_FILE_BYTES} bytes")
        try:
            header = _header_decoder.decode(data)
            if header.kind != KIND or header.v != VERSION:
                raise _unreadable(
                    f"this release reads files of kind {KIND!r}, version {VERSION}, "
                    f"and this one is of kind {header.kind!r}, version {header.v}"
                )
            saved = _decoder.decode(data)
            gate = saved.gate
            _ = gate.keyset.digest, gate.keyset.expires_at, config_digest(gate.config)
            # Without the white space that made it readable: evidence is held to a size.
            evidence = msgspec.Raw(msgspec.json.format(bytes(gate.evidence), indent=-1))
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, OverflowError, OSError, RecursionError) as error:
            raise _unreadable(str(error)) from error
        return msgspec.structs.replace(saved, gate=msgspec.structs.replace(gate, evidence=evidence))

    def audit(self, policy: Policy, *, at: datetime) -> AttestationResult:
        """Repeat the appraisal, by `policy` as if it were `at`. Pure: no clock, no network, no file.

        The step `channel` is skipped, and the step `binding` says what it can still compare: the recorded statement.

        Raises:
            AttestationError: the first check that failed, as in the gate.
        """
        checks = Checklist()
        checks.skip("channel", got=f"as recorded on {self.gate.at:%Y-%m-%dT%H:%M:%SZ}: an audit sees no connection")
        try:
            return _as_recorded(self.gate.appraise(policy, now=at, checks=checks))
        except AttestationError as error:
            error.message, error.expected, error.got = map(harmless, (error.message, error.expected, error.got))
            error.check = RECORDED_BINDING if error.check == STEPS["binding"] else error.check
            error.result = error.result and _as_recorded(error.result)
            raise

    def endorsed(self, evidence: Evidence) -> SavedEvidence:
        """The same gate, with endorsements beside its evidence that it came without."""
        gate = msgspec.structs.replace(self.gate, evidence=msgspec.Raw(evidence.encode()))
        return msgspec.structs.replace(self, gate=gate)

    def write(self, path: Path) -> None:
        """As `write_new`."""
        write_new(path, self.encode())


def write_new(path: Path, data: bytes) -> None:
    """Write a new file, whole or not at all. A file that exists is left alone: it may be evidence of another day.

    Raises:
        ConfigurationError: `configuration.save_exists`, `configuration.save`.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        # Taking the name first means that nobody else's file is ever replaced.
        with path.open("xb"):
            pass
        try:
            beside.write_bytes(data)
            beside.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
                path.unlink()
            raise
    except FileExistsError as error:
        raise already_there(path) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        message = f"the evidence cannot be written to {os.fspath(path)!r}: {error}"
        raise ConfigurationError(message, code="configuration.save") from error


def already_there(path: Path) -> ConfigurationError:
    """The refusal to write over a file."""
    return ConfigurationError(
        f"{path} exists, and evidence is never written over",
        code="configuration.save_exists",
        hint="give another name, or move the file away",
    )


def _as_recorded(result: AttestationResult) -> AttestationResult:
    checks = tuple(
        msgspec.structs.replace(check, name=RECORDED_BINDING) if check.step == "binding" else check
        for check in result.checks
    )
    return msgspec.structs.replace(result, checks=checks)


class _Header(msgspec.Struct, frozen=True):
    kind: str
    v: int


def _unreadable(reason: str) -> InvalidInput:
    return InvalidInput(f"this is no saved evidence that can be audited: {reason}", code="input.saved_evidence")


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(SavedEvidence)
_header_decoder = msgspec.json.Decoder(_Header)
