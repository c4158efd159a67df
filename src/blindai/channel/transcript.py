"""What one fresh gate said, kept whole: enough for anyone to repeat its appraisal later, without the connection.

Nothing in it is secret. `ekm` is keying material that TLS derived for this one label and nonce, by a function that
cannot be run backwards (RFC 8446, section 7.5); no key of the connection follows from it, and nothing uses it as one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from blindai.attestation.appraisal import appraise
from blindai.attestation.evidence import Activation, Evidence
from blindai.attestation.policy import Policy
from blindai.attestation.result import AttestationResult, Checklist
from blindai.channel.binding import ConnectionBinding, unbound
from blindai.channel.keyset import Keyset
from blindai.channel.statement import Statement, config_digest, device_nonce, devices_digest
from blindai.errors import AttestationError


class Transcript(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One fresh gate, as the relying party knows it.

    Attributes:
        at: when it was, by the relying party's clock.
        statement: what the evidence must commit to, as the relying party computed it from its own end.
        claimed: the peer's view of the same; only ever used to say in which field the two differ.
        keyset, config: what the peer showed; the digests in `statement` are theirs.
        evidence: as it came, before anybody parsed it.
        activation: of the TPM's attestation key, where the relying party made one.
    """

    at: Annotated[datetime, msgspec.Meta(tz=True)]
    statement: Statement
    claimed: Statement | None = None
    keyset: Keyset
    config: dict[str, Any]
    evidence: msgspec.Raw
    activation: Activation | None = None

    def appraise(self, policy: Policy, *, now: datetime, checks: Checklist | None = None) -> AttestationResult:
        """The verdict on the evidence by `policy` at `now`. Pure: the same in the gate and in a later audit.

        Raises:
            AttestationError: as `appraisal.appraise`; `binding.record` if statement and parts contradict each other;
                `binding.key` if the keyset is not that of the connection's TLS key.
            ValueError, OverflowError, OSError: keyset or configuration cannot be what any peer committed to.
        """
        keyset_digest, config = self.keyset.digest, config_digest(self.config)
        evidence = Evidence.decode(bytes(self.evidence))
        for name, digest in (
            ("keyset_digest", keyset_digest),
            ("config_digest", config),
            ("devices_digest", devices_digest(evidence.devices)),
        ):
            if getattr(self.statement, name) != digest:
                raise AttestationError(
                    "the record contradicts itself: its statement is about other parts than it holds",
                    code="binding.record",
                    step="binding",
                    expected=f"{name} {digest}",
                    got=getattr(self.statement, name),
                    likely="the file was edited",
                )
        result = appraise(
            evidence,
            policy=policy,
            binding=ConnectionBinding(self.statement, self.claimed),
            config_digest=config,
            keyset_digest=keyset_digest,
            now=now,
            not_after=self.keyset.expires_at,
            checks=checks,
            activation=self.activation,
            device_nonce=device_nonce(bytes.fromhex(self.statement.nonce), bytes.fromhex(self.statement.spki_sha256)),
        )
        # The enclave that signed committed to its keyset; that keyset must name the key of this connection.
        if self.keyset.tls_spki_sha256 != self.statement.spki_sha256:
            raise unbound(
                result,
                "the enclave's keyset names another TLS key",
                code="binding.key",
                expected=self.statement.spki_sha256,
                got=self.keyset.tls_spki_sha256,
            )
        return result
