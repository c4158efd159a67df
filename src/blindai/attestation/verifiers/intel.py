"""Verify Intel SGX and TDX quotes: evidence in, claims out. Pure: no clock, no network, no file.

The steps, by the names under which they are recorded:

    evidence      the quote has the layout of its version, is of the TEE it is said to be, and nothing follows it
    endorsements  collateral and PCK chain are whole, current, unrevoked, in their roles, under a trust anchor
    quote         dcap-qvl confirms the quoting enclave, the signature over the quote, and the platform's TCB level

Two refusals of dcap-qvl belong to later steps and are recorded there: attributes (`debug`) and a TCB level that is
unknown or revoked (`tcb`). Left to the policy: report_data, measurements, TCB status and age, advisories, which
of the remaining attribute bits may be set, which processors.

Sources: Intel SGX and TDX DCAP quote generation library references; dcap-qvl 0.7.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from threading import Lock

import dcap_qvl
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from blindai.attestation.anchors import Anchor
from blindai.attestation.claims import Claims
from blindai.attestation.evidence import Evidence
from blindai.attestation.result import Checklist
from blindai.attestation.verifiers.intel_certificates import Window, refusal, require_current
from blindai.attestation.verifiers.intel_collateral import (
    CheckedCollateral,
    check_collateral,
    check_pck_chain,
    is_signed_by,
)
from blindai.attestation.verifiers.intel_quote import (
    UnverifiedQuote,
    parse,
    require_no_trailing_data,
    require_strict_attributes,
)
from blindai.errors import AttestationError

# One entry is about 10 KB: the claims of one enclave on one platform.
REMEMBERED_QUOTES = 64


class _Refusal(msgspec.Struct, frozen=True):
    step: str
    code: str
    message: str


# dcap-qvl reports every refusal as a ValueError with a sentence. All that can be known beforehand is checked in
# the steps before it, by code of our own; these sentences are what is left. The first that occurs in the text
# decides; a sentence that is not here gets the code `quote.refused`: it is a refusal whatever it says.
_QE_IDENTITY = _Refusal("quote", "quote.qe_identity", "the quoting enclave is not the one that Intel published")
_ATTRIBUTES = _Refusal("debug", "platform.attributes", "the TEE runs with attributes that are not known to be safe")
_TDX_MODULE = _Refusal("tcb", "tcb.tdx_module", "the TDX module is not one that Intel published")
_REFUSALS: dict[str, _Refusal] = {
    "Signature is invalid for qe_report": _Refusal(
        "quote", "quote.qe_report.signature", "the quoting enclave's report is not signed by the platform's PCK"
    ),
    "QE report hash mismatch": _Refusal(
        "quote", "quote.attestation_key", "the quoting enclave does not vouch for the key that signed the quote"
    ),
    "QE report validation failed": _QE_IDENTITY,
    "QE MRSIGNER mismatch": _QE_IDENTITY,
    "QE ISVPRODID mismatch": _QE_IDENTITY,
    "QE MISCSELECT mismatch": _QE_IDENTITY,
    "QE ATTRIBUTES mismatch": _QE_IDENTITY,
    "QE ISVSVN": _QE_IDENTITY,
    "ISV enclave report signature is invalid": _Refusal(
        "quote", "quote.signature", "the quote was altered after it was signed"
    ),
    "No matching TCB level found": _Refusal(
        "tcb", "tcb.unknown", "the platform is older than every TCB level that Intel knows"
    ),
    "TDX module": _TDX_MODULE,
    "TCB status is invalid: Revoked": _Refusal(
        "tcb", "tcb.revoked", "Intel has revoked this TCB level: the platform's keys may have leaked"
    ),
    "Debug mode is enabled": _ATTRIBUTES,
    "TD profiling is enabled": _ATTRIBUTES,
    "SERVTD_EXT is enabled": _ATTRIBUTES,
    "SEPT_VE_DISABLE is not enabled": _ATTRIBUTES,
    "TD migration is enabled": _ATTRIBUTES,
    "Reserved bits in TD attributes are set": _ATTRIBUTES,
    "Invalid MR service TD": _ATTRIBUTES,
}
_PREFIX = "Verification failed: "
_UNKNOWN_REFUSAL = _Refusal("quote", "quote.refused", "the quote was refused")


class _Tcb(msgspec.Struct, frozen=True):
    status: str
    advisory_ids: tuple[str, ...]
    eval_data_number: int


class _TcbLevel(msgspec.Struct, frozen=True, rename="camel"):
    tcb_date: datetime


class _Pck(msgspec.Struct, frozen=True):
    ppid: list[int]
    pce_svn: int
    dynamic_platform: str
    cached_keys: str
    smt_enabled: str


class _Platform(msgspec.Struct, frozen=True):
    tcb_level: _TcbLevel
    pck: _Pck


class _QeReport(msgspec.Struct, frozen=True):
    isv_svn: int


class _Qe(msgspec.Struct, frozen=True):
    tcb_level: _TcbLevel
    report: _QeReport


class _QvlClaims(msgspec.Struct, frozen=True):
    """The part of dcap-qvl's claims (its version 1) that is not taken from the quote itself."""

    tcb: _Tcb
    platform: _Platform
    qe: _Qe


_decode_claims = msgspec.json.Decoder(_QvlClaims).decode


def verify(evidence: Evidence, *, anchors: Sequence[Anchor], now: datetime, checks: Checklist) -> Claims:
    """Verify a quote with the collateral beside it, and say what it proves.

    Args:
        evidence: of `TEE.INTEL_SGX` (version 3) or `TEE.INTEL_TDX` (versions 4 and 5).
        anchors: the roots on which its chains may end.
        now: the time of the verification, with its time zone; used in whole seconds.
        checks: where each step is recorded, in order, up to the first refusal.

    Raises:
        AttestationError: with the step and the code of the first check that refused.
        ValueError: `now` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError("now must have a time zone")
    now = now.astimezone(UTC).replace(microsecond=0)
    with checks.check("evidence", expected=f"a quote of {evidence.tee}") as check:
        quote = parse(evidence.quote)
        check.got = f"a quote of {quote.tee}, version {quote.version}"
        if quote.tee is not evidence.tee:
            raise AttestationError("the quote is of another TEE than the evidence says", code="evidence.tee")
        require_no_trailing_data(quote)
    with checks.check("endorsements", expected=", ".join(anchor.name for anchor in anchors)) as check:
        if evidence.intel_collateral is None:
            raise refusal(
                "missing",
                "the evidence came without collateral, so that nothing can be verified",
                expected="TCB info, QE identity and revocation lists beside the quote",
                got="none",
                likely="the enclave's host cannot reach its collateral service (PCCS)",
            )
        collateral = check_collateral(evidence.intel_collateral, tuple(anchors))
        collateral.require_for(quote.tee)
        windows = collateral.windows + check_pck_chain(quote.pck_chain, collateral).windows
        require_current(windows, now)
        check.got = collateral.anchor.name
    with checks.check("quote", expected="signed by a quoting enclave of this anchor") as check:
        verdict = _judge(evidence.quote, quote, collateral, now)
        check.got = "verified"
    if isinstance(verdict, AttestationError):
        with checks.check(verdict.step):
            raise verdict
    return _claims(quote, verdict, collateral, windows)


def _judge(
    raw: bytes, quote: UnverifiedQuote, collateral: CheckedCollateral, now: datetime
) -> _QvlClaims | AttestationError:
    """Ask dcap-qvl, unless it accepted the same enclave on the same platform before.

    Its verdict is a function of the quote, the collateral and the time. Where quote and collateral are, byte for
    byte, those of an accepted quote but for report_data and the signature, and the caller has compared every
    validity window with `now`, only the signature by the (same) attestation key is left to check.

    Returns:
        dcap-qvl's claims, or the refusal of a later step, which implies that the signatures hold.

    Raises:
        AttestationError: step `quote`.
    """
    key = (collateral, quote.authentication, quote.identity)
    remembered = _remembered.get(key)
    if remembered is not None and is_signed_by(remembered.attestation_key, quote.signature, quote.signed):
        return remembered.verdict
    seconds = int(now.timestamp())
    policy = dcap_qvl.QuotePolicy.claims_only(seconds)
    try:
        claims = collateral.verifier.verify_with_policy(raw, collateral.qvl, seconds, policy)
    except ValueError as error:
        refused = _refusal_of(str(error), quote)
        if refused.step == "quote":
            raise refused from error
        return refused
    try:
        require_strict_attributes(quote)  # of SGX attributes, dcap-qvl looks at debug alone
    except AttestationError as error:
        return error
    verdict = _decode_claims(claims.to_json())
    _remembered.put(key, _Remembered(_public_key(quote.attestation_key), verdict))
    return verdict


def _refusal_of(text: str, quote: UnverifiedQuote) -> AttestationError:
    known = next((refusal for sentence, refusal in _REFUSALS.items() if sentence in text), _UNKNOWN_REFUSAL)
    if known is _ATTRIBUTES:
        try:
            require_strict_attributes(quote)
        except AttestationError as error:
            return error
    return AttestationError(known.message, code=known.code, step=known.step, got=text.removeprefix(_PREFIX))


def _claims(
    quote: UnverifiedQuote, verdict: _QvlClaims, collateral: CheckedCollateral, windows: Sequence[Window]
) -> Claims:
    platform = {
        "smt": verdict.platform.pck.smt_enabled,
        "dynamic_platform": verdict.platform.pck.dynamic_platform,
        "cached_keys": verdict.platform.pck.cached_keys,
    }
    dates = [verdict.platform.tcb_level.tcb_date, verdict.qe.tcb_level.tcb_date]
    return Claims(
        tee=quote.tee,
        simulated=collateral.anchor.simulated,
        anchor=collateral.anchor.name,
        report_data=quote.report_data,
        measurements=quote.measurements,
        svns={**quote.svns, "pce_svn": verdict.platform.pck.pce_svn, "qe_svn": verdict.qe.report.isv_svn},
        debug=quote.debug,
        flags={**quote.flags, **{name: value == "True" for name, value in platform.items() if value != "Undefined"}},
        tcb_status=verdict.tcb.status,
        tcb_date=min(dates),
        tcb_evaluation_data_number=verdict.tcb.eval_data_number,
        advisories=verdict.tcb.advisory_ids,
        chip_id=bytes(verdict.platform.pck.ppid).hex(),
        not_after=min(window.not_after for window in windows),
    )


class _Remembered(msgspec.Struct, frozen=True):
    attestation_key: ec.EllipticCurvePublicKey
    verdict: _QvlClaims


class _Memory:
    """The verdicts used last, a bounded number of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = Lock()
        self._verdicts: OrderedDict[tuple[CheckedCollateral, bytes, bytes], _Remembered] = OrderedDict()

    def get(self, key: tuple[CheckedCollateral, bytes, bytes]) -> _Remembered | None:
        with self._lock:
            found = self._verdicts.get(key)
            if found is not None:
                self._verdicts.move_to_end(key)
            return found

    def put(self, key: tuple[CheckedCollateral, bytes, bytes], value: _Remembered) -> None:
        with self._lock:
            self._verdicts[key] = value
            while len(self._verdicts) > self._size:
                self._verdicts.popitem(last=False)


_remembered = _Memory(REMEMBERED_QUOTES)


def _public_key(point: bytes) -> ec.EllipticCurvePublicKey:
    uncompressed = b"\x04" + point  # SEC 1, section 2.3.3
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), uncompressed)
