"""Build artefacts on disk: read whole, within a limit, with refusals that name the file."""

from __future__ import annotations

from pathlib import Path

from blindai.errors import ConfigurationError


def read_artefact(path: Path, maximum: int) -> bytes:
    """The content of a file.

    Args:
        path: the file.
        maximum: bytes; a larger file is refused before it is read.

    Raises:
        ConfigurationError: `measure.unreadable`, `measure.too_large`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(maximum + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigurationError(f"{path} cannot be read: {error}", code="measure.unreadable") from error
    if len(data) > maximum:
        raise ConfigurationError(f"{path} is larger than {maximum} bytes", code="measure.too_large")
    return data
