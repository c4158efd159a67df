"""Where people reach a control plane, and what it is called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from blindai.errors import ConfigurationError

# The name stands in the subject and the first line of every mail.
MAX_NAME_CHARACTERS: Final = 64

_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True)
class Site:
    """One control plane, as people know it.

    Attributes:
        name: on pages and in mails.
        url: the origin of its pages, `https://host` or `https://host:port`, without a slash at the end.

    Raises:
        ConfigurationError: `configuration.site`.
    """

    name: str
    url: str

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= MAX_NAME_CHARACTERS or not self.name.isprintable() or self.name.isspace():
            raise _wrong(f"the name of a site is 1 to {MAX_NAME_CHARACTERS} printable characters")
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise _wrong("the address of the site cannot be read") from None
        written = f"https://{host}" if port is None else f"https://{host}:{port}"
        if self.url != written or not _HOST.fullmatch(host) or port in {0, 443}:
            # Browsers name origins in this form (RFC 6454, section 6.1), and it is compared with theirs.
            raise _wrong("the address of the site is an origin such as https://cloud.example or https://localhost:9443")

    @property
    def rp_id(self) -> str:
        """What passkeys are made for: the host (Web Authentication Level 3, section 5.1.2, relying party id)."""
        return urlsplit(self.url).hostname or ""


def _wrong(message: str) -> ConfigurationError:
    return ConfigurationError(message, code="configuration.site")
