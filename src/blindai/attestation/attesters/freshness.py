"""Whether what a platform handed out is what was asked of it.

This is no verification: the relying party does that. It keeps evidence of another request, such as one that a second
process made at the same moment, from being sent to somebody who could only call it a replay.
"""

from __future__ import annotations

import hmac

from blindai.attestation.evidence import TEE
from blindai.attestation.verifiers import intel_quote
from blindai.errors import AttestationError, Unavailable

REPORT_DATA_BYTES = 64

# ATTESTATION_REPORT (AMD SEV-SNP firmware ABI 56860, table "ATTESTATION_REPORT structure").
SNP_REPORT_BYTES = 0x4A0
SNP_REPORT_DATA_AT = 0x50


def require_report_data(report_data: bytes) -> None:
    """Refuse a caller that does not hand in 64 bytes.

    Raises:
        ValueError: a mistake of the caller, not of the platform.
    """
    if len(report_data) != REPORT_DATA_BYTES:
        raise ValueError(f"report_data is {REPORT_DATA_BYTES} bytes, not {len(report_data)}")


def intel_quote_over(report_data: bytes, blob: bytes, *, tee: TEE) -> bytes:
    """The quote in `blob`, without zeros that fill up its buffer.

    Raises:
        Unavailable: `attester.quote`, this is no quote of `tee`; `attester.stale`, it carries other report_data.
    """
    try:
        quote = intel_quote.parse(blob)
        intel_quote.require_no_trailing_data(quote)
    except AttestationError as error:
        raise _no_quote(tee, f"{error.message}; expected {error.expected}, got {error.got}") from error
    if quote.tee is not tee:
        raise _no_quote(tee, f"it is one of {quote.tee}")
    _require_ours(report_data, quote.report_data)
    return blob[: len(blob) - len(quote.trailing)]


def snp_report_over(report_data: bytes, blob: bytes) -> bytes:
    """The SEV-SNP report in `blob`.

    Raises:
        Unavailable: `attester.quote`, it has another size than a report; `attester.stale`, it carries other report_data.
    """
    if len(blob) != SNP_REPORT_BYTES:
        raise _no_quote(TEE.AMD_SEV_SNP, f"a report has {SNP_REPORT_BYTES} bytes, this has {len(blob)}")
    _require_ours(report_data, blob[SNP_REPORT_DATA_AT : SNP_REPORT_DATA_AT + REPORT_DATA_BYTES])
    return blob


def _require_ours(expected: bytes, got: bytes) -> None:
    if not hmac.compare_digest(expected, got):
        raise Unavailable(
            f"the platform handed out evidence that was made for another request: {got.hex()}",
            code="attester.stale",
            hint="let no other process use the same attestation files",
        )


def _no_quote(tee: TEE, why: str) -> Unavailable:
    return Unavailable(f"the platform handed out no quote of {tee}: {why}", code="attester.quote")
