"""How the console says sizes, shapes and what others have named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from blindai.errors import harmless
from blindai.wire.metadata import VARIABLE

_UNITS: Final = ("bytes", "kB", "MB", "GB", "TB", "PB")
_STEP: Final = 1000

# Three digits tell a size well enough.
_WHOLE: Final = 100


def size(count: int) -> str:
    """A number of bytes: "999 bytes", "10.1 kB", "250 MB"."""
    value = float(count)
    for unit in _UNITS:
        if round(value) < _STEP or unit == _UNITS[-1]:
            break
        value /= _STEP
    return f"{value:,.0f} {unit}" if unit == "bytes" or value >= _WHOLE else f"{value:.1f} {unit}"


def shape(dimensions: Iterable[int]) -> str:
    """The shape of a tensor, with "any" where each request may choose: "[any, 64]"."""
    return f"[{', '.join('any' if size == VARIABLE else str(size) for size in dimensions)}]"


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {"harmless": harmless, "shape": shape, "size": size}
"""By the names that templates call them."""
