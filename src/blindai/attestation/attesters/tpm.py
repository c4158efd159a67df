"""The attester of a machine whose boot a TPM 2.0 has measured.

The endorsement key (EK) is the one that the TPM's maker certified. The attestation key (AK) is made for this process
alone, in the endorsement hierarchy: 32 random bytes of its template see to it that no other program has the same key,
so that a credential for it is one for us.

Sources: TCG TPM 2.0 Library, parts 1 and 3; TCG EK Credential Profile 2.6, annex B (templates).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindai.attestation.attesters.files import Files, HostFiles
from blindai.attestation.attesters.platform import BOOT_LOG_FILE, TPM_TCTI
from blindai.attestation.attesters.tpm_device import QUOTED_PCRS, TpmDevice
from blindai.attestation.evidence import TEE, Evidence, TpmIdentity, TpmQuote, committed, require_report_data
from blindai.attestation.verifiers.certificates import UNPARSABLE, load_der
from blindai.attestation.verifiers.tpm_certificates import MAX_CHAIN
from blindai.attestation.verifiers.tpm_structures import parse_public
from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from tpm2_pytss import ESAPI, ESYS_TR, TPM2B_PUBLIC, TPMS_CONTEXT

UNIQUE_BYTES = 32  # a coordinate on P-256

# The kinds of endorsement key that every TPM of a PC has, and where the certificate of each is kept.
_EK_KINDS = {"EK-RSA2048": 0x01C00002, "EK-ECC256": 0x01C0000A}

# No password protects the key, so that there is nothing to guess: a lockout (noDA) would only stop ourselves.
_AK_ATTRIBUTES = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign"

_RC_FAILURE = 0x101  # TPM 2.0 part 2, section 6.6.3

T = TypeVar("T")


@dataclass(frozen=True)
class _Keys:
    """Both keys as contexts, and what is said of them."""

    ek: TPMS_CONTEXT
    ak: TPMS_CONTEXT
    identity: TpmIdentity


class TpmAttester:
    """Attests with the TPM of this machine; an `ActivatingAttester`.

    Args:
        tcti: where the TPM is (see `TpmDevice`).
        certificates: those of the TPM's maker, DER, in any order: from the issuer of the EK certificate up to the root,
            and the EK certificate itself where the TPM does not keep it.
        event_log: the boot log, a path in `files`; where it is not, or may not be read, none is sent.
        pcrs: which PCRs quotes are about.
        files: the machine's files; by default, those of this one.

    Raises:
        ConfigurationError: `attester.tpm_library`.
    """

    tee = TEE.TPM
    simulated = False
    quick = False

    def __init__(
        self,
        tcti: str = TPM_TCTI,
        *,
        certificates: Sequence[bytes] = (),
        event_log: str = BOOT_LOG_FILE,
        pcrs: Sequence[int] = QUOTED_PCRS,
        files: Files | None = None,
    ) -> None:
        self._device = TpmDevice(tcti, pcrs=pcrs)
        self._certificates = tuple(certificates)
        self._event_log = event_log
        self._files = HostFiles() if files is None else files
        self._unique = os.urandom(UNIQUE_BYTES)
        self._lock = threading.Lock()
        self._keys: _Keys | None = None

    def identity(self) -> TpmIdentity:
        """The keys and the certificates of the EK. See `ActivatingAttester.identity`.

        Raises:
            ConfigurationError: `attester.tpm_certificate`: there is no certificate of the EK, or it does not lead to a
                root; `attester.missing`, `attester.denied`.
            Unavailable: `attester.busy`, `attester.failed`.
        """
        return self._with_keys(lambda _tpm, _ek, _ak, identity: identity)

    def attest(self, report_data: bytes) -> Evidence:
        """A quote over the SHA-256 of `report_data`, 64 bytes, with the boot log. See `Attester.attest`.

        Raises:
            ValueError: `report_data` is not 64 bytes.
            ConfigurationError, Unavailable: as `identity`.
        """
        require_report_data(report_data)

        def quoted(
            tpm: ESAPI, _ek: ESYS_TR, ak: ESYS_TR, identity: TpmIdentity
        ) -> tuple[tuple[bytes, TpmQuote], TpmIdentity]:
            return self._device.quote(tpm, ak, committed(TEE.TPM, report_data)), identity

        (quote, tpm), identity = self._with_keys(quoted)
        return Evidence(
            tee=TEE.TPM,
            quote=quote,
            tpm=msgspec.structs.replace(tpm, event_log=self._read_log()),
            tpm_identity=identity,
        )

    def activate(self, blob: bytes, encrypted_secret: bytes) -> bytes:
        """TPM2_ActivateCredential. See `ActivatingAttester.activate`.

        Raises:
            ValueError: the credential is for another TPM or key, or is none.
            ConfigurationError, Unavailable: as `identity`.
        """
        return self._with_keys(lambda tpm, ek, ak, _: self._activated(tpm, ek, ak, blob, encrypted_secret))

    def _activated(self, tpm: ESAPI, ek: ESYS_TR, ak: ESYS_TR, blob: bytes, encrypted_secret: bytes) -> bytes:
        from tpm2_pytss import (
            ESYS_TR,
            TPM2_ALG,
            TPM2_SE,
            TPM2B_ENCRYPTED_SECRET,
            TPM2B_ID_OBJECT,
            TPMT_SYM_DEF,
            TSS2_Exception,
        )

        try:
            sealed = TPM2B_ID_OBJECT(blob), TPM2B_ENCRYPTED_SECRET(encrypted_secret)
        except IndexError as error:  # how the library says that its buffer is too small
            raise ValueError("the credential is larger than any") from error
        session = tpm.start_auth_session(
            ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL), TPM2_ALG.SHA256
        )
        with self._device.flushed(tpm, session):
            # The policy of every EK template: whoever may use the endorsement hierarchy may use the EK.
            tpm.policy_secret(ESYS_TR.ENDORSEMENT, session)
            try:
                return bytes(tpm.activate_credential(ak, ek, *sealed, session2=session))
            except TSS2_Exception as error:
                # The credential or its seed is wrong, and not the TPM. libtpms, which is behind most virtual TPMs, says
                # TPM_RC_FAILURE of a seed that does not decrypt, and goes on as before.
                if error.parameter or error.rc == _RC_FAILURE:
                    raise ValueError("the credential is not for this TPM and this key") from error
                raise

    def _with_keys(self, operation: Callable[[ESAPI, ESYS_TR, ESYS_TR, TpmIdentity], T]) -> T:
        def loaded(tpm: ESAPI) -> T:
            keys, ek, ak = self._load(tpm)
            with self._device.flushed(tpm, ak, ek):
                return operation(tpm, ek, ak, keys.identity)

        with self._lock:
            return self._device.use(loaded)

    def _load(self, tpm: ESAPI) -> tuple[_Keys, ESYS_TR, ESYS_TR]:
        """Load the keys; make them (anew) where the TPM does not know them (any more)."""
        from tpm2_pytss import TSS2_Exception

        if self._keys is not None:
            keys = self._keys
            try:
                ek = tpm.context_load(keys.ek)
                try:
                    return keys, ek, tpm.context_load(keys.ak)
                except TSS2_Exception:
                    with self._device.flushed(tpm, ek):
                        raise
            except TSS2_Exception:
                # The TPM was reset, or it is another one by now. The same TPM makes the same keys once more.
                self._keys = None
        ek, ek_public, certificates = self._make_ek(tpm)
        try:
            ak, ak_public = self._make_ak(tpm)
        except TSS2_Exception:
            with self._device.flushed(tpm, ek):
                raise
        identity = TpmIdentity(ak_public=ak_public, ek_public=ek_public, ek_certificates=certificates)
        keys = self._keys = _Keys(tpm.context_save(ek), tpm.context_save(ak), identity)
        return keys, ek, ak

    def _make_ek(self, tpm: ESAPI) -> tuple[ESYS_TR, bytes, tuple[bytes, ...]]:
        from tpm2_pytss import ESYS_TR
        from tpm2_pytss.utils import NVReadEK, create_ek_template

        tried = []
        for kind, index in _EK_KINDS.items():
            kept = self._device.nv(tpm, index)
            template: TPM2B_PUBLIC
            _, template = create_ek_template(kind, NVReadEK(tpm))
            ek, made, *_ = tpm.create_primary(None, template, ESYS_TR.ENDORSEMENT)
            public = bytes(made.publicArea.marshal())
            pool = (*([] if kept is None else [_trimmed(kept)]), *self._certificates)
            try:
                chain = _chain(parse_public(public, what="the EK").spki, pool)
            except ConfigurationError:
                with self._device.flushed(tpm, ek):
                    raise
            if chain:
                return ek, public, chain
            with self._device.flushed(tpm, ek):
                tried.append(kind)
        raise ConfigurationError(
            f"the TPM keeps no certificate of its endorsement key ({', '.join(tried)}), and none was given",
            code="attester.tpm_certificate",
            hint="download it from the TPM's maker and give it with --tpm-certificates",
        )

    def _make_ak(self, tpm: ESAPI) -> tuple[ESYS_TR, bytes]:
        from tpm2_pytss import ESYS_TR, TPM2B_PUBLIC

        template = TPM2B_PUBLIC.parse("ecc:ecdsa-sha256:null", objectAttributes=_AK_ATTRIBUTES, nameAlg="sha256")
        template.publicArea.unique.ecc.x = self._unique
        ak, made, *_ = tpm.create_primary(None, template, ESYS_TR.ENDORSEMENT)
        return ak, bytes(made.publicArea.marshal())

    def _read_log(self) -> bytes | None:
        path = self._event_log
        try:
            return self._files.read(path) if self._files.exists(path) else None
        except PermissionError:
            return None  # only root may read it, but many may use the TPM


def load_certificates(pem: bytes) -> tuple[bytes, ...]:
    """The certificates in a PEM file, as DER.

    Raises:
        ConfigurationError: `attester.tpm_certificate`: there are none, or they cannot be parsed.
    """
    try:
        return tuple(item.public_bytes(Encoding.DER) for item in x509.load_pem_x509_certificates(pem))
    except UNPARSABLE as error:
        raise ConfigurationError(
            f"the certificates of the TPM's maker cannot be parsed: {error}", code="attester.tpm_certificate"
        ) from error


def _chain(ek_spki: bytes, pool: Sequence[bytes]) -> tuple[bytes, ...]:
    """The chain of the EK with this key, up to a self-signed root; empty if nothing in `pool` is about the key.

    Raises:
        ConfigurationError: `attester.tpm_certificate`: a certificate cannot be parsed, or an issuer is missing.
    """
    try:
        known = [load_der(der) for der in pool]
    except UNPARSABLE as error:
        raise ConfigurationError(
            f"a certificate of the TPM cannot be parsed: {error}", code="attester.tpm_certificate"
        ) from error
    chain = [item for item in known if _spki(item) == ek_spki][:1]
    while chain and not _issued(chain[-1], chain[-1]):
        issuers = [item for item in known if _issued(chain[-1], item)]
        if not issuers or len(chain) == MAX_CHAIN:
            raise ConfigurationError(
                f"the certificate of {chain[-1].issuer.rfc4514_string()!r} is missing: nobody could verify the TPM",
                code="attester.tpm_certificate",
                hint="download it from the TPM's maker and give it with --tpm-certificates",
            )
        chain.append(issuers[0])
    return tuple(item.public_bytes(Encoding.DER) for item in chain)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNPARSABLE):
        return False
    return True


def _spki(certificate: x509.Certificate) -> bytes:
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except UNPARSABLE:
        return b""


def _trimmed(der: bytes) -> bytes:
    """A certificate without what fills up its NV index: makers define the index larger than the certificate."""
    return der[: 4 + int.from_bytes(der[2:4])] if der[:2] == b"\x30\x82" else der
