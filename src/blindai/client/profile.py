"""Where the client learns whom to talk to and what to demand: arguments, one environment variable, a stored profile.

No secret is ever read from here or from the environment, and no proxy variable is heeded: the attested connection goes
to the address that was named.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec
import platformdirs

from blindai.attestation.policy import Policy
from blindai.errors import ConfigurationError

DEFAULT_PORT: Final = 9443
ADDRESS_VARIABLE: Final = "BLINDAI_ADDR"
MANIFEST: Final = Path("manifest.toml")
MAX_PROFILE_BYTES: Final = 64 * 1024
"""Two short settings; more is not a profile."""

# RFC 1123, section 2.1, with the underscore that container networks put into names.
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_MAX_HOST: Final = 253
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

    @classmethod
    def parse(cls, text: str) -> Address:
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
        return cls(_host(text, parts), DEFAULT_PORT if port is None else port)


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is remembered between runs. It holds no secret.

    Attributes:
        addr: the server's address; empty where there is none.
        policy: absolute path of the policy; empty where there is none.
    """

    addr: str = ""
    policy: str = ""

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
            ConfigurationError: `configuration.address` for an address that could not be used,
                `configuration.profile` where it cannot be written.
        """
        path = path or profile_path()
        settings = {"addr": Address.parse(self.addr).url} if self.addr else {}
        if self.policy:
            settings["policy"] = str(Path(self.policy).resolve())
        for key, value in settings.items():
            if not value.isprintable():
                raise _refuse_profile(path, f"{key} has characters that cannot be printed")
        # For printable text JSON's string is TOML's basic string.
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items()]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, "".join(lines).encode())
        except OSError as error:
            raise _refuse_profile(path, str(error)) from error
        return path


def profile_path() -> Path:
    """Where the profile is stored for this user."""
    return platformdirs.user_config_path("blindai") / "profile.toml"


def resolve_address(addr: str | None = None, *, profile: Path | None = None) -> Address:
    """The server's address: `addr`, else the environment variable BLINDAI_ADDR, else the stored profile's.

    Args:
        addr: what the caller gave.
        profile: another file than `profile_path()`.

    Raises:
        ConfigurationError: `configuration.address` where one is wrong, `configuration.address_missing` where there is
            none, `configuration.profile`.
    """
    if addr is not None:
        return Address.parse(addr)
    named = os.environ.get(ADDRESS_VARIABLE)
    if named:
        return Address.parse(named)
    stored = Profile.load(profile).addr
    if stored:
        return Address.parse(stored)
    message = "no server address was given"
    hint = f'pass addr="https://host:{DEFAULT_PORT}", or set {ADDRESS_VARIABLE}'
    raise ConfigurationError(message, code="configuration.address_missing", hint=hint)


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


def _replace(path: Path, content: bytes) -> None:
    # mkstemp makes it readable by its owner only.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


def _refuse_address(text: str, reason: str) -> ConfigurationError:
    # An address may have a password in it.
    shown = repr(text) if "@" not in text else "the address"
    return ConfigurationError(f"{shown} is no server address: {reason}", code="configuration.address", hint=_FORM)


def _refuse_profile(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"the profile {path} cannot be used: {reason}", code="configuration.profile")
