"""`blindai keys`: the API keys of an account in a cloud."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from blindai.cli.console import err, out, print_json, reported
from blindai.cli.target import Account, Json
from blindai.errors import ConfigurationError, InvalidInput, harmless
from blindai.wire.cloud import Scope

if TYPE_CHECKING:
    from blindai.client.control_plane import ControlPlane
    from blindai.client.credentials import Credentials
    from blindai.wire.cloud_api import KeyEntry

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")


@dataclass(frozen=True)
class SignedIn:
    """A user's cloud, and the account that is meant."""

    plane: ControlPlane
    credentials: Credentials
    account: str

    @classmethod
    def load(cls, account: str | None) -> SignedIn:
        """What `blindai login` has stored.

        Raises:
            ConfigurationError: `configuration.no_cloud`, `configuration.not_signed_in`.
        """
        from blindai.client.control_plane import ControlPlane
        from blindai.client.credentials import Credentials
        from blindai.client.profile import Profile, parse_namespace

        profile = Profile.load()
        if not profile.cloud:
            raise ConfigurationError(
                "nobody is signed in to a cloud", code="configuration.no_cloud", hint="blindai login URL"
            )
        credentials = Credentials(profile.cloud)
        token = credentials.token()
        if token is None:
            raise ConfigurationError(
                f"nobody is signed in to {profile.cloud}", code="configuration.not_signed_in", hint="blindai login"
            )
        plane = ControlPlane(profile.cloud, fingerprint=profile.fingerprint, token=token)
        return cls(plane, credentials, parse_namespace(account or profile.account))


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What you call it, as in laptop.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option("--scope", help="What it is good for; query, if nothing is said. Repeatable."),
    ] = None,
    expires: Annotated[
        int | None, typer.Option("--expires", metavar="DAYS", help="Until when; else until it is revoked.")
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Keep it for this user's programs, and do not print it.")
    ] = False,
    account: Account = None,
    as_json: Json = False,
) -> None:
    """Make an API key, and print it: the only time that it is shown."""
    with reported(as_json=as_json):
        import msgspec

        from blindai.wire.api_key import ApiKey
        from blindai.wire.cloud_api import NewKey

        try:
            wanted = msgspec.convert(
                {"name": name, "scopes": [*dict.fromkeys(scope or [Scope.QUERY])], "expires_in_days": expires}, NewKey
            )
        except msgspec.ValidationError as error:
            raise InvalidInput(f"there can be no such key: {error}", code="input.key") from error
        user = SignedIn.load(account)
        created = user.plane.create_key(user.account, wanted)
        key = ApiKey.parse(created.api_key)
        if store:
            user.credentials.keep_key(user.account, key.text)
        if as_json:
            secret = {} if store else {"api_key": key.text}
            print_json(secret | {"entry": msgspec.to_builtins(created.entry), "stored": store})
            return
        entry = created.entry
        about = f"{escape(harmless(entry.name))} of {escape(user.account)}: {', '.join(entry.scopes)}; {_ends(entry)}"
        err.print(f"[green]made[/] {key.id}, {about}")
        if store:
            err.print(f"  kept in {escape(user.credentials.place)}")
        else:
            err.print("  this is the only time that it is shown:")
            print(key.text)


@app.command(name="list")
def list_keys(account: Account = None, as_json: Json = False) -> None:
    """List the keys of an account, the newest first. The keys themselves are kept nowhere."""
    with reported(as_json=as_json):
        import msgspec

        user = SignedIn.load(account)
        keys = user.plane.keys(user.account)
        if as_json:
            print_json(msgspec.to_builtins(keys))
            return
        if not keys:
            out.print("no keys; make one with: blindai keys create NAME")
            return
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("KEY", "NAME", "SCOPES", "LAST USED", "STATE"):
            # A key's id is copied from here.
            table.add_column(column, no_wrap=column != "NAME", overflow="fold")
        for key in keys:
            cells: tuple[Any, ...] = (_date(key.used_at) or "never", _ends(key))
            table.add_row(key.id, escape(harmless(key.name)), " ".join(key.scopes), *cells)
        out.print(table)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its id, as in the list: bai_sk_ and 8 characters.")],
    account: Account = None,
    as_json: Json = False,
) -> None:
    """Revoke a key. It is refused everywhere within five seconds."""
    with reported(as_json=as_json):
        import msgspec

        from blindai.wire.api_key import PATTERN, ApiKey

        # Whoever pastes the whole key means it; it is neither sent nor shown.
        key_id = ApiKey(key).id if PATTERN.fullmatch(key) else key
        user = SignedIn.load(account)
        entry = user.plane.revoke_key(user.account, key_id)
        stored = user.credentials.key(user.account)
        if stored is not None and ApiKey(stored).id == entry.id:
            user.credentials.forget_key(user.account)
        if as_json:
            print_json(msgspec.to_builtins(entry))
        else:
            out.print(f"[green]revoked[/] {entry.id}, {escape(harmless(entry.name))}")


def _ends(key: KeyEntry) -> str:
    if key.revoked_at is not None:
        return f"revoked {_date(key.revoked_at)}"
    if key.expires_at is None:
        return "good"
    return f"{'expired' if key.expires_at <= datetime.now(UTC) else 'until'} {_date(key.expires_at)}"


def _date(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d}"
