"""Whether what a platform handed out is what was asked of it.

This is no verification: the relying party does that. It keeps evidence of another request, such as one that a second
process made at the same moment, from being sent to somebody who could only call it a replay.
"""

from __future__ import annotations

import hmac

from blindai.attestation.evidence import TEE
from blindai.attestation.verifiers import amd_report, intel_quote
from blindai.attestation.verifiers.amd_report import UnverifiedReport
from blindai.errors import AttestationError, Unavailable


def intel_quote_over(report_data: bytes, blob: bytes, *, tee: TEE) -> bytes:
    """The quote in `blob`, without zeros that fill up its buffer.

    Raises:
        Unavailable: `attester.quote`, this is no quote of `tee`; `attester.stale`, it carries other report_data.
    """
    try:
        quote = intel_quote.parse(blob)
        intel_quote.require_no_trailing_data(quote)
    except AttestationError as error:
        raise _no_quote(tee, error) from error
    if quote.tee is not tee:
        raise Unavailable(f"the platform handed out a quote of {quote.tee}, not of {tee}", code="attester.quote")
    _require_ours(report_data, quote.report_data)
    return blob[: len(blob) - len(quote.trailing)]


def snp_report_over(report_data: bytes, blob: bytes) -> UnverifiedReport:
    """The SEV-SNP report that `blob` is.

    Raises:
        Unavailable: `attester.quote`, this is no report; `attester.stale`, it carries other report_data.
    """
    try:
        report = amd_report.parse(blob)
    except AttestationError as error:
        raise _no_quote(TEE.AMD_SEV_SNP, error) from error
    _require_ours(report_data, report.field("report_data"))
    return report


def _require_ours(expected: bytes, got: bytes) -> None:
    if not hmac.compare_digest(expected, got):
        raise Unavailable(
            f"the platform handed out evidence that was made for another request: {got.hex()}",
            code="attester.stale",
            hint="let no other process use the same attestation files",
        )


def _no_quote(tee: TEE, error: AttestationError) -> Unavailable:
    return Unavailable(
        f"the platform handed out no evidence of {tee}: {error.message}; expected {error.expected}, got {error.got}",
        code="attester.quote",
    )
