"""A TPM 2.0 quote: what its signature covers, by which kind of key, and the PCR values that explain its digest.

Used for TPMs of their own (`tpm`) and for the virtual TPM of Azure's confidential VMs, whose key needs no endorsement
by a maker of TPMs. First `parse_quote` (step `evidence`), then `check_quote` (step `quote`) with a key that somebody
else vouches for.

Source: TCG TPM 2.0 Library, part 1, section 31 (attestation) and part 3, TPM2_Quote.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from blindai.attestation.claims import Location
from blindai.attestation.evidence import TpmQuote
from blindai.attestation.result import OpenCheck
from blindai.attestation.verifiers.tpm_structures import (
    HASH_ALGORITHMS,
    HASHES,
    PCR_BYTES,
    PCR_COUNT,
    Algorithm,
    Attest,
    Attributes,
    Public,
    PublicKey,
    Signature,
    parse_attest,
    parse_signature,
)
from blindai.errors import AttestationError

# A restricted signing key signs only what its TPM says about itself (part 1, section 25.1.5). It never leaves the
# TPM (fixed), and was made in it, so that nobody has a copy (sensitiveDataOrigin).
_AK_SET = (
    Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
    | Attributes.RESTRICTED
    | Attributes.SIGN
)
# A storage key: it decrypts credentials, and nothing that its holder chooses.
_EK_SET = (
    Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
    | Attributes.RESTRICTED
    | Attributes.DECRYPT
)
# Who must authorise the use of a key, and for how long it lasts, take nothing from what it proves.
_HARMLESS = Attributes.ST_CLEAR | Attributes.USER_WITH_AUTH | Attributes.ADMIN_WITH_POLICY | Attributes.NO_DA


class UnverifiedQuote(msgspec.Struct, frozen=True):
    """A quote that was parsed, and no more.

    Attributes:
        attest: what is signed.
        signature: over `attest.raw`.
        pcrs: the values that are said to be behind `attest.pcr_digest`; for the selected PCRs, each of them 32 bytes.
    """

    attest: Attest
    signature: Signature
    pcrs: Mapping[int, bytes]

    @property
    def measurements(self) -> dict[str, str]:
        """`pcr0`.. to lower-case hex."""
        return {f"pcr{index}": self.pcrs[index].hex() for index in sorted(self.pcrs)}

    @property
    def svns(self) -> dict[str, int]:
        """The counters of the TPM, by the names that `Claims` uses."""
        return {
            "tpm_firmware_version": self.attest.firmware_version,
            "reset_count": self.attest.reset_count,
            "restart_count": self.attest.restart_count,
        }

    @property
    def locations(self) -> dict[str, Location]:
        """Where report_data and the PCRs stand in the evidence."""
        start = self.attest.extra_data_at
        found = {"report_data": Location("quote", start, start + len(self.attest.extra_data))}
        for index in sorted(self.pcrs):
            found[f"pcr{index}"] = Location(f"tpm.pcrs.{index}", 0, PCR_BYTES)
        return found


def parse_quote(quote: bytes, tpm: TpmQuote | None) -> UnverifiedQuote:
    """Parse a quote, its signature and the PCR values beside it.

    Raises:
        AttestationError: step `evidence`; `evidence.malformed` (also for PCR values of another size or number than
            any TPM has), and what `parse_attest` and `parse_signature` raise.
    """
    if tpm is None:
        raise AttestationError(
            "the quote came without its signature and PCR values",
            code="evidence.malformed",
            step="evidence",
            expected="tpm",
            got="none",
        )
    attest = parse_attest(quote)
    signature = parse_signature(tpm.signature)
    for index, value in tpm.pcrs.items():
        if not 0 <= index < PCR_COUNT or len(value) != PCR_BYTES:
            raise AttestationError(
                "the values of the PCRs are malformed",
                code="evidence.malformed",
                step="evidence",
                expected=f"PCRs 0 to {PCR_COUNT - 1} of {PCR_BYTES} bytes",
                got=f"PCR {index} of {len(value)} bytes",
            )
    return UnverifiedQuote(attest, signature, tpm.pcrs)


def check_quote(quote: UnverifiedQuote, key: PublicKey, check: OpenCheck, *, signer: str = "AK") -> None:
    """Require that `key` signed the quote and that the PCR values are those that it is about.

    Args:
        quote: as `parse_quote` gave it.
        key: RSA of 2048 bits or more, or P-256 or P-384; the caller knows whose it is.
        check: where the bytes are noted that were used.
        signer: how the notes call the key.

    Raises:
        AttestationError: step `quote`; `quote.signature`, `quote.pcr_selection` (values are missing, or are there for
            PCRs that were not quoted), `quote.pcr_digest` (other values).
    """
    attest, signature = quote.attest, quote.signature
    scheme = f"{signature.scheme.name} with {signature.hash.name}"
    check.uses("quote", 0, len(attest.raw), f"signed by the {signer} ({scheme})")
    if not _is_signed(attest.raw, signature, key):
        raise AttestationError(
            "the quote was altered after it was signed, or signed by another key",
            code="quote.signature",
            step="quote",
            expected=f"a signature by the {signer}",
            got=f"{scheme}, which does not verify",
        )
    values = tuple(sorted(quote.pcrs))
    if values != attest.selection:
        raise AttestationError(
            "the quote is not about the PCRs whose values came with it",
            code="quote.pcr_selection",
            step="quote",
            expected=_listed(attest.selection),
            got=_listed(values),
            likely="the operator left out PCRs, or put in others",
        )
    digest = HASHES[signature.hash](b"".join(quote.pcrs[index] for index in values)).digest()
    end = attest.pcr_digest_at + len(attest.pcr_digest)
    check.uses("quote", attest.pcr_digest_at, end, f"{signature.hash.name} of the PCRs, compared", digest.hex())
    if digest != attest.pcr_digest:
        raise AttestationError(
            "the values of the PCRs are not those that the TPM signed",
            code="quote.pcr_digest",
            step="quote",
            expected=attest.pcr_digest.hex(),
            got=digest.hex(),
            likely="the values were changed after the quote was made, or a PCR was extended in between",
        )


def require_attestation_key(public: Public, signature: Signature) -> None:
    """Refuse a key that may sign anything but statements of its TPM, and a signature that was made in another way.

    Raises:
        AttestationError: `quote.attestation_key`, step `quote`.
    """
    fault = attributes_fault(public, _AK_SET)
    if not fault and public.symmetric_bits:
        fault = "a key that encrypts"
    if not fault and (public.scheme, public.scheme_hash) != (signature.scheme, signature.hash):
        fault = f"a signature with {signature.scheme.name} and {signature.hash.name}"
    if fault:
        raise AttestationError(
            "the key that signed is no attestation key: it may sign what anyone gives it",
            code="quote.attestation_key",
            step="quote",
            expected="a restricted signing key that was made in the TPM and never leaves it",
            got=fault,
        )


def endorsement_key_fault(public: Public) -> str:
    """Why `public` cannot be an endorsement key that credentials are encrypted to, or an empty string."""
    fault = attributes_fault(public, _EK_SET)
    if not fault and public.symmetric_bits not in (128, 256):
        fault = f"AES with {public.symmetric_bits} bits"
    if not fault and public.scheme is not None:
        fault = f"a key with the scheme {public.scheme.name}"
    return fault


def attributes_fault(public: Public, required: Attributes) -> str:
    """What is wrong with the attributes of a key that must have `required` and nothing that adds uses."""
    # As plain numbers: IntFlag drops unknown bits when it inverts.
    present, needed = int(public.attributes), int(required)
    missing, extra = needed & ~present, present & ~(needed | int(_HARMLESS))
    return ", ".join([*(f"not {name}" for name in _names(missing)), *_names(extra)])


def _is_signed(message: bytes, signature: Signature, key: PublicKey) -> bool:
    algorithm = HASH_ALGORITHMS[signature.hash]
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            if signature.scheme is not Algorithm.ECDSA:
                return False
            r, s = (int.from_bytes(part) for part in signature.parts)
            key.verify(encode_dss_signature(r, s), message, ec.ECDSA(algorithm))
        elif signature.scheme is Algorithm.RSASSA:
            key.verify(signature.parts[0], message, padding.PKCS1v15(), algorithm)
        elif signature.scheme is Algorithm.RSAPSS:
            # Older TPMs take the longest salt that fits, newer ones that of the hash (part 1, annex B.7).
            pss = padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO)
            key.verify(signature.parts[0], message, pss, algorithm)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _listed(indices: tuple[int, ...]) -> str:
    return f"PCR {', '.join(map(str, indices))}" if indices else "no PCR"


def _names(bits: int) -> list[str]:
    known = {int(flag): str(flag.name).lower().replace("_", "-") for flag in Attributes}
    set_ = [bit for bit in range(bits.bit_length()) if bits >> bit & 1]
    return [known.get(1 << bit, f"bit {bit}") for bit in set_]
