"""The control plane's key: made once, kept for one user alone."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from blindai.cloud.keys import SigningKey
from blindai.errors import ConfigurationError


def pem(
    key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, encryption: KeySerializationEncryption | None = None
) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def test_a_key_is_made_once_and_signs(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "signing.key"
    key = SigningKey.kept_in(path)
    assert path.stat().st_mode & 0o777 == 0o600
    again = SigningKey.kept_in(path)
    assert again.public_key == key.public_key
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public_key)).verify(again.sign(b"message"), b"message")


def test_who_starts_at_the_same_moment_ends_with_the_same_key(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(SigningKey.kept_in(tmp_path / "signing.key").public_key))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), len(set(found))) == (8, 1)


def test_no_representation_shows_the_key(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    key = SigningKey.kept_in(path)
    secret = path.read_text("ascii").splitlines()[1]
    assert secret not in repr(key)
    assert repr(key) == f"SigningKey({key.public_key})"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no key",
        b"x" * 5000,
        pem(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"secret")),
        pem(ec.generate_private_key(ec.SECP256R1())),
    ],
    ids=["nothing", "words", "too much", "a passphrase", "another kind"],
)
def test_what_is_no_key_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "signing.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError) as caught:
        SigningKey.kept_in(path)
    assert caught.value.code == "configuration.signing_key"
    assert path.read_bytes() == content


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    SigningKey.kept_in(path)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600") as caught:
        SigningKey.kept_in(path)
    assert caught.value.code == "configuration.signing_key"


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError) as caught:
        SigningKey.kept_in(tmp_path / "file" / "signing.key")
    assert caught.value.code == "configuration.signing_key"
