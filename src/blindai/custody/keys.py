"""The custodian's keys: one that signs, and one under which the models' keys are kept.

Both are made once and rest in the database, locked with what `unlocking` says. They are in clear in the memory of the
custodian's processes only.
"""

from __future__ import annotations

import secrets
from functools import cached_property
from typing import TYPE_CHECKING, Final, Self

import msgspec
import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy.exc import IntegrityError

from blindai.crypto.digests import tagged
from blindai.custody import tables
from blindai.custody.unlocking import KEY_BYTES, Lock, Unlock, locked
from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from blindai.web.database import Database

KEYS_DOMAIN: Final = "blindai/custodian-keys/v1"
WRAP_DOMAIN: Final = "blindai/custodian-wrap/v1"

# The row of the table `secrets`; the name leaves room for keys of another kind.
_NAME: Final = "custodian"

_NONCE_BYTES: Final = 12  # NIST SP 800-38D, section 5.2.1.1
_TAG_BYTES: Final = 16


class CustodianKeys:
    """The keys in clear. They have no way out of this object but their use."""

    def __init__(self, signing_seed: bytes, wrapping_key: bytes) -> None:
        """Both of `KEY_BYTES`; what is kept is made by `generate` and `open`."""
        self._signing = Ed25519PrivateKey.from_private_bytes(signing_seed)
        self._wrapping = AESGCM(wrapping_key)

    def __repr__(self) -> str:
        return f"CustodianKeys({self.public_key})"

    @classmethod
    def generate(cls) -> Self:
        """New keys that are kept nowhere."""
        return cls(secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES))

    @classmethod
    def open(cls, database: Database, unlock: Unlock) -> Self:
        """The keys in `database`. Where there are none yet, new ones, locked with `unlock`.

        Processes that start at the same moment end with the same keys.

        Raises:
            ConfigurationError: `custodian.locked`, `unlock` does not open them; nothing was changed.
                `custodian.unlock`, it cannot be read or written. `custodian.keys`, the row is damaged.
        """
        row = _stored(database)
        if row is None:
            try:
                return cls._create(database, unlock)
            except IntegrityError:
                row = _stored(database)
                if row is None:  # pragma: no cover - nothing deletes the row
                    raise
        try:
            return cls._unlocked(row, unlock)
        except ConfigurationError:
            unlock.unmake()
            raise

    @cached_property
    def public_key(self) -> str:
        """Ed25519, 64 hex digits: who the custodian is."""
        return self.public.public_bytes_raw().hex()

    @cached_property
    def public(self) -> Ed25519PublicKey:
        """`public_key`, to verify with."""
        return self._signing.public_key()

    def sign(self, message: bytes) -> bytes:
        """Sign with Ed25519 (RFC 8032): 64 bytes. `message` is what `crypto.digests.tagged` gives."""
        return self._signing.sign(message)

    def wrap(self, secret: bytes, context: str) -> bytes:
        """Encrypt `secret` (AES-256-GCM) so that it opens for the same `context` alone.

        Args:
            context: what the secret is for, in printable ASCII.
        """
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._wrapping.encrypt(nonce, secret, tagged(WRAP_DOMAIN, {"context": context}))

    def unwrap(self, wrapped: bytes, context: str) -> bytes:
        """What was wrapped for `context`.

        Raises:
            ConfigurationError: `custodian.keys`, it was wrapped by other keys, for another context, or changed.
        """
        nonce, sealed = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
        try:
            if len(sealed) < _TAG_BYTES:
                raise InvalidTag
            return self._wrapping.decrypt(nonce, sealed, tagged(WRAP_DOMAIN, {"context": context}))
        except InvalidTag as error:
            raise ConfigurationError(
                f"what the database holds for {context} was not written by this custodian",
                code="custodian.keys",
                hint="was a row copied from another database? restore the database from a backup",
            ) from error

    @classmethod
    def _create(cls, database: Database, unlock: Unlock) -> Self:
        seed, wrapping_key = secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES)
        keys = cls(seed, wrapping_key)
        lock, key = unlock.make()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + AESGCM(key).encrypt(nonce, seed + wrapping_key, _associated(lock, keys.public_key))
        with database.write() as connection:
            connection.execute(
                sa.insert(tables.secrets).values(
                    name=_NAME, public_key=keys.public_key, lock=msgspec.json.encode(lock).decode(), sealed=sealed
                )
            )
        return keys

    @classmethod
    def _unlocked(cls, row: sa.Row[tuple[str, str, bytes]], unlock: Unlock) -> Self:
        lock = _lock(row)
        key = unlock.key(lock)
        nonce, sealed = row.sealed[:_NONCE_BYTES], row.sealed[_NONCE_BYTES:]
        try:
            secret = AESGCM(key).decrypt(nonce, sealed, _associated(lock, row.public_key))
        except (InvalidTag, ValueError) as error:
            raise locked(
                "the custodian's keys do not open with this key file or passphrase",
                hint="use the one that was given when this database was first used",
            ) from error
        return cls(secret[:KEY_BYTES], secret[KEY_BYTES:])


def stored_lock(database: Database) -> Lock | None:
    """How the keys in `database` are locked; None where there are none yet.

    Raises:
        ConfigurationError: `custodian.keys`, the row is damaged.
    """
    row = _stored(database)
    return None if row is None else _lock(row)


def _stored(database: Database) -> sa.Row[tuple[str, str, bytes]] | None:
    table = tables.secrets
    with database.read() as connection:
        query: sa.Select[tuple[str, str, bytes]] = sa.select(table.c.public_key, table.c.lock, table.c.sealed)
        return connection.execute(query.where(table.c.name == _NAME)).one_or_none()


def _associated(lock: Lock, public_key: str) -> bytes:
    return tagged(KEYS_DOMAIN, {"lock": msgspec.to_builtins(lock), "public_key": public_key})


def _lock(row: sa.Row[tuple[str, str, bytes]]) -> Lock:
    try:
        lock: Lock = msgspec.json.decode(row.lock, type=Lock)
    except msgspec.DecodeError as error:
        raise ConfigurationError(
            "the row that holds the custodian's keys is damaged",
            code="custodian.keys",
            hint="restore the database from a backup",
        ) from error
    return lock
