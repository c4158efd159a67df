"""Judge one request: the verifiers, then what its policy requires; without a policy, only what needs none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from functools import partial
from typing import Any

from blindai.attestation.appraisal.appraisal import NOT_REACHED
from blindai.attestation.appraisal.devices import appraise_devices
from blindai.attestation.appraisal.requirements import Requirements
from blindai.attestation.claims import Claims, DeviceClaims
from blindai.attestation.evidence import TEE, DeviceEvidence, DeviceKind, Evidence, committed
from blindai.attestation.result import STEPS, AttestationResult, Checklist, Mode, OpenCheck, Status
from blindai.attestation.verifiers import amd, azure_report, verify
from blindai.attestation.verifiers.azure_report import SNP_REPORT
from blindai.attestation.verifiers.nvidia import verify_device
from blindai.conformance import forms
from blindai.conformance.request import MalformedRequest, Request, UnsupportedRequest, request_id
from blindai.errors import AttestationError

NO_POLICY = "the request has no policy"
NO_EXPECTATION = "the request does not say what the evidence must carry"
UNSUPPORTED_CODES = frozenset({"evidence.unsupported", "devices.unsupported"})

# Far behind every end of validity: a request has no keyset.
_NO_END = datetime.max.replace(tzinfo=UTC)


class Exit(IntEnum):
    """How the program ends; they keep their meaning across releases."""

    ACCEPT = 0
    REJECT = 10
    UNSUPPORTED = 20
    MALFORMED = 30


def answer(data: bytes) -> tuple[Exit, dict[str, Any]]:
    """Judge the request in `data`. Every input has an answer."""
    try:
        request = Request.decode(data)
    except MalformedRequest as error:
        return Exit.MALFORMED, _unjudged("malformed", error, data)
    except UnsupportedRequest as error:
        return Exit.UNSUPPORTED, _unjudged("unsupported", error, data)
    return judge(request)


def judge(request: Request) -> tuple[Exit, dict[str, Any]]:
    """Judge a request."""
    appraisal = _Appraisal(request)
    refusal: AttestationError | None
    try:
        refusal = appraisal.run()
    except AttestationError as error:
        refusal = error
        appraisal.record(error)
    result = appraisal.result(refusal).to_builtins()
    code = Exit.ACCEPT
    if refusal is not None:
        code = Exit.UNSUPPORTED if refusal.code in UNSUPPORTED_CODES else Exit.REJECT
    devices = result["devices"]
    said = {
        "verdict": code.name.lower(),
        "code": result["code"],
        "step": result["step"],
        "message": refusal.message if refusal is not None else "",
        "claims": next(iter(devices), None) if isinstance(request.tee, DeviceKind) else result["claims"],
        "devices": devices,
        "checks": result["checks"],
        "policy_digest": request.policy_digest,
        "simulated": result["simulated"],
    }
    return code, _identified(said, request.id)


class _Appraisal:
    """One request on its way; what was found before a refusal stays."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._checks = Checklist()
        self._checks.skip("channel", got="no connection")
        self._claims: Claims | None = None
        self._devices: tuple[DeviceClaims, ...] = ()

    def run(self) -> AttestationError | None:
        """Make every step; returns the first refusal of what is required, and raises those of a verifier."""
        request, checks = self._request, self._checks
        refusals: list[AttestationError] = []
        if isinstance(request.tee, DeviceKind):
            self._judge_devices((forms.device(request.tee, request.evidence),), request.expected, refusals)
            checks.skip_rest("a device alone")
            return refusals[0] if refusals else None
        evidence, activation = forms.processor(request.tee, request.evidence, request.endorsements, request.collateral)
        if evidence.tee is TEE.AZURE_SEV_SNP and evidence.tpm is None:
            claims = _paravisor_report_alone(evidence, request, checks)
        else:
            claims = verify(evidence, anchors=request.anchors, now=request.now, checks=checks, activation=activation)
        self._claims = claims
        for step, require in _steps(request, claims, checks):
            try:
                with checks.check(step) as check:
                    require(check)
            except AttestationError as error:
                refusals.append(error)
        self._judge_devices(evidence.devices, request.expected_device_nonce, refusals)
        checks.skip_rest(NO_POLICY)
        return refusals[0] if refusals else None

    def record(self, error: AttestationError) -> None:
        """Note a refusal that ended the appraisal. That of `forms` comes before any check was opened."""
        if all(check.outcome != "FAIL" for check in self._checks.checks):
            try:
                with self._checks.check(error.step):
                    raise error
            except AttestationError:
                pass
        self._checks.skip_rest(NOT_REACHED)

    def result(self, refusal: AttestationError | None) -> AttestationResult:
        order = list(STEPS)
        return AttestationResult(
            status=Status.AFFIRMING if refusal is None else Status.CONTRAINDICATED,
            checks=tuple(sorted(self._checks.checks, key=lambda check: order.index(check.step))),
            mode=Mode.FRESH,
            policy_digest=self._request.policy_digest,
            claims=self._claims,
            devices=self._devices,
            code=refusal.code if refusal is not None else "",
            step=refusal.step if refusal is not None else "",
        )

    def _judge_devices(
        self, devices: Sequence[DeviceEvidence], nonce: bytes | None, refusals: list[AttestationError]
    ) -> None:
        request, checks = self._request, self._checks
        if request.policy is not None:
            self._devices = appraise_devices(
                devices, policy=request.policy, nonce=nonce, now=request.now, checks=checks, refusals=refusals
            )
            return
        for number, device in enumerate(devices, 1):
            try:
                with checks.check("devices", name=f"{device.kind} {number}") as check:
                    claims = verify_device(device, anchors=request.anchors, now=request.now, check=check)
                    self._devices += (claims,)
                    _require_nonce(claims, nonce, check)
            except AttestationError as error:
                refusals.append(error)


def _require_nonce(claims: DeviceClaims, nonce: bytes | None, check: OpenCheck) -> None:
    check.got = claims.nonce.hex()
    if nonce is not None and claims.nonce != nonce:
        raise AttestationError(
            "the device did not sign for what the request expects",
            code="devices.nonce",
            expected=nonce.hex(),
            got=claims.nonce.hex(),
        )


def _paravisor_report_alone(evidence: Evidence, request: Request, checks: Checklist) -> Claims:
    """What a report of Azure's paravisor proves without a quote: which keys the virtual TPM has, and no freshness."""
    with checks.check("evidence", name="evidence of the virtual TPM") as check:
        report = azure_report.parse(evidence.azure.hcl_report if evidence.azure is not None else b"")
        if report.kind != SNP_REPORT:
            raise AttestationError("the report is of another TEE than the request says", code="evidence.tee")
        check.got = "a report of Azure's paravisor"
    claims = amd.verify_report(
        report.hardware_report, evidence.amd, tee=evidence.tee, anchors=request.anchors, now=request.now, checks=checks
    )
    with checks.check("quote", name="quote of the virtual TPM") as check:
        report.require_vouched(claims.report_data)
        check.got = "the processor vouches for the keys of the virtual TPM"
    if claims.vmpl:
        with checks.check("platform", expected="VMPL 0"):
            raise AttestationError(
                "the report was not made by Azure's paravisor, but by the guest above it",
                code="platform.vmpl",
                got=f"VMPL {claims.vmpl}",
            )
    return claims


def _steps(request: Request, claims: Claims, checks: Checklist) -> Iterator[tuple[str, Callable[[OpenCheck], None]]]:
    if request.expected is None:
        checks.skip("binding", got=NO_EXPECTATION)
    else:
        yield "binding", _Binding(claims, request.expected)
    if request.policy is None:
        yield "debug", partial(_require_no_debug, claims)
        return
    requirements = Requirements(claims, request.policy, _Binding(claims, b""), "", request.now, _NO_END)
    for step, require in requirements.steps():
        if step == "binding":
            continue  # of a live connection, with a keyset
        if reason := requirements.unrequired(step):
            checks.skip(step, got=reason)
        else:
            yield step, require


def _require_no_debug(claims: Claims, check: OpenCheck) -> None:
    check.expected, check.got = "debug off", f"debug {'on' if claims.debug else 'off'}"
    check.compares(claims, "debug")
    if claims.debug:
        raise AttestationError(
            "the enclave is in debug mode: its host can read it",
            code="platform.debug",
            likely="a build for development was deployed",
        )


class _Binding:
    """What the request expects, in place of a connection: these bytes, or in a TPM's quote their SHA-256."""

    def __init__(self, claims: Claims, expected: bytes) -> None:
        self._claims = claims
        self._expected = expected

    def __call__(self, check: OpenCheck) -> None:
        got = self._claims.report_data
        check.expected, check.got = self._expected.hex(), got.hex()
        check.compares(self._claims, "report_data", check.got)
        if got not in {self._expected, self.committed(self._claims.tee)}:
            raise self.refusal(got)

    def committed(self, tee: TEE) -> bytes:
        return committed(tee, self._expected)

    def refusal(self, got: bytes) -> AttestationError:
        return AttestationError(
            "the evidence was not made for what the request expects",
            code="binding.report_data",
            step="binding",
            expected=self._expected.hex(),
            got=got.hex(),
        )


def _unjudged(verdict: str, error: MalformedRequest | UnsupportedRequest, data: bytes) -> dict[str, Any]:
    said: dict[str, Any] = {
        "verdict": verdict,
        "code": error.code,
        "step": "",
        "message": error.message,
        "claims": None,
        "checks": [],
    }
    return _identified(said, request_id(data))


def _identified(said: dict[str, Any], identity: str | int | None) -> dict[str, Any]:
    return said if identity is None else {"id": identity} | said
