"""An authenticator without a device: passkeys with ES256 and no attestation, and every way to get an answer wrong.

It speaks as a browser passes it on: JSON of `PublicKeyCredential.toJSON()` (Web Authentication Level 3, section 5.1.6).
"""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from webauthn.helpers import encode_cbor

USER_PRESENT = 0x01
USER_VERIFIED = 0x04
ATTESTED = 0x40


def encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class Credential:
    """A passkey.

    Attributes:
        count: the signature counter; None for a passkey that counts nothing.
    """

    rp_id: str
    user: bytes
    id: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    count: int | None = 0

    @property
    def public_key(self) -> bytes:
        """COSE (RFC 9053, section 7.1.1)."""
        numbers = self.key.public_key().public_numbers()
        return encode_cbor({1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32), -3: numbers.y.to_bytes(32)})


@dataclass
class SoftwareAuthenticator:
    """Holds passkeys, and answers pages of `origin`.

    Attributes:
        verifies: whether it makes sure who holds it.
    """

    origin: str
    verifies: bool = True
    credentials: list[Credential] = field(default_factory=list)

    def create(self, options: str, **wrong: Any) -> str:
        """The answer to `navigator.credentials.create`.

        Args:
            wrong: `challenge`, `origin`, `type`, `rp_id`, `cross_origin`, `format`, `id`: said in place of what is
                right.
        """
        asked = json.loads(options)
        credential = Credential(asked["rp"]["id"], decoded(asked["user"]["id"]))
        if "id" in wrong:
            credential.id = wrong["id"]
        self.credentials.append(credential)
        attested = bytes(16) + struct.pack(">H", len(credential.id)) + credential.id + credential.public_key
        data = self._data(wrong.get("rp_id", credential.rp_id), ATTESTED, 0) + attested
        statement = encode_cbor({"fmt": wrong.get("format", "none"), "attStmt": {}, "authData": data})
        client = self._client(asked["challenge"], "webauthn.create", wrong)
        return self._answer(
            credential,
            {"clientDataJSON": encoded(client), "attestationObject": encoded(statement), "transports": ["internal"]},
        )

    def get(self, options: str, credential: Credential | None = None, **wrong: Any) -> str:
        """The answer to `navigator.credentials.get`, by the last passkey unless another is meant.

        Args:
            wrong: as in `create`; `user` for the user handle, and `key` for what signs.
        """
        asked = json.loads(options)
        credential = credential or self.credentials[-1]
        if credential.count is not None:
            credential.count += 1
        data = self._data(wrong.get("rp_id", credential.rp_id), 0, credential.count or 0)
        client = self._client(asked["challenge"], "webauthn.get", wrong)
        key: ec.EllipticCurvePrivateKey = wrong.get("key", credential.key)
        signature = key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        answer = {
            "clientDataJSON": encoded(client),
            "authenticatorData": encoded(data),
            "signature": encoded(signature),
        }
        user = wrong.get("user", credential.user)
        if user is not None:
            answer["userHandle"] = encoded(user)
        return self._answer(credential, answer)

    def _data(self, rp_id: str, flags: int, count: int) -> bytes:
        flags |= USER_PRESENT | (USER_VERIFIED if self.verifies else 0)
        return hashlib.sha256(rp_id.encode()).digest() + struct.pack(">BI", flags, count)

    def _client(self, challenge: str, kind: str, wrong: dict[str, Any]) -> bytes:
        said = {
            "type": wrong.get("type", kind),
            "challenge": wrong.get("challenge", challenge),
            "origin": wrong.get("origin", self.origin),
            "crossOrigin": wrong.get("cross_origin", False),
        }
        return json.dumps(said).encode()

    @staticmethod
    def _answer(credential: Credential, response: dict[str, Any]) -> str:
        return json.dumps(
            {
                "id": encoded(credential.id),
                "rawId": encoded(credential.id),
                "type": "public-key",
                "response": response,
                "clientExtensionResults": {},
            }
        )
