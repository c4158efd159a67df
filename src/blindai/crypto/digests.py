"""Domain-separated digests: two messages of different kinds can never have the same digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from blindai.crypto.canonical import Canonical, canonical


def tagged(domain: str, value: Mapping[str, Canonical]) -> bytes:
    """The bytes that are hashed or signed for `value` in `domain`: the domain, a zero byte, the canonical encoding.

    Raises:
        ValueError: `value` is outside the canonical encoding.
    """
    return domain.encode("ascii") + b"\0" + canonical(value)


def tagged_sha256(domain: str, value: Mapping[str, Canonical]) -> str:
    """SHA-256 of `tagged(domain, value)` in lower-case hex."""
    return hashlib.sha256(tagged(domain, value)).hexdigest()
