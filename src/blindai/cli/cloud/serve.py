"""`blindai cloud serve`: the control plane, for enclaves and for people."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape

from blindai.cli.cloud.place import Data, require_cloud_extra
from blindai.cli.console import err, print_json, reported
from blindai.cli.database import DatabaseAddress, DatabaseFile, database_address
from blindai.cli.serve import LogFormat
from blindai.cli.serving import TlsCert, TlsKey, host_and_port, pages_tls
from blindai.cli.target import Json
from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blindai.attestation.policy import Policy
    from blindai.cloud.control_plane import ControlPlane, Place
    from blindai.cloud.mail import Mailer
    from blindai.cloud.server import Addresses
    from blindai.web.certificate import PagesTls

DEFAULT_ENCLAVE_PORT: Final = 9446
DEFAULT_PORT: Final = 9447

DEFAULT_NAME: Final = "BlindAI Cloud"


def serve(
    data: Data = None,
    database: DatabaseAddress = None,
    database_file: DatabaseFile = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", metavar="FILE", help="The signing key; several servers of one cloud share it."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="Where people find the pages; else this machine alone can."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What the cloud is called on pages and in mails.")] = DEFAULT_NAME,
    policy: Annotated[
        Path | None, typer.Option("--policy", "-p", metavar="FILE", help="The manifest: which enclaves may join.")
    ] = None,
    simulation: Annotated[
        bool, typer.Option("--simulation", help="Let enclaves on the simulated platform of this installation join.")
    ] = False,
    enclave_host: Annotated[str, typer.Option("--enclave-host", help="Where enclaves call.")] = "127.0.0.1",
    enclave_port: Annotated[
        int, typer.Option("--enclave-port", min=0, max=65535, help="0 takes a free one.")
    ] = DEFAULT_ENCLAVE_PORT,
    host: Annotated[str, typer.Option("--host", help="Where people look.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = DEFAULT_PORT,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    smtp: Annotated[
        str | None,
        typer.Option("--smtp", metavar="URL", help="smtps://user@host or smtp://user@host; else mails go to a folder."),
    ] = None,
    smtp_password_file: Annotated[
        Path | None, typer.Option("--smtp-password-file", metavar="FILE", help="A file that holds its password.")
    ] = None,
    mail_from: Annotated[
        str | None, typer.Option("--mail-from", metavar="ADDRESS", help="Whom mails come from; needed with --smtp.")
    ] = None,
    log_format: Annotated[LogFormat, typer.Option("--log-format", help="How to log.")] = LogFormat.CONSOLE,
    debug: Annotated[
        bool, typer.Option("--debug", help="Log every message of an enclave; never what is in it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Serve enclaves and people, until interrupted. --json prints the addresses as JSON once it listens."""
    with reported(as_json=as_json):
        require_cloud_extra()
        from blindai.channel.listening import listen, run
        from blindai.channel.logs import configure_logs
        from blindai.cloud import server
        from blindai.cloud.control_plane import ControlPlane, Place
        from blindai.cloud.site import Site

        rules = _policy(policy, simulation=simulation)
        place = Place.at(data, database_address(database, database_file), key_file)
        configure_logs(sys.stderr, as_json=log_format is LogFormat.JSON, debug=debug)
        # The port, where it is any, stands in the address of the pages, and so in links and for passkeys.
        with listen(host, port) as people:
            site = Site(name, url or f"https://localhost:{people.getsockname()[1]}")
            tls = pages_tls(place.tls, site.rp_id, tls_cert, tls_key)
            with (
                _mail(place, smtp, smtp_password_file, mail_from) as mail,
                ControlPlane.open(place, site, mail) as plane,
            ):
                run(
                    server.serve(
                        plane,
                        rules,
                        tls,
                        enclaves=lambda: listen(enclave_host, enclave_port),
                        people=lambda: people,
                        ready=_announcer(plane, tls, outbox=smtp is None, as_json=as_json),
                    )
                )


def _policy(path: Path | None, *, simulation: bool) -> Policy:
    """By which enclaves are appraised. There is no default: whoever may join gets the keys of everybody."""
    from blindai.attestation.measure.local import local_policy
    from blindai.attestation.policy import Policy

    if (path is None) != simulation:
        raise ConfigurationError(
            "say which enclaves may join: --policy FILE, or --simulation to try things out",
            code="configuration.policy_missing",
            hint="`blindai measure` writes a manifest",
        )
    return local_policy() if path is None else Policy.load(path)


@contextmanager
def _mail(place: Place, url: str | None, password_file: Path | None, sender: str | None) -> Iterator[Mailer]:
    """Where mails go: a server, or a folder."""
    from blindai.cloud.mail import Outbox, Post, Smtp

    if url is None:
        if password_file is not None or sender is not None:
            raise ConfigurationError("--smtp-password-file and --mail-from belong to --smtp", code="configuration.smtp")
        yield Outbox(place.outbox)
        return
    if sender is None:
        raise ConfigurationError("--smtp needs --mail-from", code="configuration.smtp")
    # Nobody waits for a mail server, and nobody can tell by the time whether a mail was sent.
    post = Post(Smtp(url, sender, password_file=password_file))
    try:
        yield post
    finally:
        post.close()


def _announcer(plane: ControlPlane, tls: PagesTls, *, outbox: bool, as_json: bool) -> Callable[[Addresses], None]:
    def ready(addresses: Addresses) -> None:
        table = enclave_table(plane, addresses)
        if as_json:
            print_json(
                {
                    "enclaves": host_and_port(addresses.enclaves),
                    "people": f"https://{host_and_port(addresses.people)}",
                    "url": plane.site.url,
                    "public_key": plane.public_key,
                    "certificate_sha256": tls.fingerprint,
                    "database": plane.database.name,
                    "outbox": str(plane.place.outbox) if outbox else None,
                    "enclave_config": table,
                }
            )
            sys.stdout.flush()
            return
        err.print(f"cloud [bold]{escape(plane.site.name)}[/], press Ctrl-C to stop")
        err.print(f"  people      {plane.site.url}", markup=False)
        if tls.own:
            err.print("  browsers do not know its certificate; compare, once, the SHA-256 that they show:")
            err.print(f"              {tls.fingerprint}")
        err.print(f"  enclaves    {host_and_port(addresses.enclaves)}", markup=False)
        err.print(f"  database    {plane.database.name}", markup=False)
        if outbox:
            err.print(f"  mail        is not sent: it is in {plane.place.outbox}", markup=False)
        err.print("  every enclave of this cloud has in its configuration:")
        for line in table.splitlines():
            err.print(f"    {line}", markup=False, highlight=False)

    return ready


def enclave_table(plane: ControlPlane, addresses: Addresses) -> str:
    """The table `[cloud]` of an enclave's configuration, in TOML, but for where the enclave itself is."""
    host, port = addresses.enclaves
    # Whoever listens everywhere is found by the name of the site.
    address = host_and_port((plane.site.rp_id if ip_address(host).is_unspecified else host, port))
    return (
        f'[cloud]\naddress = "{address}"\npublic_key = "{plane.public_key}"\n'
        'endpoint = "https://ENCLAVE:9443"  # where clients reach it\n'
    )
