"""Where the client learns whom to talk to and what to demand: arguments, one environment variable, a stored profile.

No secret is ever read from here or from the environment, and no proxy variable is heeded: the attested connection goes
to the address that was named.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec
import platformdirs

from blindai.attestation.policy import Policy
from blindai.crypto import secret_file
from blindai.errors import ConfigurationError, InvalidInput
from blindai.wire.cloud import NAMESPACE_RULE, Namespace

DEFAULT_PORT: Final = 9443
ADDRESS_VARIABLE: Final = "BLINDAI_ADDR"
MANIFEST: Final = Path("manifest.toml")
MAX_PROFILE_BYTES: Final = 64 * 1024
"""A few short settings; more is not a profile."""

CLOUD_PORT: Final = 443
"""The control plane of a cloud serves people, where browsers expect it."""

# RFC 1123, section 2.1, with the underscore that container networks put into names.
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_MAX_HOST: Final = 253
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FORM: Final = "an address looks like https://host:9443"


class Address(msgspec.Struct, frozen=True):
    """A server's address.

    Attributes:
        host: a name, or an IP address without brackets.
        port: 1 to 65535.
    """

    host: str
    port: int = DEFAULT_PORT

    @property
    def authority(self) -> str:
        """`host:port`, as in a URL or a Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"https://{self.authority}"

    def __str__(self) -> str:
        return self.url

    @property
    def origin(self) -> str:
        """As a URL of a web site: its usual port is left out."""
        return self.url.removesuffix(f":{CLOUD_PORT}")

    @classmethod
    def parse(cls, text: str, *, default_port: int = DEFAULT_PORT) -> Address:
        """Read `https://host[:port]`, or `host[:port]`, which means the same.

        Raises:
            ConfigurationError: `configuration.address`.
        """
        if not text.isascii() or not text.isprintable() or " " in text:
            raise _refuse_address(
                text, "it has characters that no address has; write an international name in punycode"
            )
        url = text if "://" in text else f"https://{text}"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise _refuse_address(text, str(error)) from error
        reason = _why_not(parts)
        if reason:
            raise _refuse_address(text, reason)
        if port == 0:
            raise _refuse_address(text, "port 0 is none")
        # urlsplit drops an empty port, "host:", without a word.
        if parts.netloc.endswith(":"):
            raise _refuse_address(text, "the port is missing after the colon")
        return cls(_host(text, parts), default_port if port is None else port)


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is remembered between runs. It holds no secret. Every setting is empty where there is none.

    Attributes:
        addr: the server's address.
        policy: absolute path of the policy.
        cloud: `https://host` of the cloud that was signed in to; it is asked where the models of an account are.
        fingerprint: SHA-256 of the cloud's certificate in hex, where that one and no other is to be accepted.
        account: whose models are meant where no other account is named.
        endpoint: where that account's models were when it was signed in to; for when the cloud does not answer.
    """

    addr: str = ""
    policy: str = ""
    cloud: str = ""
    fingerprint: str = ""
    account: str = ""
    endpoint: str = ""

    @classmethod
    def load(cls, path: Path | None = None) -> Profile:
        """Read the profile; an empty one where there is no file.

        Args:
            path: another file than `profile_path()`.

        Raises:
            ConfigurationError: `configuration.profile`.
        """
        path = path or profile_path()
        try:
            with path.open("rb") as file:
                text = file.read(MAX_PROFILE_BYTES + 1)
            if len(text) > MAX_PROFILE_BYTES:
                raise _refuse_profile(path, f"it is larger than {MAX_PROFILE_BYTES} bytes")
            return msgspec.convert(tomllib.loads(text.decode()), cls)
        except FileNotFoundError:
            return cls()
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise _refuse_profile(path, str(error)) from error

    def save(self, path: Path | None = None) -> Path:
        """Write the profile, whole or not at all, readable by its owner only; returns where it is.

        Args:
            path: another file than `profile_path()`.

        Raises:
            ConfigurationError: `configuration.address` or `configuration.fingerprint` for one that could not be used,
                `configuration.profile` where it cannot be written.
            InvalidInput: `account.name`, no account can be called so.
        """
        path = path or profile_path()
        settings = {
            "addr": self.addr and Address.parse(self.addr).url,
            "policy": self.policy and str(Path(self.policy).resolve()),
            "cloud": self.cloud and parse_cloud(self.cloud).origin,
            "fingerprint": self.fingerprint and parse_fingerprint(self.fingerprint),
            "account": self.account and parse_namespace(self.account),
            "endpoint": self.endpoint and Address.parse(self.endpoint).url,
        }
        settings = {key: value for key, value in settings.items() if value}
        for key, value in settings.items():
            if not value.isprintable():
                raise _refuse_profile(path, f"{key} has characters that cannot be printed")
        # For printable text JSON's string is TOML's basic string.
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items()]
        try:
            secret_file.replace(path, "".join(lines).encode())
        except OSError as error:
            raise _refuse_profile(path, str(error)) from error
        return path


def profile_path() -> Path:
    """Where the profile is stored for this user."""
    return platformdirs.user_config_path("blindai") / "profile.toml"


def resolve_policy(policy: Policy | str | os.PathLike[str] | None = None, *, profile: Path | None = None) -> Policy:
    """The policy to appraise the enclave by: `policy`, else ./manifest.toml, else the stored profile's.

    Args:
        policy: what the caller gave: a policy, or the path of one.
        profile: another file than `profile_path()`.

    Raises:
        ConfigurationError: `policy.*` where one is wrong, `configuration.policy_missing` where there is none,
            `configuration.profile`.
    """
    if isinstance(policy, Policy):
        return policy
    if policy is not None:
        return Policy.load(policy)
    if MANIFEST.exists():
        return Policy.load(MANIFEST)
    stored = Profile.load(profile).policy
    if stored:
        return Policy.load(stored)
    message = "there is no policy, so no enclave can be accepted"
    hint = f"pass policy=PATH, put {MANIFEST} into the current folder, or store one in the profile {profile_path()}"
    raise ConfigurationError(message, code="configuration.policy_missing", hint=hint)


def parse_cloud(text: str) -> Address:
    """The address of a cloud's control plane: `https://host[:port]`, port 443 without one.

    Raises:
        ConfigurationError: `configuration.address`.
    """
    return Address.parse(text, default_port=CLOUD_PORT)


def parse_fingerprint(text: str) -> str:
    """The SHA-256 of a certificate, as browsers and servers show it: hex, with colons or without. In lower-case hex.

    Raises:
        ConfigurationError: `configuration.fingerprint`.
    """
    digits = text.strip().replace(":", "").lower()
    if not _SHA256.fullmatch(digits):
        raise ConfigurationError(
            "this is not the fingerprint of a certificate",
            code="configuration.fingerprint",
            hint="its SHA-256 has 64 hex digits, as the server shows it when it starts: 9F:3A:...",
        )
    return digits


def parse_namespace(text: str) -> str:
    """The name of an account.

    Raises:
        InvalidInput: `account.name`.
    """
    try:
        return msgspec.convert(text, Namespace)
    except msgspec.ValidationError:
        raise InvalidInput(
            "this is not the name of an account", code="account.name", hint=f"a name has {NAMESPACE_RULE}"
        ) from None


def _why_not(parts: SplitResult) -> str:
    """Why this is no address of ours, or nothing."""
    if parts.scheme == "http":
        return "plain http has no encryption and no attestation; use https"
    if parts.scheme != "https":
        return f"the scheme is {parts.scheme}, only https is spoken"
    if "@" in parts.netloc:
        return "it holds a user name; pass the API key as api_key"
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        return "it goes on after the port"
    return ""


def _host(text: str, parts: SplitResult) -> str:
    host = (parts.hostname or "").removesuffix(".")
    if "%" in host:
        raise _refuse_address(text, "an IP address with a zone is good on one machine only")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass  # then it must be a name
    labels = host.split(".")
    if "[" in parts.netloc:
        raise _refuse_address(text, "the IP address is malformed")
    if len(host) > _MAX_HOST or not all(map(_LABEL.fullmatch, labels)):
        raise _refuse_address(text, "the host name is malformed" if host else "the host is missing")
    # Resolvers read 127.1 and 0x7f.1 as IPv4 addresses; no top-level domain is a number (RFC 3696, section 2).
    if labels[-1].isdigit() or labels[-1].startswith("0x"):
        raise _refuse_address(text, "the IP address is malformed")
    return host


def _refuse_address(text: str, reason: str) -> ConfigurationError:
    # An address may have a password in it.
    shown = repr(text) if "@" not in text else "the address"
    return ConfigurationError(f"{shown} is no server address: {reason}", code="configuration.address", hint=_FORM)


def _refuse_profile(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"the profile {path} cannot be used: {reason}", code="configuration.profile")
