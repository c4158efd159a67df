"""From evidence and policy to an attestation result (RFC 9334, section 8.4)."""

from blindai.attestation.appraisal.appraisal import appraise

__all__ = ["appraise"]
