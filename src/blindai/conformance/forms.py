"""The forms in which a request may hand over evidence, turned into the one form that verifiers take.

Everything here is under test, as nobody vouches for it: what cannot be read is a refusal, not a malformed request.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import msgspec

from blindai.attestation.evidence import (
    TEE,
    Activation,
    AmdEndorsements,
    AzureReport,
    DeviceEvidence,
    DeviceKind,
    Evidence,
    IntelCollateral,
    TpmIdentity,
    TpmQuote,
)
from blindai.attestation.verifiers.certificates import refusal
from blindai.conformance.octets import UnreadableOctets, documents, octets
from blindai.errors import AttestationError

AMD_CHAIN_LENGTH = 3  # VCEK or VLEK, ASK or ASVK, ARK

# The keys of an object of endorsements, in the order in which its certificates are strung together.
_LEAF = ("certificate", "vcek", "vlek")
_CHAIN = ("certificates", "chain", "authority", "ask", "asvk", "root", "ark")

# TPMT_SIGNATURE (TPM 2.0 part 2, 11.3.4) in front of a bare RSA signature: RSASSA with SHA-256, and its size.
_RSASSA_SHA256 = struct.Struct(">HHH")
_RSA_SIGNATURE_BYTES = (256, 384, 512)


def processor(tee: TEE, evidence: Any, endorsements: Any, collateral: Any) -> tuple[Evidence, Activation | None]:
    """Evidence of a TEE, with the credential activation where a TPM's came with one.

    Raises:
        AttestationError: `evidence.malformed`, `evidence.tee`, `endorsements.malformed`.
    """
    if isinstance(evidence, dict) and "tee" in evidence:
        try:
            own = Evidence.decode(msgspec.json.encode(evidence))
        except RecursionError as error:
            raise _unreadable("evidence", "it is nested too deeply") from error
        if own.tee is not tee:
            raise AttestationError(
                "the evidence is of another TEE than the request says",
                code="evidence.tee",
                step="evidence",
                expected=tee,
                got=own.tee,
            )
        return own, None
    parts = evidence if isinstance(evidence, dict) else {"quote" if tee in _BARE else "hcl_report": evidence}
    if tee in _BARE:
        quote, tpm = _part(parts, "quote", "report"), None
    elif tee is TEE.AZURE_SEV_SNP and "quote" not in parts:
        quote, tpm = b"", None  # the paravisor's report alone
    else:
        quote, tpm = _tpm_quote(parts)
    amd = _amd(endorsements, parts.get("vcek")) if tee in {TEE.AMD_SEV_SNP, TEE.AZURE_SEV_SNP} else None
    identity, activation = _identity(parts) if tee is TEE.TPM else (None, None)
    made = Evidence(
        tee=tee,
        quote=quote,
        intel_collateral=_intel(collateral),
        amd=amd,
        tpm=tpm,
        tpm_identity=identity,
        azure=_azure(parts) if tee in {TEE.AZURE_SEV_SNP, TEE.AZURE_TDX} else None,
    )
    return made, activation


def device(kind: DeviceKind, evidence: Any) -> DeviceEvidence:
    """Evidence of a GPU or a switch.

    Raises:
        AttestationError: `evidence.malformed`.
    """
    parts = evidence if isinstance(evidence, dict) else {}
    chain = parts.get("certificates")
    try:
        text = chain if isinstance(chain, str) and "-----BEGIN" in chain else octets(chain).decode("ascii")
    except (UnreadableOctets, UnicodeDecodeError) as error:
        raise _unreadable("certificates", str(error)) from error
    return DeviceEvidence(kind=kind, report=_part(parts, "report"), certificates=text)


_PCRS = frozenset(map(str, range(24)))  # TCG PC Client Platform TPM Profile, section 4.6

_BARE = frozenset({TEE.INTEL_SGX, TEE.INTEL_TDX, TEE.AMD_SEV_SNP})


def _unreadable(name: str, reason: str) -> AttestationError:
    return AttestationError(
        f"the evidence cannot be read: {name}", code="evidence.malformed", step="evidence", got=reason
    )


def _part(parts: Mapping[str, Any], *names: str) -> bytes:
    for name in names:
        if name in parts:
            try:
                return octets(parts[name])
            except UnreadableOctets as error:
                raise _unreadable(name, error.message) from error
    raise _unreadable(names[0], "it is not there")


def _tpm_quote(parts: Mapping[str, Any]) -> tuple[bytes, TpmQuote | None]:
    inner = parts.get("quote")
    parts = dict(parts) | inner if isinstance(inner, dict) else parts
    quote = _part(parts, "message", "quote")
    signature = _part(parts, "signature")
    if len(signature) in _RSA_SIGNATURE_BYTES:
        signature = _RSASSA_SHA256.pack(0x0014, 0x000B, len(signature)) + signature
    log = _part(parts, "event_log") if parts.get("event_log") is not None else None
    return quote, TpmQuote(signature=signature, pcrs=_pcrs(parts.get("pcrs")), event_log=log)


def _pcrs(given: Any) -> dict[int, bytes]:
    if isinstance(given, list):
        given = dict(enumerate(given))
    if not isinstance(given, dict):
        raise _unreadable("pcrs", "it is not there")
    if not all(str(number) in _PCRS for number in given):
        raise _unreadable("pcrs", "a PCR has a number from 0 to 23")
    try:
        return {int(number): octets(value) for number, value in given.items()}
    except UnreadableOctets as error:
        raise _unreadable("pcrs", error.message) from error


def _identity(parts: Mapping[str, Any]) -> tuple[TpmIdentity, Activation | None]:
    try:
        certificates = tuple(documents(parts.get("ek_certificates")))
    except UnreadableOctets as error:
        raise _unreadable("ek_certificates", error.message) from error
    identity = TpmIdentity(
        ak_public=_part(parts, "ak_public"), ek_public=_part(parts, "ek_public"), ek_certificates=certificates
    )
    made = parts.get("activation")
    if made is None:
        return identity, None
    fields = made if isinstance(made, dict) else {}
    return identity, Activation(**{name: _part(fields, name) for name in Activation.__struct_fields__})


def _azure(parts: Mapping[str, Any]) -> AzureReport:
    td_quote = _part(parts, "td_quote") if parts.get("td_quote") is not None else None
    return AzureReport(hcl_report=_part(parts, "hcl_report", "report"), td_quote=td_quote)


def _amd(endorsements: Any, vcek: Any) -> AmdEndorsements | None:
    """Certificates strung together; their order is under test, so it is kept."""
    crl: Any = None
    if isinstance(endorsements, dict):
        crl = endorsements.get("crl")
        given = [endorsements[key] for key in (*_LEAF, *_CHAIN) if endorsements.get(key) is not None]
        unknown = sorted(set(endorsements) - {*_LEAF, *_CHAIN, "crl"})
        if unknown:
            raise refusal("malformed", f"no endorsement is called {unknown[0]!r}")
    else:
        given = [endorsements]
    try:
        chain = [document for item in given for document in documents(item)]
        if vcek is not None and len(chain) == AMD_CHAIN_LENGTH - 1:
            chain = documents(vcek) + chain
        lists = documents(crl)
    except UnreadableOctets as error:
        raise refusal("malformed", "the certificates cannot be read", got=error.message) from error
    if not chain:
        return None
    if len(chain) != AMD_CHAIN_LENGTH or len(lists) > 1:
        raise refusal(
            "malformed",
            "this is no chain of a report's key",
            expected="VCEK or VLEK, then ASK or ASVK, then ARK; at most one revocation list",
            got=f"{len(chain)} certificates, {len(lists)} lists",
        )
    certificate, authority, root = chain
    return AmdEndorsements(certificate, authority, root, lists[0] if lists else None)


def _intel(collateral: Any) -> IntelCollateral | None:
    if collateral is None:
        return None
    try:
        return msgspec.convert(collateral, IntelCollateral)
    except msgspec.ValidationError as error:
        raise refusal("malformed", "the collateral cannot be read", got=str(error)) from error
