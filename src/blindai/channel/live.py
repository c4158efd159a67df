"""The relying party's own view of a live connection, from its own TLS stack, whichever end it is."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from blindai.attestation.evidence import Activation, Evidence
from blindai.attestation.result import Checklist
from blindai.channel import gate
from blindai.channel.statement import NO_DEVICES, Role, Statement, config_digest, devices_digest
from blindai.channel.tls import TLSPipe
from blindai.channel.transcript import Transcript
from blindai.errors import AttestationError

# What decoding a message of the peer may raise, and taking the digests of what it holds.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, ValueError, OverflowError, OSError, RecursionError)


def require_key(pipe: TLSPipe) -> str:
    """SHA-256, in hex, of the key that the peer proved to hold.

    Raises:
        AttestationError: `channel.key_type`.
    """
    spki = pipe.peer_spki_sha256()
    if spki is None:
        raise AttestationError(
            "the peer's TLS key is not an elliptic-curve key",
            code="channel.key_type",
            step="channel",
            expected="P-256",
        )
    return spki


def live_statement(
    pipe: TLSPipe, role: Role, nonce: bytes, *, keyset_digest: str, config: str, devices: str
) -> Statement:
    """What the peer, in `role`, must commit to. `config` and `devices` are the digests of what it showed.

    Raises:
        AttestationError: `channel.key_type`.
    """
    return Statement(
        role=role,
        nonce=nonce.hex(),
        ekm=pipe.exported(nonce),
        spki_sha256=require_key(pipe),
        keyset_digest=keyset_digest,
        devices_digest=devices,
        config_digest=config,
    )


def live_transcript(
    pipe: TLSPipe, role: Role, nonce: bytes, shown: gate.FreshAnswer, *, at: datetime, activation: Activation | None
) -> Transcript:
    """The record of a gate, ready to be appraised.

    Raises:
        AttestationError: `channel.key_type`.
        ValueError, OverflowError, OSError: keyset or configuration cannot be what any peer committed to.
    """
    _ = shown.keyset.expires_at
    own = live_statement(
        pipe,
        role,
        nonce,
        keyset_digest=shown.keyset.digest,
        config=config_digest(shown.config),
        devices=_devices_digest(bytes(shown.evidence)),
    )
    return Transcript(
        at=at,
        statement=own,
        claimed=shown.statement,
        keyset=shown.keyset,
        config=shown.config,
        evidence=shown.evidence,
        activation=activation,
    )


def opened_checks(pipe: TLSPipe) -> Checklist:
    """A list of checks whose first, the step `channel`, has passed."""
    checks = Checklist()
    with checks.check("channel", expected="TLS 1.3") as opened:
        opened.got = f"{pipe.version}, {pipe.group}"
    return checks


def require_protocol(got: tuple[int, str], expected: tuple[int, str]) -> None:
    """Refuse another version or mode than was agreed.

    Raises:
        AttestationError: `channel.downgrade`.
    """
    if got != expected:
        raise AttestationError(
            "the peer answered with another protocol than was asked for",
            code="channel.downgrade",
            step="channel",
            expected=f"version {expected[0]}, {expected[1]}",
            got=f"version {got[0]}, {got[1]}",
        )


def _devices_digest(evidence: bytes) -> str:
    try:
        return devices_digest(Evidence.decode(evidence).devices)
    except AttestationError:
        return NO_DEVICES  # the appraisal says what is wrong with the evidence
