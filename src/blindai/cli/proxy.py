"""`blindai proxy`: a plain local port to an attested enclave, for programs that cannot attest."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from blindai.cli.console import err, error_fields, print_json, reported
from blindai.cli.target import Json, PolicyFile, Simulation
from blindai.cli.verdict import print_checks
from blindai.cli.verify import print_accepted
from blindai.errors import AttestationError, ConfigurationError, harmless

if TYPE_CHECKING:
    from blindai.attestation.result import AttestationResult
    from blindai.client.proxy.address import ListenAddress
    from blindai.client.proxy.connection import Refusal
    from blindai.client.proxy.proxy import Proxy
    from blindai.client.proxy.token import LocalToken


def proxy(
    addr: Annotated[str | None, typer.Argument(metavar="[URL]", help="https://host:port of the enclave.")] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="HOST:PORT",
            help="A loopback address; port 0 takes a free one.  [default: 127.0.0.1:8080]",
        ),
    ] = None,
    unix: Annotated[
        Path | None,
        typer.Option(
            "--unix", metavar="PATH", help="A Unix socket, which you alone can open; no token is asked there."
        ),
    ] = None,
    policy: PolicyFile = None,
    simulation: Simulation = False,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="The token's file; it is made where there is none."),
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Ask for no token: every user of this machine may act as you.")
    ] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", metavar="NAME", help="Accept this name in Host too. Repeatable.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", metavar="ORIGIN", help="Let web pages of this origin use it. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve plain HTTP on this machine and send it on over attested connections, until interrupted.

    --json prints the addresses, the token and the platform as JSON once it listens, and refusals as lines of JSON.
    """
    with reported(as_json=as_json):
        from blindai.attestation.measure.local import local_policy
        from blindai.channel.listening import run
        from blindai.client.destination import resolve_address
        from blindai.client.profile import resolve_policy
        from blindai.client.proxy.admission import Admission
        from blindai.client.proxy.proxy import Proxy

        address = resolve_address(addr)
        where = _listen_address(listen, unix)
        token = _token(token_file, none=no_token or unix is not None)
        chosen = local_policy() if simulation and policy is None else resolve_policy(policy)
        admission = Admission(token=token, hosts=allow_host or (), origins=allow_origin or (), listens_on=_host(where))
        tell = _tell_json if as_json else _tell
        serving = Proxy(address, chosen, admission, refused=tell)
        shown_token = token if token_file is None else None

        def ready(result: AttestationResult, listens: ListenAddress) -> None:
            if as_json:
                fields: dict[str, Any] = {"address": listens.url, "enclave": address.url}
                fields |= {} if shown_token is None else {"token": shown_token.reveal()}
                print_json(fields | {"status": result.status, "simulated": result.simulated})
            else:
                print_checks(result)
                print_accepted(result, address.url)
                _announce(listens, shown_token, token_file if token else None, unsafe=no_token and unix is None)
            sys.stdout.flush()

        run(_serve(serving, where, ready))


async def _serve(serving: Proxy, where: ListenAddress, ready: Any) -> None:
    from blindai.channel.listening import stopped_by_signals

    stop = asyncio.Event()
    with where.listening() as (listener, listens), stopped_by_signals(stop):
        # Nothing is accepted before the enclave is: a refusal ends the command.
        ready(await serving.verify(), listens)
        await serving.serve(listener, stop)


def _listen_address(listen: str | None, unix: Path | None) -> ListenAddress:
    from blindai.client.proxy.address import DEFAULT_LISTEN, LoopbackAddress, UnixAddress

    if unix is None:
        return LoopbackAddress.parse(listen or DEFAULT_LISTEN)
    if listen is not None:
        raise ConfigurationError("--listen and --unix exclude each other", code="proxy.address", hint="choose one")
    return UnixAddress(unix)


def _host(where: ListenAddress) -> str:
    from blindai.client.proxy.address import LoopbackAddress

    return where.host if isinstance(where, LoopbackAddress) else ""


def _token(path: Path | None, *, none: bool) -> LocalToken | None:
    from blindai.client.proxy.token import LocalToken

    if none:
        if path is not None:
            raise ConfigurationError(
                "a token file is given where no token is asked for",
                code="proxy.token_file",
                hint="leave one of them out",
            )
        return None
    return LocalToken.random() if path is None else LocalToken.kept_in(path)


def _announce(listens: ListenAddress, token: LocalToken | None, token_file: Path | None, *, unsafe: bool) -> None:
    from blindai.client.proxy.address import UnixAddress

    err.print(f"proxy at [bold]{escape(listens.url)}[/], press Ctrl-C to stop")
    if isinstance(listens, UnixAddress):
        example = f"curl --unix-socket {quote(str(listens.path))} http://localhost/v2"
    elif token is not None:
        err.print(f"  token       {token.reveal()}", markup=False)
        # Not as an argument of curl: every user of the machine can read those.
        example = f"curl -H @- {listens.url}/v2 <<< 'Proxy-Authorization: Bearer {token.reveal()}'"
    elif token_file is not None:
        err.print(f"  token in    {token_file}", markup=False)
        example = f'curl -H @- {listens.url}/v2 <<< "Proxy-Authorization: Bearer $(<{quote(str(token_file))})"'
    else:
        example = f"curl {listens.url}/v2"
    err.print(f"  try         {example}", markup=False)
    if unsafe:
        err.print("[bold yellow]NO TOKEN[/]: every program and user of this machine may use the enclave as you")


def _tell(refusal: Refusal) -> None:
    """One line, whatever a stranger put into the request."""
    error = refusal.error
    err.print(f"[bold red]refused[/] {refusal.status} ", end="")
    step = f" at step {error.step}" if isinstance(error, AttestationError) and error.step else ""
    err.print(harmless(f"{error.code}{step}  {error.message}  (from {refusal.peer})"), markup=False)


def _tell_json(refusal: Refusal) -> None:
    import msgspec

    line = {"refused": {"peer": refusal.peer, "status": refusal.status, **error_fields(refusal.error)}}
    print(msgspec.json.encode(line).decode(), file=sys.stderr, flush=True)
