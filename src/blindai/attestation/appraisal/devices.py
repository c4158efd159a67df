"""The step `devices` of an appraisal: the GPUs and switches beside the processor, against the policy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from blindai.attestation.claims import DeviceClaims
from blindai.attestation.evidence import DeviceEvidence, DeviceKind
from blindai.attestation.policy import Policy
from blindai.attestation.policy.gpus import MAX_DEVICES, GpuPolicy
from blindai.attestation.result import Checklist, OpenCheck
from blindai.attestation.verifiers.nvidia import verify_device
from blindai.errors import AttestationError

STEP = "devices"

_NOUNS = {DeviceKind.NVIDIA_GPU: "GPU", DeviceKind.NVIDIA_SWITCH: "switch"}


def appraise_devices(
    devices: Sequence[DeviceEvidence],
    *,
    policy: Policy,
    nonce: bytes | None,
    now: datetime,
    checks: Checklist,
    refusals: list[AttestationError],
) -> tuple[DeviceClaims, ...]:
    """Verify each device and hold all of them against the policy.

    Args:
        devices: as they came beside the quote.
        policy: what is required.
        nonce: what each device must have signed, made from this connection; None where there is none, which refuses.
        now: the time of the appraisal, with its time zone.
        checks: where one check for each device, and one for all of them, are recorded.
        refusals: where what was refused is added.

    Returns:
        The claims of those devices whose evidence is genuine.
    """
    gpus = policy.gpus
    if not devices and (gpus is None or not gpus.requires_some):
        checks.skip(STEP, got="no devices, and the policy requires none")
        return ()
    try:
        with checks.check(STEP, expected=_required(gpus)) as check:
            _require_count(devices, policy, check)
    except AttestationError as error:
        refusals.append(error)
        if gpus is None or len(devices) > MAX_DEVICES:
            return ()
    assert gpus is not None  # noqa: S101 - else the count was refused
    anchors = policy.anchors()
    genuine: list[DeviceClaims] = []
    numbers = dict.fromkeys(DeviceKind, 0)
    for position, device in enumerate(devices):
        numbers[device.kind] += 1
        name = f"{_NOUNS[device.kind]} {numbers[device.kind]}"
        try:
            with checks.check(STEP, name=name, within=f"devices.{position}.") as check:
                claims = verify_device(device, anchors=anchors, now=now, check=check)
                others = {other.id for other in genuine}
                genuine.append(claims)
                _Requirements(claims, policy, gpus, check).all(nonce, others)
        except AttestationError as error:
            refusals.append(error)
    return tuple(genuine)


def _required(gpus: GpuPolicy | None) -> str:
    if gpus is None:
        return "no devices"
    count = f"{gpus.count}" if gpus.count is not None else f"at least {gpus.minimum}"
    return f"{count} GPUs, {gpus.switches} switches"


def _require_count(devices: Sequence[DeviceEvidence], policy: Policy, check: OpenCheck) -> None:
    gpus = policy.gpus
    count = sum(device.kind is DeviceKind.NVIDIA_GPU for device in devices)
    switches = len(devices) - count
    check.got = f"{count} GPUs, {switches} switches"
    if gpus is None:
        raise AttestationError(
            "the enclave uses devices, and the policy accepts none",
            code="devices.unexpected",
            expected=f"no devices ({policy.place('gpus')})",
            got=check.got,
            likely="the manifest has no section [gpus]",
        )
    least = gpus.minimum or 0 if gpus.count is None else gpus.count
    most = MAX_DEVICES if gpus.count is None else gpus.count
    for missing, extra, noun, key in (
        (count < least, count > most, "GPUs", "minimum" if gpus.count is None else "count"),
        (switches < gpus.switches, switches > gpus.switches, "switches", "switches"),
    ):
        if missing or extra:
            raise AttestationError(
                f"there are fewer {noun} than required" if missing else f"there are more {noun} than accepted",
                code="devices.missing" if missing else "devices.extra",
                expected=f"{check.expected} ({policy.place('gpus', key)})",
                got=check.got,
                likely="a device failed, or the enclave runs on another machine shape",
            )


class _Requirements:
    """What is required of one device whose evidence is genuine."""

    def __init__(self, claims: DeviceClaims, policy: Policy, gpus: GpuPolicy, check: OpenCheck) -> None:
        self._claims = claims
        self._policy = policy
        self._gpus = gpus
        self._check = check
        state = " (simulated)" if claims.simulated else ""
        mode = f", mode {claims.mode}" if claims.mode else ""
        driver = f"driver {claims.driver}, " if claims.driver else ""
        self._seen = f"{claims.architecture} {claims.chip}{state}, {driver}VBIOS {claims.firmware}{mode}"

    def all(self, nonce: bytes | None, others: set[str]) -> None:
        claims, policy, gpus = self._claims, self._policy, self._gpus
        self._check.got = self._seen
        self._nonce(nonce)
        if claims.id in others:
            raise self._refusal(
                "devices.duplicate",
                "one device answered twice",
                expected="each device once",
                got=claims.id,
                likely="there are fewer devices than it is made to look like",
            )
        if claims.simulated and not policy.allow_simulated:
            raise self._refusal(
                "devices.simulated",
                "the device is simulated: no hardware vouches for it",
                expected=f"real hardware ({policy.place('allow_simulated')})",
                got=self._seen,
                likely="this is a server for development",
            )
        if claims.kind is DeviceKind.NVIDIA_GPU:
            self._listed("devices.architecture", claims.architecture, gpus.architectures, "architectures")
            self._listed("devices.driver", claims.driver, gpus.drivers, "drivers")
            self._listed("devices.vbios", claims.firmware, gpus.vbios, "vbios")
        if claims.mode:
            self._listed("devices.mode", claims.mode, gpus.modes, "modes")
        self._golden()

    def _nonce(self, nonce: bytes | None) -> None:
        self._compares("nonce", self._claims.nonce.hex())
        if self._claims.nonce != nonce:
            raise self._refusal(
                "devices.nonce",
                "the device did not sign for this connection",
                expected=nonce.hex() if nonce is not None else "a nonce of this connection",
                got=self._claims.nonce.hex(),
                likely="recorded evidence was replayed, or that of another machine's GPU is forwarded",
            )

    def _listed(self, code: str, value: str, allowed: Sequence[str], key: str) -> None:
        what = code.removeprefix("devices.")
        if allowed:
            self._compares({"vbios": "firmware", "mode": "features"}.get(what, what), value)
        if allowed and value not in allowed:
            raise self._refusal(
                code,
                f"the device has another {what} than the policy accepts",
                expected=f"{' or '.join(allowed)} ({self._policy.place('gpus', key)})",
                got=value or "none",
                likely="the operator moved to other machines, or changed the driver",
            )

    def _golden(self) -> None:
        claims, golden = self._claims, self._gpus.golden
        if not golden:
            self._check.expected = "genuine, fresh, of a listed kind; the policy pins no measurements"
            return
        candidates = [(index, item) for index, item in enumerate(golden) if item.is_for(claims)]
        if not candidates:
            raise self._refusal(
                "devices.measurement",
                "the policy has no golden measurements for this driver and VBIOS",
                expected=f"one of {len(golden)} releases ({self._policy.place('gpus', 'golden')})",
                got=self._seen,
                likely="the operator changed the driver or the VBIOS",
            )
        index, closest = min(candidates, key=lambda candidate: len(candidate[1].deviations(claims)))
        deviations = closest.deviations(claims)
        if deviations:
            first = deviations[0]
            place = self._policy.place("gpus", "golden", index, "measurements", str(first))
            raise self._refusal(
                "devices.measurement",
                "the device measures something else than the policy accepts",
                expected=f"measurement {first} {' or '.join(closest.measurements[first])} ({place})",
                got=claims.measurements.get(first, "none"),
                likely="driver or firmware were changed, or run with other settings",
            )
        for number in closest.measurements:
            self._compares(f"measurement {number}", claims.measurements[number])
        self._check.expected = (
            f"{len(closest.measurements)} measurements ({self._policy.place('gpus', 'golden', index)})"
        )

    def _compares(self, name: str, value: str) -> None:
        location = self._claims.locations.get(name)
        if location is not None:
            self._check.uses(location.of, location.start, location.end, f"{name}, compared", value)

    def _refusal(self, code: str, message: str, *, expected: str, got: str, likely: str) -> AttestationError:
        return AttestationError(message, code=code, step=STEP, expected=expected, got=got, likely=likely)
