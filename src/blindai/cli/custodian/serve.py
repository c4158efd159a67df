"""`blindai custodian serve`: the custodian's two ports."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from blindai.cli.console import err, print_json, reported
from blindai.cli.custodian.place import (
    AskPassphrase,
    Data,
    PassphraseFile,
    PlaceOptions,
    UnlockFile,
    require_custodian_extra,
)
from blindai.cli.database import DatabaseAddress, DatabaseFile
from blindai.cli.serve import LogFormat
from blindai.cli.serving import TlsCert, TlsKey, host_and_port, pages_tls
from blindai.cli.target import Json

if TYPE_CHECKING:
    from collections.abc import Callable

    from blindai.custody.custodian import Custodian
    from blindai.custody.server import Addresses
    from blindai.web.certificate import PagesTls

DEFAULT_ENCLAVE_PORT = 9444
DEFAULT_DASHBOARD_PORT = 9445


def serve(
    data: Data = None,
    database: DatabaseAddress = None,
    database_file: DatabaseFile = None,
    key_file: UnlockFile = None,
    passphrase: AskPassphrase = False,
    passphrase_file: PassphraseFile = None,
    enclave_host: Annotated[str, typer.Option("--enclave-host", help="Where enclaves call.")] = "127.0.0.1",
    enclave_port: Annotated[
        int, typer.Option("--enclave-port", min=0, max=65535, help="0 takes a free one.")
    ] = DEFAULT_ENCLAVE_PORT,
    dashboard_host: Annotated[str, typer.Option("--dashboard-host", help="Where operators look.")] = "127.0.0.1",
    dashboard_port: Annotated[
        int, typer.Option("--dashboard-port", min=0, max=65535, help="0 takes a free one.")
    ] = DEFAULT_DASHBOARD_PORT,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    log_format: Annotated[LogFormat, typer.Option("--log-format", help="How to log.")] = LogFormat.CONSOLE,
    debug: Annotated[
        bool, typer.Option("--debug", help="Log every message of an enclave; never what is in it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Serve enclaves and operators, until interrupted. --json prints the addresses as JSON once it listens."""
    with reported(as_json=as_json):
        require_custodian_extra()
        from blindai.channel.listening import run
        from blindai.channel.logs import configure_logs
        from blindai.custody import server

        place = PlaceOptions(
            data=data,
            database=database,
            database_file=database_file,
            key_file=key_file,
            passphrase=passphrase,
            passphrase_file=passphrase_file,
        )
        with place.open() as custodian:
            tls = pages_tls(custodian.place.tls, dashboard_host, tls_cert, tls_key)
            configure_logs(sys.stderr, as_json=log_format is LogFormat.JSON, debug=debug)
            run(
                server.serve(
                    custodian,
                    tls,
                    enclave_host=enclave_host,
                    enclave_port=enclave_port,
                    dashboard_host=dashboard_host,
                    dashboard_port=dashboard_port,
                    ready=_announcer(custodian, tls, as_json=as_json),
                )
            )


def _announcer(custodian: Custodian, tls: PagesTls, *, as_json: bool) -> Callable[[Addresses], None]:
    def ready(addresses: Addresses) -> None:
        enclaves, operators = host_and_port(addresses.enclaves), f"https://{host_and_port(addresses.operators)}"
        if as_json:
            print_json(
                {
                    "enclaves": enclaves,
                    "operators": operators,
                    "public_key": custodian.keys.public_key,
                    "certificate_sha256": tls.fingerprint,
                    "database": custodian.database.name,
                }
            )
            sys.stdout.flush()
            return
        err.print(f"custodian [bold]{custodian.keys.public_key}[/], press Ctrl-C to stop")
        err.print(f"  enclaves    {enclaves}", markup=False)
        err.print(f"  operators   {operators}", markup=False)
        if tls.own:
            err.print("  browsers do not know its certificate; compare, once, the SHA-256 that they show:")
            err.print(f"              {tls.fingerprint}")
        err.print(f"  database    {custodian.database.name}", markup=False)
        if not custodian.operators.all():
            err.print(f"  nobody can sign in yet: {escape('blindai custodian operator add NAME')}")

    return ready
