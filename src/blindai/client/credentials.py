"""The secrets of a user's clouds: the token of `blindai login`, and API keys that were stored.

They lie in the system's keyring where there is one, else in a file beside the profile that its owner alone may read.
Never in the profile, the environment or an argument, which others can see. Each belongs to one cloud, by its URL, and
is given out for that one alone.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec

from blindai.client.profile import profile_path
from blindai.crypto import secret_file
from blindai.errors import ConfigurationError

FILE_NAME: Final = "credentials.json"
MAX_FILE_BYTES: Final = 1 << 20
"""Thousands of keys; more is another file."""

_SERVICE: Final = "blindai"
_TOKEN: Final = "token"  # noqa: S105 - what it is called, not what it is
_KEY: Final = "key "

# What `keyring` itself calls fit to be used: less are those that keep nothing, or keep it in clear.
_REAL_PRIORITY: Final = 1


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One secret in the file."""

    cloud: str
    what: str
    secret: str


class Credentials:
    """The secrets for one cloud.

    Args:
        cloud: its URL, as in the profile.
        path: another file than the one beside the profile.
        keyring: whether to use the system's keyring where there is one.
    """

    def __init__(self, cloud: str, *, path: Path | None = None, keyring: bool = True) -> None:
        self._cloud = cloud
        self._path = path or profile_path().with_name(FILE_NAME)
        self._keyring = _system_keyring() if keyring else None

    @property
    def place(self) -> str:
        """Where secrets go, for people."""
        return str(self._path) if self._keyring is None else "the system's keyring"

    def token(self) -> str | None:
        """The access token of `blindai login`."""
        return self._read(_TOKEN)

    def keep_token(self, token: str) -> None:
        """Keep an access token, in place of the one before it."""
        self._write(_TOKEN, token)

    def key(self, namespace: str) -> str | None:
        """The API key that was stored for an account."""
        return self._read(_KEY + namespace)

    def keep_key(self, namespace: str, key: str) -> None:
        """Keep an API key, in place of the one before it."""
        self._write(_KEY + namespace, key)

    def forget_key(self, namespace: str) -> None:
        """Forget the key of an account, if there is one."""
        self._remove(_KEY + namespace)

    def forget(self) -> None:
        """Forget all secrets of this cloud.

        Raises:
            ConfigurationError: `configuration.credentials`.
        """
        # A keyring cannot be asked what it holds; what was put there stands in the file by name.
        for entry in self._entries():
            if entry.cloud == self._cloud:
                self._remove(entry.what)

    def _read(self, what: str) -> str | None:
        entry = next((one for one in self._entries() if (one.cloud, one.what) == (self._cloud, what)), None)
        if entry is None or entry.secret or self._keyring is None:
            return None if entry is None else entry.secret or None
        with self._asked():
            secret: str | None = self._keyring.get_password(_SERVICE, self._name(what))
        return secret

    def _write(self, what: str, secret: str) -> None:
        if self._keyring is not None:
            with self._asked():
                self._keyring.set_password(_SERVICE, self._name(what), secret)
            secret = ""
        self._save([*self._others(what), _Entry(self._cloud, what, secret)])

    def _remove(self, what: str) -> None:
        if self._keyring is not None:
            import keyring.errors

            with self._asked(), contextlib.suppress(keyring.errors.PasswordDeleteError):  # it was not there
                self._keyring.delete_password(_SERVICE, self._name(what))
        kept = self._others(what)
        if len(kept) != len(self._entries()):
            self._save(kept)

    def _name(self, what: str) -> str:
        return f"{self._cloud} {what}"

    def _others(self, what: str) -> list[_Entry]:
        return [one for one in self._entries() if (one.cloud, one.what) != (self._cloud, what)]

    def _entries(self) -> list[_Entry]:
        try:
            return msgspec.json.decode(secret_file.read(self._path, MAX_FILE_BYTES), type=list[_Entry])
        except FileNotFoundError:
            return []
        except (OSError, ValueError, msgspec.DecodeError) as error:
            raise _refused(f"{self._path} cannot be used: {error}") from error

    def _save(self, entries: list[_Entry]) -> None:
        try:
            secret_file.replace(self._path, msgspec.json.encode(entries))
        except OSError as error:
            raise _refused(f"{self._path} cannot be written: {error}") from error

    @contextlib.contextmanager
    def _asked(self) -> Any:
        import keyring.errors

        try:
            yield
        except keyring.errors.PasswordDeleteError:
            raise
        except (keyring.errors.KeyringError, keyring.errors.InitError) as error:
            raise _refused(f"the system's keyring refuses: {error}") from error


def _system_keyring() -> ModuleType | None:
    """`keyring`, where it is installed and has a place that is worth the name."""
    try:
        import keyring
    except ImportError:
        return None
    try:
        priority = float(keyring.get_keyring().priority)
    except RuntimeError:  # how a place says that it does not work here
        return None
    return keyring if priority >= _REAL_PRIORITY else None


def _refused(reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"what was stored for a cloud cannot be reached: {reason}",
        code="configuration.credentials",
        hint="unlock the keyring or mend the file; or sign in again: blindai login",
    )
