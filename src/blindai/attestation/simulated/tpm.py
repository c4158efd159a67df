"""A TPM 2.0 in software: real quotes, a real certificate, real credential activation, no hardware.

What it emits passes byte for byte through the same verifier as evidence of real TPMs, under a root that no policy
accepts unless it names it. It protects nothing: whoever reads this process's memory has every key.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.serialization import Encoding

from blindai.attestation import credential
from blindai.attestation.anchors import Anchor
from blindai.attestation.evidence import TEE, Evidence, TpmIdentity, TpmQuote, committed, require_report_data
from blindai.attestation.simulated import tpm_layout as layout
from blindai.attestation.simulated.certificates import BACKDATING
from blindai.attestation.simulated.tpm_certificates import SimulatedTpmRoot
from blindai.attestation.verifiers.tpm_certificates import EK_CERTIFICATE_USAGE
from blindai.attestation.verifiers.tpm_structures import (
    PCR_BYTES,
    PCR_COUNT,
    TPM_GENERATED,
    TPM_ST_ATTEST_QUOTE,
    Algorithm,
    Attributes,
    parse_public,
)

QUOTED_PCRS = range(16)

FIRMWARE_VERSION = 0x20260101_00000001

EV_SEPARATOR = 0x04
EV_S_CRTM_VERSION = 0x08
EV_EFI_BOOT_SERVICES_APPLICATION = 0x80000003

_ENDORSEMENT_HIERARCHY = (0x4000000B).to_bytes(4)
# PolicySecret of the endorsement hierarchy, as in all EK templates (EK Credential Profile, annex B.6.2).
_EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
_EK_ATTRIBUTES = (
    Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
    | Attributes.ADMIN_WITH_POLICY
    | Attributes.RESTRICTED
    | Attributes.DECRYPT
)
_AK_ATTRIBUTES = (
    Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
    | Attributes.USER_WITH_AUTH
    | Attributes.RESTRICTED
    | Attributes.SIGN
)

KeyKind = Literal["rsa", "ecc"]
_PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class TpmFaults(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with the TPM, for tests and demonstrations. By default nothing is.

    Attributes:
        ak_attributes, ek_attributes: attribute bits to flip.
        magic, kind: what quotes begin with.
        purpose: the extended key usage of the EK certificate.
        issuing_ek: the EK certificate is that of a CA.
        certificate_shift: moves the validity of the EK certificate; minus 11 years make it expired.
        without_certificates: send none.
        without_log: send no boot log.
        forgets_secret: answer credentials with zeros.
    """

    ak_attributes: Attributes = Attributes(0)
    ek_attributes: Attributes = Attributes(0)
    magic: int = TPM_GENERATED
    kind: int = TPM_ST_ATTEST_QUOTE
    purpose: x509.ObjectIdentifier = EK_CERTIFICATE_USAGE
    issuing_ek: bool = False
    certificate_shift: timedelta = timedelta()
    without_certificates: bool = False
    without_log: bool = False
    forgets_secret: bool = False


class SimulatedTpm:
    """One TPM, freshly started and without a measurement in it; an `ActivatingAttester`. Safe to call from threads.

    Args:
        root: the maker; `SimulatedTpmRoot.load_or_create()` for this installation's own.
        ek, ak: the kind of each key: RSA-2048 (RSASSA for the AK) or P-256.
        faults: what is wrong with it.
        clock: the time, UTC.
    """

    tee = TEE.TPM
    simulated = True
    quick = True

    def __init__(
        self,
        root: SimulatedTpmRoot,
        *,
        ek: KeyKind = "ecc",
        ak: KeyKind = "ecc",
        faults: TpmFaults | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.anchor: Anchor = root.anchor
        self.faults = faults or TpmFaults()
        self._ek, self._ak = _generate(ek), _generate(ak)
        self._scheme = Algorithm.RSASSA if ak == "rsa" else Algorithm.ECDSA
        ek_public = layout.public(
            self._ek.public_key(), _EK_ATTRIBUTES ^ self.faults.ek_attributes, policy=_EK_POLICY, aes_bits=128
        )
        ak_public = layout.public(
            self._ak.public_key(), _AK_ATTRIBUTES ^ self.faults.ak_attributes, scheme=self._scheme
        )
        self.ek_public = parse_public(ek_public, what="the EK")
        self.ak_public = parse_public(ak_public, what="the AK")
        certificate = root.certify(
            self._ek.public_key(),
            clock() - BACKDATING + self.faults.certificate_shift,
            purpose=self.faults.purpose,
            certificates=self.faults.issuing_ek,
        )
        chain = () if self.faults.without_certificates else (certificate, root.certificate)
        self._identity = TpmIdentity(
            ak_public=ak_public,
            ek_public=ek_public,
            ek_certificates=tuple(item.public_bytes(Encoding.DER) for item in chain),
        )
        self._clock, self._started = clock, clock()
        self._lock = threading.Lock()
        self.resets = 0
        self._pcrs: dict[int, bytes] = {}
        self._log = b""
        self.reset()

    # What happens to the TPM.

    def reset(self) -> None:
        """Power it off and on: the PCRs and the log begin anew, the keys stay."""
        with self._lock:
            self.resets += 1
            # PCRs 17 to 22 await a dynamic launch (PC Client Platform TPM Profile, section 4.6.2).
            self._pcrs = {index: b"\xff" * PCR_BYTES if 17 <= index <= 22 else bytes(32) for index in range(PCR_COUNT)}
            self._log = layout.log_header()

    def extend(self, pcr: int, digest: bytes) -> None:
        """TPM2_PCR_Extend with a SHA-256 digest; nothing is logged."""
        with self._lock:
            self._pcrs[pcr] = hashlib.sha256(self._pcrs[pcr] + digest).digest()

    def measure(self, pcr: int, content: bytes, *, kind: int = EV_EFI_BOOT_SERVICES_APPLICATION) -> None:
        """What firmware does with what it is about to start: extend a PCR by the digest, and log that."""
        digest = hashlib.sha256(content).digest()
        self.extend(pcr, digest)
        with self._lock:
            self._log += layout.log_event(pcr, kind, digest, content[:64])

    def boot(self, *, firmware: bytes = b"firmware", loader: bytes = b"loader", kernel: bytes = b"kernel") -> None:
        """A short measured boot: PCR 0, 4 and 9, and the separators that end it."""
        self.measure(0, firmware, kind=EV_S_CRTM_VERSION)
        for pcr in range(8):
            self.measure(pcr, bytes(4), kind=EV_SEPARATOR)
        self.measure(4, loader)
        self.measure(9, kernel)

    # What it answers.

    @property
    def pcrs(self) -> dict[int, bytes]:
        """The values of all PCRs of the SHA-256 bank."""
        with self._lock:
            return dict(self._pcrs)

    @property
    def event_log(self) -> bytes:
        """The log of `measure`, as Linux hands it out."""
        with self._lock:
            return self._log

    def identity(self) -> TpmIdentity:
        """The keys, and the certificate of the EK."""
        return self._identity

    def attest(self, report_data: bytes) -> Evidence:
        """A quote over the SHA-256 of `report_data`, 64 bytes. See `Attester.attest`."""
        require_report_data(report_data)
        quote, tpm = self.quote(committed(TEE.TPM, report_data))
        return Evidence(tee=TEE.TPM, quote=quote, tpm=tpm, tpm_identity=self._identity)

    def quote(self, extra_data: bytes, selection: Iterable[int] = QUOTED_PCRS) -> tuple[bytes, TpmQuote]:
        """TPM2_Quote over PCRs of the SHA-256 bank: TPMS_ATTEST, and what stands beside it."""
        values, log = self.pcrs, self.event_log
        selected = {index: values[index] for index in sorted(selection)}
        quoted = layout.attest(
            magic=self.faults.magic,
            kind=self.faults.kind,
            signer=self._qualified_name(),
            extra_data=extra_data,
            clock=int((self._clock() - self._started).total_seconds() * 1000),
            resets=self.resets,
            restarts=0,
            firmware_version=FIRMWARE_VERSION,
            selection=selected,
            pcr_digest=hashlib.sha256(b"".join(selected.values())).digest(),
        )
        log_sent = None if self.faults.without_log else log
        return quoted, TpmQuote(signature=self.sign(quoted), pcrs=selected, event_log=log_sent)

    def sign(self, message: bytes) -> bytes:
        """TPMT_SIGNATURE by the AK. A TPM would only do that for what it made itself; tests forge with it."""
        if isinstance(self._ak, rsa.RSAPrivateKey):
            return layout.signature(self._scheme, self._ak.sign(message, padding.PKCS1v15(), hashes.SHA256()))
        r, s = decode_dss_signature(self._ak.sign(message, ec.ECDSA(hashes.SHA256())))
        return layout.signature(self._scheme, r.to_bytes(32), s.to_bytes(32))

    def activate(self, blob: bytes, encrypted_secret: bytes) -> bytes:
        """TPM2_ActivateCredential: the secret, if it was meant for this EK and this AK.

        Raises:
            ValueError: it was not.
        """
        size = 2 + hashes.SHA256.digest_size
        mac, sealed, name = blob[2:size], blob[size:], self.ak_public.name
        keys = credential.protection_keys(self.ek_public, self._seed(encrypted_secret), name)
        if not hmac.compare_digest(credential.integrity(self.ek_public, keys, sealed, name), mac):
            raise ValueError("the credential is not for this TPM and this key")
        decryptor = Cipher(AES(keys.cipher), CFB(bytes(16))).decryptor()
        secret = (decryptor.update(sealed) + decryptor.finalize())[2:]
        return bytes(len(secret)) if self.faults.forgets_secret else secret

    def _seed(self, encrypted: bytes) -> bytes:
        if isinstance(self._ek, rsa.RSAPrivateKey):
            return self._ek.decrypt(encrypted, credential.rsa_padding(Algorithm.SHA256))
        if len(encrypted) != 68:
            raise ValueError("this is no point on P-256")
        x, y = (int.from_bytes(part) for part in (encrypted[2:34], encrypted[36:]))
        ephemeral = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        shared = self._ek.exchange(ec.ECDH(), ephemeral)
        return credential.agreed_seed(self.ek_public, shared, ephemeral, self._ek.public_key())

    def _qualified_name(self) -> bytes:
        """Of an AK that is a primary key (part 1, section 16): the hierarchy's handle and the name, hashed."""
        digest = hashlib.sha256(_ENDORSEMENT_HIERARCHY + self.ak_public.name).digest()
        return Algorithm.SHA256.to_bytes(2) + digest


def _generate(kind: KeyKind) -> _PrivateKey:
    return rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
