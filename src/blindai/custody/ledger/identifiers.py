"""Names of leases, requests and proposals: a word and 80 random bits in base32."""

from __future__ import annotations

import base64
import secrets
from typing import Final

_BYTES: Final = 10


def new_id(kind: str) -> str:
    """A new name, such as `lease-` and 16 characters of a-z and 2-7."""
    return f"{kind}-{base64.b32encode(secrets.token_bytes(_BYTES)).decode().lower()}"
