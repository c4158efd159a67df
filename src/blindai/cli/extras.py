"""What a command needs besides the client."""

from __future__ import annotations

from importlib import import_module

from blindai.errors import ConfigurationError


def require_extra(extra: str, program: str, *modules: str, code: str) -> None:
    """Refuse in words where only the client is installed.

    Args:
        program: what is missing then.
        modules: of the packages in `extra`, those that people may lack.

    Raises:
        ConfigurationError: `code`.
    """
    try:
        for module in modules:
            import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"the {program} is not installed: {error}", code=code, hint=f"pip install 'blindai[{extra}]'"
        ) from error
