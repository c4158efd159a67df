"""The one canonical encoding for what is hashed or signed: JSON Canonicalization Scheme (RFC 8785).

Only the part of JSON on which every implementation agrees is allowed: objects with ASCII keys,
ASCII strings, booleans, and integers below 2**53. Within it, sorted keys and no white space are
exactly RFC 8785; numbers with a fraction, where implementations differ, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

MAX_SAFE_INTEGER = 2**53 - 1  # RFC 8785 3.2.2.3: larger integers do not survive IEEE 754

Canonical = str | int | bool | None | Sequence["Canonical"] | Mapping[str, "Canonical"]

_encoder = msgspec.json.Encoder(order="sorted")


def canonical(value: Mapping[str, Canonical]) -> bytes:
    """Encode `value` canonically.

    Raises:
        ValueError: a float, a non-ASCII string, a control character or an integer beyond 2**53 - 1.
    """
    _require_canonical(value)
    return _encoder.encode(value)


def _require_canonical(value: object) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        # Escapes and the sort order of non-BMP keys are where JSON encoders disagree.
        if not value.isascii() or not value.isprintable():
            raise ValueError("canonical encoding takes printable ASCII strings only")
    elif isinstance(value, int):
        if abs(value) > MAX_SAFE_INTEGER:
            raise ValueError("canonical encoding takes integers up to 2**53 - 1 only")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError("canonical encoding takes string keys only")
            _require_canonical(key)
            _require_canonical(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _require_canonical(item)
    else:
        raise ValueError(f"canonical encoding does not take {type(value).__name__}")
