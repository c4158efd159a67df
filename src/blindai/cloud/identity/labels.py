"""What people call their passkeys and their machines."""

from __future__ import annotations

import msgspec

from blindai.errors import InvalidInput
from blindai.wire.cloud_api import Label


def require_label(name: str, *, code: str) -> None:
    """Refuse a name that cannot be seen, or that changes how what stands beside it is seen.

    Raises:
        InvalidInput: `code`.
    """
    try:
        msgspec.convert(name, Label)
    except msgspec.ValidationError:
        raise InvalidInput("a name has 1 to 64 characters, all of which can be seen", code=code) from None
