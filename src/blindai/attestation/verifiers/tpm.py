"""Verify a TPM 2.0: evidence in, claims out. Pure: no clock, no network, no file.

The steps, by the names under which they are recorded:

    evidence      quote, signature, keys and boot log have their layout, and nothing follows them
    endorsements  the EK is certified by a maker that the policy trusts, and the AK is in the same TPM
    quote         the AK signed the quote, the PCR values are those that it signed, and the boot log explains them

The certificate is about the EK, which cannot sign. That the AK, which can, is in the same TPM is not something that
evidence can say: the relying party finds out by a credential (`Activation`), or evidence of a TPM is refused.

Left to the policy: report_data and the PCRs. A TPM measures what was booted. It does not keep the machine's memory
from whoever owns the machine, so that these claims are weaker than those of the other TEEs.

Sources: TCG TPM 2.0 Library, parts 1 to 3; TCG EK Credential Profile 2.6; TCG PC Client Platform Firmware Profile 1.06.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from blindai.attestation.anchors import Anchor, Vendor
from blindai.attestation.claims import Claims
from blindai.attestation.eventlog import EXTENDED_LATER, BootLog, parse_boot_log
from blindai.attestation.evidence import TEE, Activation, Evidence
from blindai.attestation.result import Checklist, OpenCheck
from blindai.attestation.verifiers.certificates import refusal, whole_second
from blindai.attestation.verifiers.tpm_certificates import CheckedChain, check_chain
from blindai.attestation.verifiers.tpm_quote import (
    UnverifiedQuote,
    check_quote,
    endorsement_key_fault,
    parse_quote,
    require_attestation_key,
)
from blindai.attestation.verifiers.tpm_structures import Public, parse_public
from blindai.errors import AttestationError


class _Parsed(msgspec.Struct, frozen=True):
    quote: UnverifiedQuote
    ak: Public
    ek: Public
    ek_certificates: tuple[bytes, ...]
    boot_log: BootLog | None


def verify(
    evidence: Evidence,
    *,
    anchors: Sequence[Anchor],
    now: datetime,
    checks: Checklist,
    activation: Activation | None = None,
) -> Claims:
    """Verify a quote and the TPM that made it, and say what it proves.

    Args:
        evidence: of `TEE.TPM`.
        anchors: the roots on which the EK's certificates may end.
        now: the time of the verification, with its time zone; used in whole seconds.
        checks: where each step is recorded, in order, up to the first refusal.
        activation: what came of the credential that the relying party made for this TPM.

    Raises:
        AttestationError: with the step and the code of the first check that refused.
        ValueError: `now` has no time zone.
    """
    now = whole_second(now)
    with checks.check("evidence", expected=f"a quote of {TEE.TPM}") as check:
        parsed = _parse(evidence)
        check.got = f"a quote of {len(parsed.quote.pcrs)} PCRs"
    anchors = tuple(anchor for anchor in anchors if anchor.vendor is Vendor.TPM)
    with checks.check("endorsements", expected=", ".join(anchor.name for anchor in anchors)) as check:
        chain = check_chain(parsed.ek_certificates, anchors, now)
        for index, certificate in enumerate(parsed.ek_certificates):
            check.uses(f"tpm_identity.ek_certificates.{index}", 0, len(certificate), "signed by the next one")
        _require_endorsed(parsed.ek, chain)
        check.uses("tpm_identity.ek_public", 0, len(parsed.ek.raw), "key, compared with the EK certificate")
        _require_activated(parsed, activation)
        check.uses("tpm_identity.ak_public", 0, len(parsed.ak.raw), "name, activated", parsed.ak.name.hex())
        check.got = f"{chain.anchor.name}, attestation key activated"
    with checks.check("quote", expected="signed by the AK") as check:
        require_attestation_key(parsed.ak, parsed.quote.signature)
        check_quote(parsed.quote, parsed.ak.key, check)
        if parsed.boot_log is not None:
            _require_explained(parsed.quote.pcrs, parsed.boot_log, check)
        check.got = "verified" if parsed.boot_log is None else "verified, and the boot log explains the PCRs"
    return Claims(
        tee=TEE.TPM,
        simulated=chain.anchor.simulated,
        anchor=chain.anchor.name,
        report_data=parsed.quote.attest.extra_data,
        measurements=parsed.quote.measurements,
        svns=parsed.quote.svns,
        debug=False,
        chip_id=hashlib.sha256(chain.spki).hexdigest(),
        crl_checked=False,
        locations=parsed.quote.locations,
        not_after=chain.not_after,
    )


def _parse(evidence: Evidence) -> _Parsed:
    quote = parse_quote(evidence.quote, evidence.tpm)
    identity = evidence.tpm_identity
    if identity is None:
        raise AttestationError(
            "the quote came without the identity of its TPM",
            code="evidence.malformed",
            step="evidence",
            expected="tpm_identity",
            got="none",
        )
    log = evidence.tpm.event_log if evidence.tpm is not None else None
    return _Parsed(
        quote=quote,
        ak=parse_public(identity.ak_public, what="the AK"),
        ek=parse_public(identity.ek_public, what="the EK"),
        ek_certificates=identity.ek_certificates,
        boot_log=None if log is None else parse_boot_log(log),
    )


def _require_endorsed(ek: Public, chain: CheckedChain) -> None:
    """The key that was asked to open the credential must be the one that the maker certified.

    Raises:
        AttestationError: `endorsements.endorsement_key`.
    """
    fault = endorsement_key_fault(ek)
    if not fault and ek.spki != chain.spki:
        fault = f"the key {hashlib.sha256(ek.spki).hexdigest()}"
    if fault:
        raise refusal(
            "endorsement_key",
            "the endorsement key is not the one that the TPM's maker certified",
            expected=f"a storage key with the key {hashlib.sha256(chain.spki).hexdigest()}",
            got=fault,
            likely="the certificate of another TPM was put beside the evidence",
        )


def _require_activated(parsed: _Parsed, activation: Activation | None) -> None:
    """The attestation key must be in the TPM of the endorsement key.

    Raises:
        AttestationError: `endorsements.not_activated` (nobody asked), `endorsements.activation` (the answer is wrong,
            or another TPM or key was asked).
    """
    if activation is None:
        raise refusal(
            "not_activated",
            "nothing shows that the attestation key is in the TPM of the certificate",
            expected="a credential that this TPM has opened for this key",
            got="none",
            likely="the evidence was judged without a connection to the TPM that made it",
        )
    challenged = (activation.ek_public, activation.ak_name)
    if challenged != (parsed.ek.raw, parsed.ak.name):
        raise refusal(
            "activation",
            "the evidence is of another TPM or key than the one that opened the credential",
            expected=f"AK {activation.ak_name.hex()}",
            got=f"AK {parsed.ak.name.hex()}",
            likely="two TPMs answer for one address, or one lends its name to another",
        )
    if not activation.secret or not hmac.compare_digest(activation.secret, activation.answer):
        raise refusal(
            "activation",
            "the TPM of the certificate did not open the credential for this attestation key",
            expected="the secret of the credential",
            got="something else",
            likely="the attestation key is not in this TPM: anybody could have made it",
        )


def _require_explained(pcrs: Mapping[int, bytes], log: BootLog, check: OpenCheck) -> None:
    """The boot log must give the PCRs that it is about, but for those that the running system goes on to extend.

    Raises:
        AttestationError: `quote.event_log`, step `quote`.
    """
    for index, value in sorted(log.replay().items()):
        if index in EXTENDED_LATER or index not in pcrs:
            continue
        check.uses(f"tpm.pcrs.{index}", 0, len(value), "compared with the replay of the boot log", value.hex())
        if pcrs[index] != value:
            raise AttestationError(
                "the boot log is not the one of this boot: it does not explain the PCRs",
                code="quote.event_log",
                step="quote",
                expected=f"PCR {index}: {pcrs[index].hex()}",
                got=value.hex(),
                likely="the log was changed or cut, or something extended the PCR without an entry",
            )
