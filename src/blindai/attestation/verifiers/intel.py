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

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

import dcap_qvl
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from blindai.attestation.anchors import Anchor, Vendor
from blindai.attestation.claims import Claims
from blindai.attestation.evidence import Evidence
from blindai.attestation.result import Checklist
from blindai.attestation.verifiers.certificates import Window, refusal, require_current, whole_second
from blindai.attestation.verifiers.intel_collateral import (
    CheckedCollateral,
    check_collateral,
    check_pck_chain,
    is_signed_by,
)
from blindai.attestation.verifiers.intel_layout import locations, note_pck_chain, note_signatures
from blindai.attestation.verifiers.intel_quote import (
    UnverifiedQuote,
    parse,
    require_no_trailing_data,
    require_strict_attributes,
)
from blindai.errors import AttestationError

# An entry holds about 6 KB. A client seldom talks to more enclaves than this at a time.
REMEMBERED_ENCLAVES = 64


class _Refusal(msgspec.Struct, frozen=True):
    step: str
    code: str
    message: str


# dcap-qvl reports every refusal as a ValueError with a sentence. All that can be known beforehand is checked in
# the steps before it, by code of our own; these sentences are what is left. The first that occurs in the text
# decides; a sentence that is not here gets the code `quote.refused`: it is a refusal whatever it says. Those of
# step `debug` and `tcb` come after every signature was found good.
_QE_IDENTITY = _Refusal("quote", "quote.qe_identity", "the quoting enclave is not the one that Intel published")
_ATTRIBUTES = _Refusal("debug", "platform.attributes", "the TEE runs with attributes that are not known to be safe")
_TDX_MODULE = _Refusal("tcb", "tcb.tdx_module", "the TDX module is not one that Intel published")
_UNKNOWN_TCB = _Refusal("tcb", "tcb.unknown", "the platform is at no TCB level that Intel knows")
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
    "No matching TCB level found": _UNKNOWN_TCB,
    "Failed to evaluate the current TDX TCB": _UNKNOWN_TCB,
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


# Enclave identity knows no other status (PCS API version 4) than these and Revoked; dcap-qvl would merge, say,
# OutOfDateConfigurationNeeded of a quoting enclave into UpToDate of the platform.
_QE_STATUSES = ("UpToDate", "OutOfDate")

_STATUSES = (  # from good to bad
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
)


class _Tcb(msgspec.Struct, frozen=True):
    status: str
    advisory_ids: tuple[str, ...]
    eval_data_number: int


class _TcbLevel(msgspec.Struct, frozen=True, rename="camel"):
    tcb_date: datetime
    tcb_status: str
    advisory_ids: tuple[str, ...] = msgspec.field(name="advisoryIDs", default=())


class _Pck(msgspec.Struct, frozen=True):
    ppid: list[int]
    pce_svn: int
    dynamic_platform: str
    cached_keys: str
    smt_enabled: str


class _Platform(msgspec.Struct, frozen=True):
    tcb_level: _TcbLevel
    pck: _Pck
    current_tcb_level: _TcbLevel | None = None


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


class _Accepted(msgspec.Struct, frozen=True):
    key: ec.EllipticCurvePublicKey
    verdict: _QvlClaims


class _Enclave(msgspec.Struct):
    """Room for the verdict on one enclave on one platform; empty until a quote of it was accepted."""

    accepted: _Accepted | None = None


@lru_cache(REMEMBERED_ENCLAVES)
def _enclave(collateral: CheckedCollateral, authentication: bytes, identity: bytes) -> _Enclave:
    del collateral, authentication, identity  # they are the key under which the cache keeps the new room
    return _Enclave()


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
    now = whole_second(now)
    with checks.check("evidence", expected=f"a quote of {evidence.tee}") as check:
        quote = parse(evidence.quote)
        check.got = f"a quote of {quote.tee}, version {quote.version}"
        if quote.tee is not evidence.tee:
            raise AttestationError("the quote is of another TEE than the evidence says", code="evidence.tee")
        require_no_trailing_data(quote)
    anchors = tuple(anchor for anchor in anchors if anchor.vendor is Vendor.INTEL)
    with checks.check("endorsements", expected=", ".join(anchor.name for anchor in anchors)) as check:
        if evidence.intel_collateral is None:
            raise refusal(
                "missing",
                "the evidence came without collateral, so that nothing can be verified",
                expected="TCB info, QE identity and revocation lists beside the quote",
                got="none",
                likely="the enclave's host cannot reach its collateral service (PCCS)",
            )
        collateral = check_collateral(evidence.intel_collateral, anchors)
        collateral.require_for(quote.tee)
        pck_chain = check_pck_chain(quote.pck_chain, collateral)
        note_pck_chain(check, quote)
        check.ranges += (*pck_chain.ranges, *collateral.ranges)
        windows = collateral.windows + pck_chain.windows
        require_current(windows, now)
        check.got = collateral.anchor.name
    with checks.check("quote", expected="signed by a quoting enclave of this anchor") as check:
        note_signatures(check, evidence.quote, quote)
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
    enclave = _enclave(collateral, quote.authentication, quote.identity)
    if enclave.accepted is not None and is_signed_by(enclave.accepted.key, quote.signature, quote.signed):
        return enclave.accepted.verdict
    seconds = int(now.timestamp())
    policy = dcap_qvl.QuotePolicy.claims_only(seconds)
    try:
        claims = collateral.verifier.verify_with_policy(raw, collateral.qvl, seconds, policy)
    except ValueError as error:
        refused = _refusal_of(str(error), quote)
        if refused.step == "quote":
            raise refused from error
        return refused
    verdict = _decode_claims(claims.to_json())
    qe_status = verdict.qe.tcb_level.tcb_status
    if qe_status not in _QE_STATUSES:
        return _error(_UNKNOWN_TCB, expected=" or ".join(_QE_STATUSES), got=f"quoting enclave {qe_status}")
    try:
        require_strict_attributes(quote)  # of SGX attributes, dcap-qvl looks at debug alone
    except AttestationError as error:
        return error
    enclave.accepted = _Accepted(_public_key(quote.attestation_key), verdict)
    return verdict


def _refusal_of(text: str, quote: UnverifiedQuote) -> AttestationError:
    known = next((refusal for sentence, refusal in _REFUSALS.items() if sentence in text), _UNKNOWN_REFUSAL)
    if known is _ATTRIBUTES:
        try:
            require_strict_attributes(quote)
        except AttestationError as error:
            return error
    return _error(known, got=text.removeprefix(_PREFIX))


def _error(refused: _Refusal, *, expected: str = "", got: str = "") -> AttestationError:
    return AttestationError(refused.message, code=refused.code, step=refused.step, expected=expected, got=got)


def _claims(
    quote: UnverifiedQuote, verdict: _QvlClaims, collateral: CheckedCollateral, windows: Sequence[Window]
) -> Claims:
    flags = {name: is_set for name, is_set in quote.flags.items() if name != "debug"}
    for name, value in (
        ("smt", verdict.platform.pck.smt_enabled),
        ("dynamic_platform", verdict.platform.pck.dynamic_platform),
        ("cached_keys", verdict.platform.pck.cached_keys),
    ):
        if value != "Undefined":  # PCK certificates under the Processor CA do not say
            flags[name] = value == "True"
    status, date, advisories = _tcb(verdict)
    return Claims(
        tee=quote.tee,
        simulated=collateral.simulated,
        anchor=collateral.anchor.name,
        report_data=quote.report_data,
        measurements=quote.measurements,
        svns={**quote.svns, "pce_svn": verdict.platform.pck.pce_svn, "qe_svn": verdict.qe.report.isv_svn},
        debug=quote.debug,
        flags=flags,
        tcb_status=status,
        tcb_date=date,
        tcb_evaluation_data_number=verdict.tcb.eval_data_number,
        advisories=advisories,
        chip_id=bytes(verdict.platform.pck.ppid).hex(),
        locations=locations(quote),
        not_after=min(window.not_after for window in windows),
    )


def _tcb(verdict: _QvlClaims) -> tuple[str, datetime, tuple[str, ...]]:
    """Status, date and advisories of the platform, its TDX module and its quoting enclave together.

    The date is that of the oldest part that is not up to date: from it a policy counts how long one may wait.
    """
    levels = [verdict.platform.tcb_level, verdict.qe.tcb_level]
    status, advisories = verdict.tcb.status, verdict.tcb.advisory_ids
    current = verdict.platform.current_tcb_level
    if current is not None:
        # dcap-qvl looks at the module that runs now (TEE_TCB_SVN2) only to soften what the one at launch says.
        levels.append(current)
        if _badness(current.tcb_status) > _badness(status):
            status, advisories = current.tcb_status, tuple(dict.fromkeys(advisories + current.advisory_ids))
    lagging = [level.tcb_date for level in levels if level.tcb_status != "UpToDate"]
    return status, min(lagging, default=levels[0].tcb_date), advisories


def _badness(status: str) -> int:
    return _STATUSES.index(status) if status in _STATUSES else len(_STATUSES)


def _public_key(point: bytes) -> ec.EllipticCurvePublicKey:
    uncompressed = b"\x04" + point  # SEC 1, section 2.3.3
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), uncompressed)
