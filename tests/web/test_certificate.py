"""TLS of the operators' port."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from blindai.errors import ConfigurationError
from blindai.web.certificate import PagesTls


def _handshake(tls: PagesTls, trusted: Path, name: str) -> str | None:
    """The TLS version of a connection from a client that trusts `trusted`."""
    ours, theirs = socket.socketpair()

    def answer() -> None:
        with tls.context.wrap_socket(ours, server_side=True) as connection:
            connection.recv(1)

    thread = threading.Thread(target=answer)
    thread.start()
    context = ssl.create_default_context(cafile=str(trusted))
    try:
        with context.wrap_socket(theirs, server_hostname=name) as connection:
            connection.sendall(b"x")
            return connection.version()
    finally:
        thread.join(10)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "custodian.example"])
def test_its_own_certificate_names_where_it_is(tmp_path: Path, name: str) -> None:
    tls = PagesTls.own_in(tmp_path / "tls", "custodian.example")
    assert tls.own
    assert _handshake(tls, tmp_path / "tls" / "pages.pem", name) == "TLSv1.3"


def test_it_is_made_once(tmp_path: Path) -> None:
    first = PagesTls.own_in(tmp_path, "127.0.0.1")
    assert PagesTls.own_in(tmp_path, "other.example").fingerprint == first.fingerprint
    certificate = x509.load_pem_x509_certificate((tmp_path / "pages.pem").read_bytes())
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_damaged_one_is_named(tmp_path: Path) -> None:
    PagesTls.own_in(tmp_path, "127.0.0.1")
    (tmp_path / "pages.pem").write_bytes(b"damaged")
    with pytest.raises(ConfigurationError) as caught:
        PagesTls.own_in(tmp_path, "127.0.0.1")
    assert caught.value.code == "configuration.tls"


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PagesTls.own_in(tmp_path, "a" * 70 + ".example")
    assert caught.value.code == "configuration.tls"


def test_an_encrypted_key_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    PagesTls.own_in(tmp_path, "127.0.0.1")
    pem = tmp_path / "pages.pem"
    key = load_pem_private_key(pem.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    with pytest.raises(ConfigurationError) as caught:
        PagesTls.given(pem, encrypted)
    assert caught.value.code == "configuration.tls"
