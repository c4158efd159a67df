"""Ask NVIDIA's own program, where it is installed, what it says of the evidence of devices.

`nvattest` fetches NVIDIA's reference measurements (RIMs) for the driver and the VBIOS, and asks NVIDIA which
certificates are revoked: both need the network, and neither is done by our own verifier. What it says is no part of an
appraisal. `blindai audit --nvattest` asks it about saved evidence, for whoever writes `[[gpus.golden]]`.

Source: NVIDIA Attestation SDK 1.2, "Command Reference" and "Claims and Detached EAT schema".
The layout of the evidence file is not in there: it is as users of 1.2.2 report it. This was run with a program that
keeps to all of that, and never yet with NVIDIA's own.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from blindai.attestation.claims import DeviceClaims
from blindai.attestation.evidence import DeviceEvidence, DeviceKind
from blindai.errors import AttestationError, ConfigurationError, Unavailable

PROGRAM = "nvattest"
TIMEOUT_SECONDS = 120.0  # it makes some ten requests to NVIDIA for each device
MAX_OUTPUT_BYTES = 1 << 22  # the claims of one GPU take some 20 KB, with its certificates

_DEVICES = {DeviceKind.NVIDIA_GPU: "gpu", DeviceKind.NVIDIA_SWITCH: "nvswitch"}


class _Answer(msgspec.Struct, frozen=True):
    result_code: int
    result_message: str
    claims: list[dict[str, Any]] = []


class NvattestVerdict(msgspec.Struct, frozen=True):
    """What `nvattest` said.

    Attributes:
        accepted: it accepted the evidence; for each device, the measurements are NVIDIA's, and the nonce is ours.
        message: its own words.
        claims: for each device, as it wrote them.
    """

    accepted: bool
    message: str
    claims: tuple[dict[str, Any], ...]


def ask(
    devices: Sequence[tuple[DeviceEvidence, DeviceClaims]],
    *,
    program: str = PROGRAM,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> NvattestVerdict:
    """Have `nvattest` appraise devices of one kind that signed one nonce.

    Args:
        devices: each with the claims of our own verifier.
        program: its name, or path.
        timeout_seconds: after which it is stopped.

    Raises:
        ValueError: there are no devices, or they are of several kinds or with several nonces.
        ConfigurationError: `attester.missing`; it is not installed.
        Unavailable: `attester.failed`; it did not end in time, or did not answer as documented.
    """
    kinds, nonces = {device.kind for device, _ in devices}, {claims.nonce for _, claims in devices}
    if len(kinds) != 1 or len(nonces) != 1:
        raise ValueError("devices of one kind with one nonce are asked for together")
    path = shutil.which(program)
    if path is None:
        raise ConfigurationError(
            f"{program} is not installed", code="attester.missing", hint="it is part of NVIDIA's Attestation SDK"
        )
    (kind,), (nonce,) = kinds, nonces
    device = _DEVICES[kind]
    with tempfile.TemporaryDirectory(prefix="blindai-nvattest-") as folder:
        file = Path(folder) / "to_appraise.json"
        file.write_bytes(msgspec.json.encode([_entry(evidence, claims) for evidence, claims in devices]))
        options = {
            "--device": device,
            "--verifier": "local",
            "--nonce": nonce.hex(),
            f"--{device}-evidence-source": "file",
            f"--{device}-evidence-file": str(file),
        }
        arguments = [word for option in options.items() for word in option]
        try:
            done = subprocess.run(  # noqa: S603 - no shell; every argument is our own
                [path, "--format", "json", "--log-level", "off", "attest", *arguments],
                capture_output=True,
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=timeout_seconds,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"{program} did not answer: {error}", code="attester.failed") from error
    return _verdict(done, len(devices), nonce)


def require_accepted(
    devices: Sequence[DeviceEvidence],
    claims: Sequence[DeviceClaims],
    *,
    program: str = PROGRAM,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> tuple[NvattestVerdict, ...]:
    """Ask about all devices of one appraisal, and refuse what NVIDIA's program does not accept.

    Args:
        devices, claims: of the same devices in the same order; at least one.
        program, timeout_seconds: as in `ask`.

    Returns:
        One verdict for each kind of device.

    Raises:
        AttestationError: `devices.nvattest`, step `devices`; it does not accept one of them, or there are none.
        ConfigurationError, Unavailable: as `ask`.
    """
    pairs = list(zip(devices, claims, strict=True))
    verdicts = []
    for kind in dict.fromkeys(device.kind for device in devices):
        verdict = ask(
            [pair for pair in pairs if pair[0].kind is kind], program=program, timeout_seconds=timeout_seconds
        )
        if not verdict.accepted:
            raise AttestationError(
                "NVIDIA's own program does not accept the devices",
                code="devices.nvattest",
                step="devices",
                expected=f"measurements of a release of NVIDIA's, for each {kind}",
                got=verdict.message,
                likely="the driver or the VBIOS is not one that NVIDIA released, or a certificate is revoked",
            )
        verdicts.append(verdict)
    if not verdicts:
        raise AttestationError(
            "the evidence is of no device that NVIDIA's program could be asked about",
            code="devices.nvattest",
            step="devices",
            expected="GPUs or switches",
            got="none",
        )
    return tuple(verdicts)


def _entry(device: DeviceEvidence, claims: DeviceClaims) -> dict[str, str]:
    return {
        "arch": claims.architecture.upper(),
        "nonce": claims.nonce.hex(),
        "evidence": base64.b64encode(device.report).decode(),
        "certificate": base64.b64encode(device.certificates.encode()).decode(),
    }


def _verdict(done: subprocess.CompletedProcess[bytes], count: int, nonce: bytes) -> NvattestVerdict:
    try:
        if len(done.stdout) > MAX_OUTPUT_BYTES:
            raise msgspec.ValidationError(f"more than {MAX_OUTPUT_BYTES} bytes")
        answer = msgspec.json.decode(done.stdout, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unavailable(f"{PROGRAM} answered something else: {error}", code="attester.failed") from error
    accepted = (
        (done.returncode, answer.result_code) == (0, 0)
        and len(answer.claims) == count
        and all(_is_accepted(claims, nonce) for claims in answer.claims)
    )
    return NvattestVerdict(accepted=accepted, message=answer.result_message, claims=tuple(answer.claims))


def _is_accepted(claims: dict[str, Any], nonce: bytes) -> bool:
    # The schema writes "Success", the program "success".
    return str(claims.get("measres")).lower() == "success" and str(claims.get("eat_nonce")).lower() == nonce.hex()
