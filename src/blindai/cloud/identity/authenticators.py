"""What authenticators say (Web Authentication Level 3), read and checked; nothing here touches the database.

Which authenticator it is, nobody asks: attestation would tell who made it, and none is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import webauthn
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from webauthn.helpers import (
    bytes_to_base64url,
    parse_attestation_object,
    parse_authentication_credential_json,
    parse_authenticator_data,
    parse_client_data_json,
    parse_registration_credential_json,
)
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AttestationFormat,
    AuthenticatorData,
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from blindai.cloud.identity.ceremonies import LIFETIME_SECONDS, over
from blindai.cloud.site import Site
from blindai.errors import InvalidInput

# A response holds a key or a signature, and an id of 1023 bytes at the most.
MAX_RESPONSE_CHARACTERS: Final = 16 << 10

# Web Authentication Level 3, section 4, "Credential ID".
MAX_ID_BYTES: Final = 1023

# What phones, keys and platforms make; RS256 is Windows Hello's.
_ALGORITHMS: Final = [
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
]

# Asked for none, browsers pass on nothing else but a signature of the new key itself (same, section 5.1.3, step 22).
_FORMATS: Final = frozenset({AttestationFormat.NONE, AttestationFormat.PACKED})

# What the library, and those below it, raise at bytes that a stranger has chosen.
_REFUSALS: Final = (
    WebAuthnException,
    InvalidSignature,
    UnsupportedAlgorithm,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Registered:
    """A passkey that was made for us.

    Attributes:
        id: in base64url.
        public_key: a COSE key.
        transports: how browsers reach it.
    """

    id: str
    public_key: bytes
    sign_count: int
    transports: tuple[str, ...]


@dataclass(frozen=True)
class Presented:
    """The answer of a passkey to a challenge, not checked yet.

    Attributes:
        id: in base64url.
        user: the user handle; None where the authenticator says none.
    """

    id: str
    user: bytes | None
    response: str


def creation_options(site: Site, challenge: bytes, *, user_id: str, email: str, exclude: tuple[str, ...] = ()) -> str:
    """What `navigator.credentials.create` takes, as JSON: a passkey that is found without a name being typed.

    Args:
        user_id: becomes the user handle; it says nothing about a person (section 14.6.1).
        exclude: ids of passkeys that the user has.
    """
    options = webauthn.generate_registration_options(
        rp_id=site.rp_id,
        rp_name=site.name,
        user_id=user_id.encode(),
        user_name=email,
        user_display_name=email,
        challenge=challenge,
        timeout=LIFETIME_SECONDS * 1000,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
        ),
        exclude_credentials=[PublicKeyCredentialDescriptor(webauthn.base64url_to_bytes(one)) for one in exclude],
        supported_pub_key_algs=_ALGORITHMS,
    )
    return webauthn.options_to_json(options)


def request_options(site: Site, challenge: bytes) -> str:
    """What `navigator.credentials.get` takes, as JSON. It names no passkey, so it tells nobody who has any."""
    options = webauthn.generate_authentication_options(
        rp_id=site.rp_id,
        challenge=challenge,
        timeout=LIFETIME_SECONDS * 1000,
        user_verification=UserVerificationRequirement.REQUIRED,
    )
    return webauthn.options_to_json(options)


def registered(site: Site, challenge: bytes, response: str) -> Registered:
    """Check what `create` gave (section 7.1).

    Raises:
        InvalidInput: `identity.passkey`, `identity.ceremony`, `identity.origin` or `identity.user_verification`.
    """
    with _read(response):
        credential = parse_registration_credential_json(response)
        attestation = parse_attestation_object(credential.response.attestation_object)
        _check(site, challenge, credential.response.client_data_json, attestation.auth_data)
        if attestation.fmt not in _FORMATS or len(credential.raw_id) > MAX_ID_BYTES:
            raise _refused()
        verified = webauthn.verify_registration_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=site.rp_id,
            expected_origin=site.url,
            require_user_verification=True,
            supported_pub_key_algs=_ALGORITHMS,
        )
        if verified.credential_id != credential.raw_id:
            raise _refused()
        return Registered(
            bytes_to_base64url(verified.credential_id),
            verified.credential_public_key,
            verified.sign_count,
            tuple(sorted({one.value for one in credential.response.transports or ()})),
        )


def presented(response: str) -> Presented:
    """Read which passkey answers.

    Raises:
        InvalidInput: `identity.passkey`.
    """
    with _read(response):
        credential = parse_authentication_credential_json(response)
        if len(credential.raw_id) > MAX_ID_BYTES:
            raise _refused()
        return Presented(bytes_to_base64url(credential.raw_id), credential.response.user_handle, response)


def sign_count(site: Site, challenge: bytes, answer: Presented, public_key: bytes) -> int:
    """Check an answer (section 7.2, up to step 21). What the counter means is the caller's to say.

    Returns:
        The authenticator's signature counter; 0 where it has none.

    Raises:
        InvalidInput: as `registered`.
    """
    with _read(answer.response):
        credential = parse_authentication_credential_json(answer.response)
        data = parse_authenticator_data(credential.response.authenticator_data)
        _check(site, challenge, credential.response.client_data_json, data)
        verified = webauthn.verify_authentication_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=site.rp_id,
            expected_origin=site.url,
            credential_public_key=public_key,
            credential_current_sign_count=0,
            require_user_verification=True,
        )
        return verified.new_sign_count


def _check(site: Site, challenge: bytes, client_data_json: bytes, data: AuthenticatorData) -> None:
    """What the library checks too, for refusals that say what was wrong."""
    client = parse_client_data_json(client_data_json)
    if client.challenge != challenge:
        raise over()
    if (
        client.origin != site.url
        or client.cross_origin
        or data.rp_id_hash != hashlib.sha256(site.rp_id.encode()).digest()
    ):
        raise InvalidInput("this passkey was used on another site", code="identity.origin")
    if not data.flags.uv:
        raise InvalidInput(
            "the passkey did not make sure who holds it",
            code="identity.user_verification",
            hint="set up its PIN, fingerprint or face first",
        )


@contextmanager
def _read(response: str) -> Iterator[None]:
    if len(response) > MAX_RESPONSE_CHARACTERS:
        raise _refused()
    try:
        yield
    except _REFUSALS as error:
        raise _refused() from error


def _refused() -> InvalidInput:
    return InvalidInput("the answer of the passkey cannot be used", code="identity.passkey")
