"""`blindai login` and `blindai logout`: which cloud this user works in, and the secret that goes with it."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from blindai.cli.console import err, out, print_json, reported
from blindai.cli.target import Account, Json, read_key
from blindai.errors import AuthenticationError, BlindAIError, ConfigurationError, InvalidInput, harmless

if TYPE_CHECKING:
    from blindai.client.control_plane import ControlPlane
    from blindai.client.profile import Profile
    from blindai.wire.cloud_api import DeviceCodes

# As `wire.cloud_api.Label` has it.
_MAX_NAME: Final = 64


def login(
    cloud: Annotated[
        str | None, typer.Argument(metavar="[URL]", help="https://host of the cloud; else the one of last time.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", "-p", metavar="FILE", help="The manifest to judge its enclaves by.")
    ] = None,
    account: Account = None,
    fingerprint: Annotated[
        str | None,
        typer.Option(
            "--fingerprint",
            metavar="SHA256",
            help="Of its certificate, for a cloud that made that itself; it is shown there at the start.",
        ),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in the browser of this machine.")] = False,
    api_key_stdin: Annotated[
        bool,
        typer.Option(
            "--api-key-stdin", help="For machines: keep the API key on standard input, for --account; nobody is asked."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Sign in to a cloud: agree in a browser, here or elsewhere. What is kept is a token for managing keys.

    Its URL, the account and the policy go into the profile, in place of another server's address there; secrets go into
    the system's keyring, or into a file of your own where there is none.
    """
    with reported(as_json=as_json):
        from blindai.client.control_plane import ControlPlane
        from blindai.client.credentials import Credentials
        from blindai.client.profile import ADDRESS_VARIABLE

        profile = _profile(cloud, fingerprint, policy)
        plane = ControlPlane(profile.cloud, fingerprint=profile.fingerprint)
        credentials = Credentials(profile.cloud)
        if api_key_stdin:
            profile, found = _with_key(plane, profile, account)
        else:
            profile, found = _with_consent(plane, profile, account, browser=browser)
        path = profile.save()
        if as_json:
            print_json({"cloud": profile.cloud, **found, "profile": str(path)})
        else:
            who = f"{escape(found['email'])}, " if "email" in found else ""
            out.print(f"[green]signed in[/] to {escape(profile.cloud)}: {who}account {escape(profile.account)}")
            out.print(f"  secrets are kept in {escape(credentials.place)}, the rest in {escape(str(path))}")
        if os.environ.get(ADDRESS_VARIABLE):
            err.print(f"[yellow]{ADDRESS_VARIABLE} is set[/]: it comes before the cloud")


def logout(as_json: Json = False) -> None:
    """Sign out: the token is given back, and all secrets of the cloud are forgotten here. API keys stay in force."""
    with reported(as_json=as_json):
        from blindai.client.control_plane import ControlPlane
        from blindai.client.credentials import Credentials
        from blindai.client.profile import Profile

        profile = Profile.load()
        if not profile.cloud:
            raise ConfigurationError("nobody is signed in to a cloud", code="configuration.no_cloud")
        credentials = Credentials(profile.cloud)
        token = credentials.token()
        given_back = False
        try:
            if token is not None:
                ControlPlane(profile.cloud, fingerprint=profile.fingerprint, token=token).give_back_token()
                given_back = True
        except AuthenticationError:
            given_back = True  # it was worth nothing any more
        except BlindAIError as error:
            err.print(f"the token is forgotten here, but was not given back: {harmless(error.message)}", markup=False)
        credentials.forget()
        Profile(addr=profile.addr, policy=profile.policy).save()
        if as_json:
            print_json({"cloud": profile.cloud, "given_back": given_back})
        else:
            out.print(f"[green]signed out[/] of {escape(profile.cloud)}")


def _profile(cloud: str | None, fingerprint: str | None, policy: Path | None) -> Profile:
    """What will be stored, as far as the options say."""
    import msgspec

    from blindai.attestation.policy import Policy
    from blindai.client.profile import Profile, parse_cloud, parse_fingerprint

    stored = Profile.load()
    if cloud is None and not stored.cloud:
        raise ConfigurationError(
            "no cloud was named", code="configuration.no_cloud", hint="blindai login https://cloud.example.com"
        )
    url = parse_cloud(cloud or stored.cloud).origin
    # What was kept of one cloud says nothing of another.
    before = stored if url == stored.cloud else Profile(policy=stored.policy)
    if policy is not None:
        Policy.load(policy)
    return msgspec.structs.replace(
        before,
        addr="",
        cloud=url,
        fingerprint=parse_fingerprint(fingerprint) if fingerprint else before.fingerprint,
        policy=str(policy) if policy is not None else before.policy,
    )


def _with_key(plane: ControlPlane, profile: Profile, account: str | None) -> tuple[Profile, dict[str, Any]]:
    """Keep the key that stands on standard input."""
    from blindai.client.credentials import Credentials
    from blindai.client.profile import parse_namespace
    from blindai.wire.api_key import ApiKey

    if account is None and not profile.account:
        raise ConfigurationError(
            "a key does not say whose it is", code="configuration.account", hint="name its account: --account NAME"
        )
    name = parse_namespace(account or profile.account)
    key = ApiKey.parse(read_key(Path("-")) or "")
    profile = _settled(plane, profile, name)
    Credentials(profile.cloud).keep_key(name, key.text)
    return profile, {"account": name, "key": key.id}


def _with_consent(
    plane: ControlPlane, profile: Profile, account: str | None, *, browser: bool
) -> tuple[Profile, dict[str, Any]]:
    """Ask the user, in their browser."""
    from blindai.client.credentials import Credentials
    from blindai.client.login import wait_for_consent
    from blindai.client.profile import parse_namespace

    wanted = None if account is None else parse_namespace(account)
    codes = plane.device_codes(_device_name())
    _show(plane, codes, browser=browser)
    with err.status("waiting for you to agree there"):
        token = wait_for_consent(plane, codes).access_token
    try:
        found = plane.with_token(token).account()
        names = {one.namespace: one.kind for one in found.namespaces}
        name = wanted or next((name for name, kind in names.items() if kind == "personal"), next(iter(names), ""))
        if name not in names:
            raise InvalidInput(
                "you do not work in an account of that name",
                code="account.unknown",
                hint=f"there are: {', '.join(map(harmless, names)) or 'none'}",
            )
        profile = _settled(plane, profile, name)
        Credentials(profile.cloud).keep_token(token)
    except BlindAIError:
        # Nobody will use it; and why is worth more than whether that worked.
        with contextlib.suppress(BlindAIError):
            plane.with_token(token).give_back_token()
        raise
    return profile, {"account": name, "email": harmless(found.email)}


def _settled(plane: ControlPlane, profile: Profile, account: str) -> Profile:
    """`profile` with the account, and where its models are now."""
    import msgspec

    home = plane.directory().home(account)
    return msgspec.structs.replace(profile, account=account, endpoint="" if home is None else home.address)


def _show(plane: ControlPlane, codes: DeviceCodes, *, browser: bool) -> None:
    # What is shown, and opened, is a page of this cloud and no other.
    for address in (codes.verification_uri, codes.verification_uri_complete):
        if not address.startswith(f"{plane.url}/"):
            raise ConfigurationError(
                f"the cloud {plane.url} sends its users to another site",
                code="configuration.verification_uri",
                hint="use the URL under which it is served to people",
            )
    err.print("open   ", end="")
    err.print(harmless(codes.verification_uri), style="bold", markup=False)
    err.print("enter  ", end="")
    err.print(harmless(codes.user_code), style="bold", markup=False)
    sys.stderr.flush()
    if browser:
        webbrowser.open(codes.verification_uri_complete)


def _device_name() -> str:
    """What the user will see this machine called."""
    name = "".join(letter for letter in f"blindai on {platform.node() or 'a machine'}" if letter.isprintable())
    return name[:_MAX_NAME]
