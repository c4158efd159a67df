"""One endorsement as a service hands it out and as a file holds it, with the time for which its issuer signed it.

A file is text that other tools read: a certificate, chain or revocation list in PEM, or Intel's signed JSON, each
followed by the chain of its issuer in PEM where the service gives one. Certificates and lists may also lie there in
DER, as a service hands them out.
"""

from __future__ import annotations

import binascii
import ssl
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from blindai.attestation.verifiers.amd_certificates import parse_certificate
from blindai.attestation.verifiers.certificates import UNPARSABLE, Window, certificate_windows, crl_window, load_pem
from blindai.errors import AttestationError, Unavailable

# The largest are TCB info and PCK revocation lists, with some ten KB; evidence with all of them has at most 1 MB.
MAX_DOCUMENT_BYTES = 256 * 1024

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_CRL = b"-----BEGIN X509 CRL-----"

_Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Kind(StrEnum):
    """What a document is."""

    SIGNED = "signed JSON"
    CRL = "revocation list"
    CHAIN = "certificate chain"
    CERTIFICATE = "certificate"


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked for.

    Attributes:
        name: of its file; it tells documents of different platforms apart.
        what: how messages call it.
        kind: how it is parsed.
        url: where it is asked for; `""` for what no service hands out.
        chain_headers: names of the HTTP header that holds the chain of its issuer, URL-encoded PEM.
    """

    name: str
    what: str
    kind: Kind
    url: str
    chain_headers: tuple[str, ...] = ()


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A document that came, parsed but not verified.

    Attributes:
        body: DER of a certificate or list; PEM of a chain; the JSON as it was signed, in the answer's own frame.
        chain: of its issuer, PEM, leaf first, or `""`.
        window: when it and its issuer's chain are valid, by their own words.
        fetched_at: UTC.
    """

    body: bytes
    chain: str
    window: Window
    fetched_at: datetime


class _Dates(msgspec.Struct, frozen=True, rename="camel"):
    issue_date: _Time
    next_update: _Time


class _SignedAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """Intel's answers hold one of the two (PCS API version 4)."""

    signature: str
    tcb_info: _Dates | None = None
    enclave_identity: _Dates | None = None


def read(document: Document, data: bytes, *, chain: str = "", fetched_at: datetime) -> Entry:
    """Parse what a service answered or a file holds.

    Args:
        document: what it should be.
        data: DER, PEM, hex of DER (as a PCCS sends lists), or JSON; a file holds the issuer's chain behind it.
        chain: the issuer's chain from the header of an answer.
        fetched_at: when it came, UTC.

    Raises:
        Unavailable: `collateral.malformed`.
    """
    try:
        if document.kind in {Kind.SIGNED, Kind.CRL} and not chain:
            data, marker, behind = data.partition(_CERTIFICATE)
            chain = (marker + behind).decode("ascii")
        body, windows = _PARSERS[document.kind](document.what, data)
        if document.chain_headers:
            windows += certificate_windows(load_pem(chain, maximum=MAX_DOCUMENT_BYTES))
    except (*UNPARSABLE, msgspec.DecodeError, AttestationError) as error:
        raise Unavailable(
            f"{document.what} cannot be parsed: {error.message if isinstance(error, AttestationError) else error}",
            code="collateral.malformed",
        ) from error
    not_before = max(window.not_before for window in windows)
    not_after = min(window.not_after for window in windows)
    window = Window(document.what, document.kind, not_before, not_after)
    return Entry(body=body, chain=chain, window=window, fetched_at=fetched_at)


def to_file(document: Document, entry: Entry) -> bytes:
    """The text that `read` reads again."""
    chain = entry.chain.encode()
    match document.kind:
        case Kind.SIGNED:
            return entry.body + b"\n" + chain
        case Kind.CRL:
            return x509.load_der_x509_crl(entry.body).public_bytes(Encoding.PEM) + chain
        case Kind.CERTIFICATE:
            return ssl.DER_cert_to_PEM_cert(entry.body).encode()
        case Kind.CHAIN:
            return entry.body


def _signed(what: str, data: bytes) -> tuple[bytes, tuple[Window, ...]]:
    data.decode()  # msgspec does not look into text that it skips
    answer = msgspec.json.decode(data, type=_SignedAnswer)
    dates = answer.tcb_info or answer.enclave_identity
    if dates is None:
        raise ValueError("neither tcbInfo nor enclaveIdentity is in it")
    return data.strip(), (Window(what, Kind.SIGNED, dates.issue_date, dates.next_update),)


def _crl(what: str, data: bytes) -> tuple[bytes, tuple[Window, ...]]:
    crl = x509.load_pem_x509_crl(data) if data.lstrip().startswith(_CRL) else x509.load_der_x509_crl(_der(data))
    return crl.public_bytes(Encoding.DER), (crl_window(crl, what=what),)


def _chain(what: str, data: bytes) -> tuple[bytes, tuple[Window, ...]]:
    certificates = load_pem(data.decode("ascii"), maximum=MAX_DOCUMENT_BYTES)
    if len(certificates) != 2:
        raise ValueError(f"{what} are 2, not {len(certificates)}")
    body = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    return body, certificate_windows(certificates)


def _certificate(what: str, data: bytes) -> tuple[bytes, tuple[Window, ...]]:
    text = data.strip()
    der = ssl.PEM_cert_to_DER_cert(text.decode("ascii")) if text.startswith(_CERTIFICATE) else data
    return der, certificate_windows([parse_certificate(der, what=what)])


def _der(data: bytes) -> bytes:
    """DER, or the hex of it."""
    try:
        return binascii.unhexlify(data.strip())
    except binascii.Error:
        return data


_PARSERS = {Kind.SIGNED: _signed, Kind.CRL: _crl, Kind.CHAIN: _chain, Kind.CERTIFICATE: _certificate}
