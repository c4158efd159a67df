"""What the custodian's keys are locked with at rest: a key file, or a passphrase.

Either gives 32 bytes, which are nowhere in the database. Whoever has a copy of the database alone has nothing.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Final, Literal, Protocol

import msgspec
from argon2.exceptions import Argon2Error
from argon2.low_level import Type, hash_secret_raw

from blindai.crypto import secret_file
from blindai.errors import ConfigurationError

KEY_BYTES: Final = 32
SALT_BYTES: Final = 16

# RFC 9106, section 4, the second recommended option: 64 MiB fit into any machine that runs a custodian.
TIME_COST: Final = 3
MEMORY_KIB: Final = 64 << 10
LANES: Final = 4

# A passphrase is typed by a person; a longer file is another file given by mistake.
MAX_PASSPHRASE_BYTES: Final = 1024

# Below this, a passphrase is found by whoever has a copy of the database, whatever argon2id costs.
MIN_PASSPHRASE_CHARACTERS: Final = 12


class FileLock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="file"):
    """Locked with a key file. There is nothing to remember of it."""


class PassphraseLock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="passphrase"):
    """Locked with a passphrase, from which argon2id (RFC 9106) makes the key.

    Attributes:
        salt: 32 hex digits.
        memory_kib, time_cost, lanes: of argon2id. Bounded, because they are read before anything is authenticated.
    """

    salt: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    memory_kib: Annotated[int, msgspec.Meta(ge=MEMORY_KIB, le=4 << 20)] = MEMORY_KIB
    time_cost: Annotated[int, msgspec.Meta(ge=1, le=64)] = TIME_COST
    lanes: Annotated[int, msgspec.Meta(ge=1, le=64)] = LANES
    algorithm: Literal["argon2id"] = "argon2id"


Lock = FileLock | PassphraseLock


class Unlock(Protocol):
    """What an operator gives when the custodian starts."""

    def make(self) -> tuple[Lock, bytes]:
        """A new lock and its key of `KEY_BYTES`.

        Raises:
            ConfigurationError: `custodian.unlock`.
        """
        ...

    def key(self, lock: Lock) -> bytes:
        """The key of a lock that was made before.

        Raises:
            ConfigurationError: `custodian.locked`, this is not what opens it.
        """
        ...

    def unmake(self) -> None:
        """Take back what `make` left on the disk; somebody else has made another lock first."""
        ...


class KeyFile:
    """A file of 32 random bytes that only the custodian's user may read.

    Attributes:
        made: whether this object wrote the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made = False

    def make(self) -> tuple[Lock, bytes]:
        if not self.path.exists():
            try:
                self.made = secret_file.create(self.path, secrets.token_bytes(KEY_BYTES))
            except OSError as error:
                raise _unusable(f"the key file {self.path} cannot be written: {error}") from error
        return FileLock(), self._read()

    def key(self, lock: Lock) -> bytes:
        if not isinstance(lock, FileLock):
            raise locked("the custodian's keys are locked with a passphrase", hint="give --passphrase-file")
        if not self.path.exists():
            raise locked(
                f"there is no key file {self.path}",
                hint="put back the key file that was made with this database; without it the keys are lost",
            )
        return self._read()

    def unmake(self) -> None:
        if self.made:
            self.path.unlink(missing_ok=True)
            self.made = False

    def _read(self) -> bytes:
        try:
            key = secret_file.read(self.path, KEY_BYTES)
        except (OSError, ValueError) as error:
            raise _unusable(f"the key file {self.path} cannot be used: {error}") from error
        if len(key) != KEY_BYTES:
            raise _unusable(f"{self.path} is no key file: one holds {KEY_BYTES} bytes")
        return key


class Passphrase:
    """A passphrase. It has been read from a terminal or a file, never from arguments or the environment."""

    def __init__(self, text: str) -> None:
        """Take a passphrase as it was typed.

        Raises:
            ConfigurationError: `custodian.unlock`, it is too short or too long.
        """
        if len(text) < MIN_PASSPHRASE_CHARACTERS or len(text.encode()) > MAX_PASSPHRASE_BYTES:
            raise _unusable(
                f"a passphrase has {MIN_PASSPHRASE_CHARACTERS} characters or more, and {MAX_PASSPHRASE_BYTES} bytes "
                "at most"
            )
        self._text = text.encode()

    @classmethod
    def read(cls, path: Path) -> Passphrase:
        """The first line of a file.

        Raises:
            ConfigurationError: `custodian.unlock`.
        """
        try:
            with path.open("rb") as file:
                text = file.read(MAX_PASSPHRASE_BYTES + 2).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise _unusable(f"the passphrase cannot be read from {path}: {error}") from error
        line, _, rest = text.partition("\n")
        if rest:
            raise _unusable(f"{path} has more than one line; a passphrase is one")
        return cls(line.removesuffix("\r"))

    def make(self) -> tuple[Lock, bytes]:
        lock = PassphraseLock(salt=secrets.token_hex(SALT_BYTES))
        return lock, self.key(lock)

    def key(self, lock: Lock) -> bytes:
        if not isinstance(lock, PassphraseLock):
            raise locked("the custodian's keys are locked with a key file", hint="give --key-file")
        try:
            return hash_secret_raw(
                self._text,
                bytes.fromhex(lock.salt),
                time_cost=lock.time_cost,
                memory_cost=lock.memory_kib,
                parallelism=lock.lanes,
                hash_len=KEY_BYTES,
                type=Type.ID,
            )
        except Argon2Error as error:
            raise _unusable(f"argon2id failed: {error}") from error

    def unmake(self) -> None:
        pass


def locked(message: str, *, hint: str) -> ConfigurationError:
    """The custodian's keys stay locked; nothing was changed."""
    return ConfigurationError(message, code="custodian.locked", hint=hint)


def _unusable(message: str, *, hint: str = "") -> ConfigurationError:
    return ConfigurationError(message, code="custodian.unlock", hint=hint)
