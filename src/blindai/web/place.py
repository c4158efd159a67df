"""Where a program's files are, unless somebody says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from platformdirs import user_data_path

from blindai.crypto import secret_file
from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def data_folder(program: str, given: Path | None, *, make: bool = True) -> Path:
    """The folder that was given, or else `program` in the user's data folder; absolute.

    Args:
        make: it, where there is none, for its owner alone.

    Raises:
        ConfigurationError: `configuration.data`, it cannot be made.
    """
    folder = (given or user_data_path("blindai", appauthor=False) / program).absolute()
    if make:
        try:
            folder.mkdir(mode=secret_file.PRIVATE_FOLDER, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"the folder {folder} cannot be made: {error.strerror or error}", code="configuration.data"
            ) from error
    return folder
