"""The options of every command that talks to an enclave, and the connection they describe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from blindai.cli.console import err
from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from blindai.client.connection import Connection

Addr = Annotated[
    str | None,
    typer.Option(
        "--addr", "-a", metavar="URL", help="https://host:port; else BLINDAI_ADDR, else the profile's server or cloud."
    ),
]
PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", "-p", metavar="FILE", help="The manifest; else ./manifest.toml, else the profile's."),
]
Simulation = Annotated[
    bool,
    typer.Option("--simulation", help="Without a policy: accept the simulated platform of this installation."),
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--api-key-file", metavar="FILE", help="A file that holds the API key; '-' reads standard input."),
]
Account = Annotated[
    str | None,
    typer.Option("--account", metavar="NAME", help="In a cloud: another account than the one signed in to."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

# An API key is a line of text; anything longer is another file given by mistake.
MAX_KEY_BYTES = 4096


def connect(
    addr: str | None,
    policy: Path | None,
    key_file: Path | None,
    *,
    simulation: bool,
    announce: bool = True,
    account: str | None = None,
    model_id: str = "",
) -> Connection:
    """Connect and attest; with `announce`, say on standard error if it is to a simulated platform.

    Args:
        addr, policy, key_file, simulation: the options above.
        announce: see above.
        account: whose models are meant, in a stored cloud.
        model_id: which model is; in a stored cloud its first part names the account.

    Raises:
        BlindAIError: as `Connection`.
    """
    from blindai.client.connection import Connection
    from blindai.client.destination import Destination

    owner, slash, _ = model_id.partition("/")
    if account is None and slash and Destination.choose(addr).address is None:
        account = owner
    client = Connection(addr, api_key=read_key(key_file), namespace=account, policy=policy, simulation=simulation)
    if announce and client.simulated:
        err.print("[bold yellow]SIMULATED[/]: no hardware protects what this server is sent")
    return client


def read_key(path: Path | None) -> str | None:
    """The API key in `path`. Never an argument or an environment variable: other processes can read those.

    Raises:
        ConfigurationError: `configuration.api_key_file`.
    """
    if path is None:
        return None
    try:
        with open_input(path) as file:
            key = file.read(MAX_KEY_BYTES + 1).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the API key cannot be read from {path}: {error}", code="configuration.api_key_file"
        ) from error
    if not key or len(key) > MAX_KEY_BYTES:
        raise ConfigurationError(f"{path} does not hold an API key", code="configuration.api_key_file")
    return key


def open_input(path: Path) -> BinaryIO:
    """The file at `path`, or standard input for `-`.

    Raises:
        OSError: it cannot be opened.
    """
    return open(sys.stdin.fileno(), "rb", closefd=False) if str(path) == "-" else path.open("rb")
