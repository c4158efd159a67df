"""The appraisal policy (RFC 9334, section 8.5) and its file, manifest.toml."""

from blindai.attestation.policy.policy import Policy

__all__ = ["Policy"]
