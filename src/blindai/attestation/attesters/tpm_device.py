"""A TPM 2.0 through the TCG software stack (tpm2-tss, by tpm2-pytss): opened for each use, and left as it was found.

Nothing stays open between two uses, so that other programs can use the TPM, and a restart of it is noticed. Keys are
kept as contexts, which a TPM encrypts to itself and takes back within milliseconds; a restart makes them worthless.

Source: TCG TPM 2.0 Library, part 3 (Commands); TCG TSS 2.0 Enhanced System API.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from blindai.attestation.attesters.failures import reporting
from blindai.attestation.attesters.platform import TPM_TCTI
from blindai.attestation.evidence import TpmQuote
from blindai.attestation.verifiers.tpm_structures import HASHES, Algorithm, parse_attest
from blindai.errors import BlindAIError, ConfigurationError, Unavailable

if TYPE_CHECKING:
    from tpm2_pytss import ESAPI, ESYS_TR

T = TypeVar("T")


# What is measured before and by the operating system. Anyone can reset 16 and 23; 17 to 22 are for dynamic launches.
QUOTED_PCRS = tuple(range(16))

# A PCR may be extended between a quote and the reading of the values. Three times in a row is no accident.
MAX_QUOTE_ATTEMPTS = 3

_DEVICE = "device:"
_HINT = "check that the user may use the TPM (on most systems, group tss), and --tpm-tcti"

# TPM 2.0 part 2, section 6.6: response codes.
_RC_AUTH = frozenset({0x08E, 0x0A2, 0x12F})  # AUTH_FAIL, BAD_AUTH, AUTH_UNAVAILABLE
_RC_LATER = frozenset({0x908, 0x90A, 0x920, 0x921, 0x922})  # YIELDED, TESTING, NV_RATE, LOCKOUT, RETRY
_LAYER_MASK = 0xFF << 16  # TSS 2.0 overview: who made the code; 0 is the TPM itself


class TpmDevice:
    """One TPM. Safe to call from several threads: one use at a time.

    Args:
        tcti: where it is, as tpm2-tss writes it: `device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`.
        pcrs: which PCRs of the SHA-256 bank quotes are about.

    Raises:
        ConfigurationError: `attester.tpm_library`: tpm2-pytss is not installed.
    """

    def __init__(self, tcti: str = TPM_TCTI, *, pcrs: Sequence[int] = QUOTED_PCRS) -> None:
        # Its libraries write every error to stderr, past the log. They are raised here, with words of our own.
        os.environ.setdefault("TSS2_LOG", "all+NONE")
        try:
            import tpm2_pytss
        except ImportError as error:
            raise ConfigurationError(
                f"the TPM software stack is not installed: {error}",
                code="attester.tpm_library",
                hint="pip install 'blindai[tpm]'; on Debian, first apt install libtss2-dev pkg-config gcc python3-dev",
            ) from error
        self._pytss = tpm2_pytss
        self._tcti = tcti
        self._pcrs = tuple(sorted(pcrs))
        self._lock = threading.RLock()

    def read_nv(self, index: int) -> bytes:
        """All of an NV index that its own empty password lets be read.

        Raises:
            ConfigurationError: `attester.missing`: there is no such index. And as `use`.
        """
        content = self.use(lambda tpm: self.nv(tpm, index))
        if content is None:
            raise ConfigurationError(f"the TPM has no NV index {index:#x}", code="attester.missing")
        return content

    def quote_with(self, key: int, extra_data: bytes) -> tuple[bytes, TpmQuote]:
        """A quote by the persistent key with this handle: TPMS_ATTEST, and what stands beside it.

        Raises:
            ConfigurationError, Unavailable: as `use` and `quote`.
        """
        return self.use(lambda tpm: self.quote(tpm, tpm.tr_from_tpmpublic(key), extra_data))

    def use(self, operation: Callable[[ESAPI], T]) -> T:
        """Open the TPM, run `operation` on it, and close it.

        Raises:
            ConfigurationError: `attester.missing`, `attester.denied`.
            Unavailable: `attester.busy`, `attester.failed`.
        """
        with self._lock, self._reporting():
            self._require_device()
            with self._pytss.ESAPI(self._tcti) as tpm:
                return operation(tpm)

    def nv(self, tpm: ESAPI, index: int) -> bytes | None:
        """All of an NV index, or None if there is none."""
        from tpm2_pytss.utils import NoSuchIndex, NVReadEK

        try:
            return bytes(NVReadEK(tpm)(index))
        except NoSuchIndex:
            return None

    def quote(self, tpm: ESAPI, key: ESYS_TR, extra_data: bytes) -> tuple[bytes, TpmQuote]:
        """A quote by a loaded key, with the PCR values that explain it.

        Raises:
            ConfigurationError: `attester.missing`: the TPM keeps no SHA-256 PCRs.
            Unavailable: `attester.busy`: the PCRs kept changing.
        """
        selection = "sha256:" + ",".join(map(str, self._pcrs))
        for _ in range(MAX_QUOTE_ATTEMPTS):
            attested, signature = tpm.quote(key, selection, extra_data)
            quote = bytes(attested.attestationData)
            values = self._values(tpm)
            # The signature of keys here is with SHA-256, and so is the digest.
            if HASHES[Algorithm.SHA256](b"".join(values.values())).digest() == parse_attest(quote).pcr_digest:
                return quote, TpmQuote(signature=bytes(signature.marshal()), pcrs=values)
        raise Unavailable("the PCRs change faster than they can be quoted", code="attester.busy")

    def _values(self, tpm: ESAPI) -> dict[int, bytes]:
        values: dict[int, bytes] = {}
        while missing := [index for index in self._pcrs if index not in values]:
            # A TPM gives no more than eight at a time (part 3, TPM2_PCR_Read), and says which.
            _, selected, digests = tpm.pcr_read("sha256:" + ",".join(map(str, missing)))
            bits = int.from_bytes(bytes(selected[0].pcrSelect), "little") if len(selected) else 0
            given = [index for index in missing if bits >> index & 1][: len(digests)]
            if not given:
                raise ConfigurationError(
                    f"the TPM keeps no SHA-256 digest in PCR {missing[0]}",
                    code="attester.missing",
                    hint="activate the SHA-256 bank in the firmware's setup",
                )
            values |= {index: bytes(digest) for index, digest in zip(given, digests, strict=False)}
        return dict(sorted(values.items()))

    @contextmanager
    def flushed(self, tpm: ESAPI, *handles: ESYS_TR) -> Iterator[None]:
        """Take transient objects and sessions out of the TPM again, whatever happens in the block."""
        try:
            yield
        finally:
            for handle in handles:
                with suppress(self._pytss.TSS2_Exception):  # it went with a reset, or the connection is gone
                    tpm.flush_context(handle)

    def _require_device(self) -> None:
        """tpm2-tss says "IO failure" for everything; the kernel says what it is."""
        if self._tcti.startswith(_DEVICE):
            path = self._tcti.removeprefix(_DEVICE)
            with reporting(f"opening {path}", hint=_HINT):
                if not os.access(path, os.R_OK | os.W_OK):
                    code = errno.EACCES if os.path.exists(path) else errno.ENOENT  # noqa: PTH110  # as in files.py
                    raise OSError(code, os.strerror(code), path)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except self._pytss.TSS2_Exception as error:
            raise self._refusal(error.rc, str(error)) from error

    def _refusal(self, code: int, words: str) -> BlindAIError:
        message = f"the TPM at {self._tcti} failed: {words} ({code:#x})"
        if not code & _LAYER_MASK:
            # Format 1 codes say beside the error which handle, parameter or session it is about.
            error = code & 0xBF if code & 0x80 else code
            if error in _RC_AUTH:
                return ConfigurationError(
                    message, code="attester.denied", hint="the endorsement hierarchy must have no password"
                )
            if error in _RC_LATER:
                return Unavailable(message, code="attester.busy")
        return Unavailable(message, code="attester.failed", hint=_HINT)
