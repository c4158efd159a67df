"""Whom a client talks to: an address that was named, one that is stored, or where a cloud has an account's models."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from blindai.client.control_plane import ControlPlane
from blindai.client.credentials import Credentials
from blindai.client.profile import (
    ADDRESS_VARIABLE,
    DEFAULT_PORT,
    Address,
    Profile,
    parse_namespace,
)
from blindai.errors import ConfigurationError, Unavailable

# A directory is a page of text; whoever connects has better things to wait for.
_DIRECTORY_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Destination:
    """Whom to talk to.

    Attributes:
        address: where it is known without asking anybody; else the directory of the profile's cloud is asked.
        namespace: the account whose models are meant; empty where the address was named.
        profile: what is stored; its secrets are for its own cloud alone.
    """

    address: Address | None
    namespace: str = ""
    profile: Profile = field(default_factory=Profile)

    @classmethod
    def choose(
        cls, addr: str | None = None, *, namespace: str | None = None, profile: Path | None = None
    ) -> Destination:
        """`addr`, else the environment variable BLINDAI_ADDR, else the stored profile's address, else its cloud.

        Args:
            addr: what the caller gave.
            namespace: the account whose models are meant, in a stored cloud; by default the one signed in to.
            profile: another file than `profile_path()`.

        Raises:
            ConfigurationError: `configuration.address` where one is wrong, `configuration.address_missing` where there
                is none, `configuration.namespace` where an account is named and an address too,
                `configuration.profile`.
            InvalidInput: `account.name`.
        """
        named = addr if addr is not None else os.environ.get(ADDRESS_VARIABLE) or None
        if named is None:
            stored = Profile.load(profile)
            if stored.addr:
                named = stored.addr
            elif stored.cloud:
                return cls(None, parse_namespace(namespace or stored.account), stored)
        if named is None:
            raise ConfigurationError(
                "no server address was given",
                code="configuration.address_missing",
                hint=f'pass addr="https://host:{DEFAULT_PORT}", set {ADDRESS_VARIABLE}, or sign in to a cloud: '
                "blindai login",
            )
        if namespace is not None:
            raise ConfigurationError(
                f"an account chooses among the endpoints of a stored cloud, but the address {named!r} is given",
                code="configuration.namespace",
                hint="leave one of them out",
            )
        return cls(Address.parse(named))

    @property
    def name(self) -> str:
        """What to call it before it is found."""
        return self.profile.cloud if self.address is None else self.address.url

    def find(self) -> Address:
        """The address. It may ask the cloud, and then takes as long as that does.

        A cloud that does not answer is no hindrance where it was signed in to before: the endpoint has to prove what it
        is in any case.

        Raises:
            Unavailable: as `ControlPlane`; `unavailable.endpoint`, the cloud has none.
            ConfigurationError: `configuration.address`, the directory has an address that is none.
        """
        if self.address is not None:
            return self.address
        plane = ControlPlane(self.profile.cloud, fingerprint=self.profile.fingerprint, timeout=_DIRECTORY_SECONDS)
        try:
            directory = plane.directory()
        except Unavailable:
            if self.namespace == self.profile.account and self.profile.endpoint:
                return Address.parse(self.profile.endpoint)
            raise
        home = directory.home(self.namespace)
        if home is None:
            raise Unavailable(f"the cloud {plane.url} has no endpoint now", code="unavailable.endpoint")
        return Address.parse(home.address)

    def api_key(self) -> str | None:
        """The key that was stored for this cloud and account, or for the account that is signed in to.

        Where the address was named there is none: it may be anybody's.

        Raises:
            ConfigurationError: `configuration.credentials`.
        """
        if self.address is not None:
            return None
        credentials = Credentials(self.profile.cloud)
        return credentials.key(self.namespace) or credentials.key(self.profile.account)


def resolve_address(addr: str | None = None, *, namespace: str | None = None, profile: Path | None = None) -> Address:
    """The server's address; see `Destination.choose` and `Destination.find`.

    Raises:
        BlindAIError: as these.
    """
    return Destination.choose(addr, namespace=namespace, profile=profile).find()
