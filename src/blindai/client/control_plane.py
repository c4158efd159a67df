"""The control plane of a cloud as its users' programs see it: accounts, keys and counts. Never data or models.

It is trusted for nothing but these, so it is not attested: JSON over HTTPS with the system's roots, or with the
one certificate whose fingerprint was compared (`--fingerprint`), for clouds that made their own. No proxy of the
environment is heeded, no redirection is followed, and no answer is read beyond what one may have.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ssl
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from blindai.client.calls import retry_seconds
from blindai.client.profile import Address, parse_cloud, parse_fingerprint
from blindai.errors import BlindAIError, Unavailable
from blindai.wire import cloud_api
from blindai.wire.cloud_api import (
    AccessToken,
    Account,
    CreatedKey,
    DeviceCode,
    DeviceCodes,
    DeviceRequest,
    Directory,
    KeyEntry,
    KeyList,
    ModelList,
    NewKey,
    UsageReport,
)
from blindai.wire.problems import error_from

T = TypeVar("T")

ANSWER_SECONDS: Final = 20.0
"""To connect, and for each read and write."""

# Ten thousand models with some inputs each. Everything else is far smaller.
MAX_ANSWER_BYTES: Final = 16 << 20


class ControlPlane:
    """One cloud's control plane. Each call is a connection of its own. Safe to use from several threads.

    Args:
        cloud: its URL, `https://host[:port]`.
        fingerprint: SHA-256 of its certificate; without it the certificate must be one that the system trusts.
        token: the access token of `blindai login`.
        timeout: seconds to connect, and for each read and write.

    Raises:
        ConfigurationError: `configuration.address`, `configuration.fingerprint`.
    """

    def __init__(
        self, cloud: str, *, fingerprint: str = "", token: str | None = None, timeout: float = ANSWER_SECONDS
    ) -> None:
        self._address = parse_cloud(cloud)
        self._fingerprint = parse_fingerprint(fingerprint) if fingerprint else ""
        self._token = token
        self._timeout = timeout

    @property
    def url(self) -> str:
        """The cloud's URL, in one form."""
        return self._address.origin

    def __repr__(self) -> str:
        return f"ControlPlane({self.url})"

    def with_token(self, token: str) -> ControlPlane:
        """The same, for who holds `token`."""
        return ControlPlane(self.url, fingerprint=self._fingerprint, token=token, timeout=self._timeout)

    # Every method may raise what the control plane answered, and besides:
    #   Unavailable: `unavailable.connection`, nothing answers; `unavailable.certificate`, something else does;
    #   `unavailable.protocol`, what it answers cannot be read.

    def directory(self) -> Directory:
        """Its endpoints."""
        return self._ask("GET", "/directory", Directory)

    def device_codes(self, name: str) -> DeviceCodes:
        """Begin to sign in a program that calls itself `name` (RFC 8628, section 3.1)."""
        return self._ask("POST", "/device/codes", DeviceCodes, DeviceRequest(name))

    def device_token(self, device_code: str) -> AccessToken:
        """The token, once somebody has agreed.

        Raises:
            BlindAIError: `device.*`, see `wire.cloud_api`.
        """
        return self._ask("POST", "/device/tokens", AccessToken, DeviceCode(device_code))

    def give_back_token(self) -> None:
        """Make the token worthless."""
        self._send("DELETE", "/token")

    def account(self) -> Account:
        """Who is signed in."""
        return self._ask("GET", "/account", Account)

    def keys(self, namespace: str) -> tuple[KeyEntry, ...]:
        """The keys of an account, the newest first."""
        return self._ask("GET", f"{_account(namespace)}/keys", KeyList).keys

    def create_key(self, namespace: str, key: NewKey) -> CreatedKey:
        """Make a key. Its text is in this answer, and nowhere else ever again."""
        return self._ask("POST", f"{_account(namespace)}/keys", CreatedKey, key)

    def revoke_key(self, namespace: str, key_id: str) -> KeyEntry:
        """Revoke a key, by its id."""
        return self._ask("DELETE", f"{_account(namespace)}/keys/{quote(key_id, safe='')}", KeyEntry)

    def models(self, namespace: str) -> ModelList:
        """The models of an account, as its enclaves report them."""
        return self._ask("GET", f"{_account(namespace)}/models", ModelList)

    def usage(self, namespace: str) -> UsageReport:
        """What an account uses and may use."""
        return self._ask("GET", f"{_account(namespace)}/usage", UsageReport)

    def _ask(self, method: str, path: str, kind: type[T], message: msgspec.Struct | None = None) -> T:
        answer = self._send(method, path, message)
        try:
            return msgspec.json.decode(answer, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._unreadable(str(error)) from error

    def _send(self, method: str, path: str, message: msgspec.Struct | None = None) -> bytes:
        headers = {"Accept": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if message is not None:
            headers["Content-Type"] = "application/json"
        body = None if message is None else msgspec.json.encode(message)
        connection = connect(self._address, fingerprint=self._fingerprint, timeout=self._timeout)
        try:
            connection.request(method, cloud_api.PREFIX + path, body, headers)
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreadable(str(error) or type(error).__name__) from error
        finally:
            connection.close()
        if len(answer) > MAX_ANSWER_BYTES:
            raise self._unreadable(f"it is longer than {MAX_ANSWER_BYTES} bytes")
        if not 200 <= response.status < 300:
            raise self._refusal(response, answer)
        return answer

    def _refusal(self, response: http.client.HTTPResponse, answer: bytes) -> BlindAIError:
        if response.status < 400:
            return self._unreadable(f"HTTP status {response.status}")
        error = error_from(response.status, answer)
        error.retry_after = retry_seconds(response.headers.get("Retry-After"))
        return error

    def _unreadable(self, reason: str) -> Unavailable:
        return Unavailable(f"the answer of the cloud {self.url} cannot be read: {reason}", code="unavailable.protocol")


def connect(address: Address, *, fingerprint: str, timeout: float) -> http.client.HTTPSConnection:
    """A connection to a cloud and nobody else. Nothing was sent on it.

    Args:
        address: of its control plane.
        fingerprint: as in the profile.
        timeout: in seconds, to connect and for each read and write.

    Raises:
        Unavailable: `unavailable.connection`, `unavailable.certificate`.
    """
    context = ssl.create_default_context()
    if fingerprint:
        # One certificate is accepted, below, whoever signed it and whatever names are in it.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(address.host, address.port, timeout=timeout, context=context)
    try:
        connection.connect()
        if fingerprint:
            _compare(address, connection.sock, fingerprint)
    except ssl.SSLError as error:
        connection.close()
        raise _another(address, str(error.reason or error)) from error
    except OSError as error:
        connection.close()
        raise Unavailable(
            f"the cloud {address.origin} does not answer: {error}", code="unavailable.connection"
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _compare(address: Address, sock: Any, fingerprint: str) -> None:
    seen = hashlib.sha256(sock.getpeercert(binary_form=True) or b"").hexdigest()
    if not hmac.compare_digest(seen, fingerprint):
        raise _another(address, "its certificate has another fingerprint than the one that was compared")


def _another(address: Address, reason: str) -> Unavailable:
    return Unavailable(
        f"what answers at {address.origin} is not the cloud: {reason}",
        code="unavailable.certificate",
        hint="for a cloud that made its certificate itself: --fingerprint SHA256, as it shows it when it starts",
    )


def _account(namespace: str) -> str:
    return f"/namespaces/{quote(namespace, safe='')}"
