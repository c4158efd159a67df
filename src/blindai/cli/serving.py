"""What the commands share that serve pages to people: the certificate's options, and addresses as they are printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from blindai.web.certificate import PagesTls

TlsCert = Annotated[
    Path | None,
    typer.Option("--tls-cert", metavar="FILE", help="Of the pages, with its chain (PEM); else one of its own."),
]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="The key of --tls-cert (PEM).")]


def pages_tls(folder: Path, host: str, certificate: Path | None, key: Path | None) -> PagesTls:
    """What was given, or the program's own certificate in `folder`.

    Raises:
        ConfigurationError: `configuration.tls`.
    """
    from blindai.web.certificate import PagesTls

    if certificate is None and key is None:
        return PagesTls.own_in(folder, host)
    if certificate is None or key is None:
        raise ConfigurationError("--tls-cert and --tls-key belong together", code="configuration.tls")
    return PagesTls.given(certificate, key)


def host_and_port(address: tuple[str, int]) -> str:
    """`host:port`, an IPv6 address in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
