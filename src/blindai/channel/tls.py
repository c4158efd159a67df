"""TLS 1.3 over memory buffers (sans I/O), with the exporter that CPython's `ssl` does not offer.

No resumption of any kind: the session cache is off and no session is ever offered, so each connection
has key material of its own, and early data does not exist. OpenSSL still sends its ticket message; the
ticket names a session that was never stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from blindai.channel.keyset import spki_sha256
from blindai.channel.statement import EXPORTER_LABEL, EXPORTER_LENGTH

if TYPE_CHECKING:
    from cryptography import x509

# The largest TLS 1.3 plaintext record (RFC 8446, section 5.1): SSL_read returns at most one.
RECORD_BYTES = 1 << 14

# Encrypt and send large bodies in pieces of this size: few system calls, and all buffers stay below the size (128 KiB)
# from which the C library asks the system for fresh, empty pages each time, which costs more than the encryption.
PIECE_BYTES = 4 * RECORD_BYTES

# A record on the wire: type, version and length of what follows (RFC 8446, section 5.1). After the handshake all honest
# ones are of one type and version, and at most so long (section 5.2).
_HEADER_BYTES = 5
_USUAL_RECORD = b"\x17\x03\x03"
_MAX_CIPHERTEXT_BYTES = RECORD_BYTES + 256

# What one piece becomes, with the header, the type and the tag of each record, fits in one read.
_OUTGOING_BYTES = PIECE_BYTES + (1 << 12)


class TLSFailure(Exception):
    """The TLS layer refused what the peer sent. `reason` is OpenSSL's own name for it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    return context


def _take_key(context: SSL.Context, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    context.use_certificate(certificate)
    context.use_privatekey(key)
    context.check_privatekey()


def server_context(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> SSL.Context:
    """A context for the attested end; `key` never leaves memory."""
    context = _context()
    _take_key(context, key, certificate)
    return context


def client_context() -> SSL.Context:
    """A context for the relying party.

    No public key infrastructure vouches for an enclave's certificate, so none is asked: TLS proves
    possession of the key, and the gate proves whose key it is before any application byte is sent.
    """
    context = _context()
    context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
    return context


def calling_context(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> SSL.Context:
    """A context for the attested end where it opens the connection: as `client_context`, with a certificate."""
    context = client_context()
    _take_key(context, key, certificate)
    return context


def receiving_context(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> SSL.Context:
    """A context for the relying party where it accepts connections.

    The caller must prove possession of the key of some certificate; the gate finds out whose key it is.
    """
    context = server_context(key, certificate)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    return context


class TLSPipe:
    """One end of one connection: bytes of the wire on one side, plaintext on the other.

    It counts the records that come in, so that OpenSSL is asked for plaintext only when a whole record waits: to be
    told that none does costs as much as to read one.

    Attributes:
        established: whether the handshake is complete.
        owes: whether TLS may have something of its own to send: the end of a handshake, the answer to a key update.
    """

    def __init__(self, context: SSL.Context, *, server: bool) -> None:
        self._connection = SSL.Connection(context, None)
        self._send = self._connection.send
        self._receive = self._connection.recv
        self._give = self._connection.bio_write
        self._fetch = self._connection.bio_read
        if server:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()
        self.established = False
        self.owes = False
        self._whole = 0  # records that wait; more than there are does no harm
        self._missing = 0  # bytes of the record that has come in part
        self._begun = b""  # a header that has come in part

    def set_server_name(self, name: str) -> None:
        """Send `name` as SNI (RFC 6066): a routing hint for balancers, not an identity."""
        self._connection.set_tlsext_host_name(name.encode("idna"))

    def feed(self, data: bytes) -> None:
        """Take bytes from the wire."""
        if data:  # OpenSSL takes nothing for an error
            self._give(data)
            self._count(data)

    def handshake(self) -> bool:
        """Go on with the handshake; True when it is complete.

        Raises:
            TLSFailure: the peer is refused. `outgoing()` may hold an alert that should still be sent.
        """
        self.owes = True
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise TLSFailure(_reason(error)) from error
        self.established = True
        return True

    def read(self) -> bytes | None:
        """The plaintext of the next record; None when more bytes are needed, b"" when the peer closed.

        Raises:
            TLSFailure: a record did not authenticate, or the peer sent an alert.
        """
        if not self._whole:
            return None
        try:
            plaintext = self._receive(RECORD_BYTES)
        except SSL.Error as error:
            return None if self._has_no_more(error) else b""
        self._whole -= 1
        return plaintext

    def read_into(self, space: memoryview) -> int | None:
        """As `read`, for all records that wait and fit: how many bytes are in `space` now; 0 when the peer closed.

        Raises:
            TLSFailure: as `read`.
        """
        receive = self._connection.recv_into
        size, filled = len(space), 0
        while self._whole and filled < size:
            rest = space[filled:]
            try:
                read = receive(rest, RECORD_BYTES)
            except SSL.Error as error:
                if self._has_no_more(error):
                    break
                return filled
            filled += read
            if filled < size or not self._connection.pending():
                self._whole -= 1
        return filled or None

    def _has_no_more(self, error: SSL.Error) -> bool:
        """Whether OpenSSL needs more bytes; False where the peer has closed. Raises TLSFailure for all else."""
        self.owes = True
        if isinstance(error, SSL.WantReadError):
            self._whole = 0
            return True
        if isinstance(error, SSL.ZeroReturnError):
            return False
        raise TLSFailure(_reason(error)) from error

    def _count(self, data: bytes) -> None:
        """Count the records that are complete with `data`, and those that OpenSSL should see before they are."""
        if self._begun:
            data = self._begun + data
            self._begun = b""
        size, end = len(data), self._missing
        if end > size:
            self._missing = end - size
            return
        if end:
            self._whole += 1
        while size - end >= _HEADER_BYTES:
            length = data[end + 3] << 8 | data[end + 4]
            usual = data.startswith(_USUAL_RECORD, end) and length <= _MAX_CIPHERTEXT_BYTES
            end += _HEADER_BYTES + length
            if end <= size or not usual:
                self._whole += 1
            if end > size:
                self._missing = end - size
                return
        self._missing = 0
        self._begun = data[end:]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt `data`; what results waits in `outgoing()`.

        Raises:
            TLSFailure: the connection is already closed.
        """
        if not len(data):
            return
        try:
            sent = self._send(data)
            if sent < len(data):  # a record of it
                self._connection.sendall(memoryview(data)[sent:])
        except SSL.Error as error:
            raise TLSFailure(_reason(error)) from error

    def outgoing(self) -> bytes:
        """All bytes that wait to be put on the wire."""
        self.owes = False
        try:
            chunk = self._fetch(_OUTGOING_BYTES)
        except SSL.WantReadError:
            return b""
        if len(chunk) < _OUTGOING_BYTES:
            return chunk
        chunks = [chunk]
        while chunk := self._take():
            chunks.append(chunk)
        return b"".join(chunks)

    def _take(self) -> bytes:
        try:
            return self._fetch(_OUTGOING_BYTES)
        except SSL.WantReadError:
            return b""

    def close(self) -> None:
        """Queue close_notify (RFC 8446, section 6.1)."""
        try:
            self._connection.shutdown()
        except SSL.Error:
            # The connection had already failed: there is nobody left to tell.
            return

    def exported(self, nonce: bytes) -> str:
        """TLS-Exporter for this connection with `nonce` as context, in hex (RFC 8446, section 7.5; RFC 9266)."""
        return self._connection.export_keying_material(EXPORTER_LABEL, EXPORTER_LENGTH, nonce).hex()

    def peer_spki_sha256(self) -> str | None:
        """Digest of the key that the peer proved to hold; None when it is not a readable elliptic-curve key."""
        try:
            certificate = self._connection.get_peer_certificate(as_cryptography=True)
            if certificate is None:
                return None
            key = certificate.public_key()
        except (ValueError, UnsupportedAlgorithm):
            # OpenSSL takes certificates and keys that the stricter library does not.
            return None
        return spki_sha256(key) if isinstance(key, ec.EllipticCurvePublicKey) else None

    @property
    def version(self) -> str:
        return self._connection.get_protocol_version_name()

    @property
    def group(self) -> str:
        """Name of the key-exchange group, such as X25519MLKEM768."""
        return self._connection.get_group_name() or ""


def _reason(error: SSL.Error) -> str:
    """OpenSSL's reason string, such as `wrong version number`."""
    if isinstance(error, SSL.SysCallError):
        return "connection closed by the peer"
    if error.args and error.args[0]:
        return str(error.args[0][-1][-1])
    return "unknown TLS error"


def pieces(parts: Iterable[bytes | bytearray | memoryview]) -> Iterator[bytes | bytearray | memoryview]:
    """The same bytes in good portions: small parts that fit one record are joined, large ones cut at `PIECE_BYTES`."""
    small: list[bytes | bytearray | memoryview] = []
    size = 0
    for part in parts:
        length = len(part)
        if size + length > RECORD_BYTES and small:
            yield b"".join(small)
            small, size = [], 0
        if length <= RECORD_BYTES:
            small.append(part)
            size += length
            continue
        view = memoryview(part)
        for start in range(0, length, PIECE_BYTES):
            yield view[start : start + PIECE_BYTES]
    if small:
        yield small[0] if len(small) == 1 else b"".join(small)
