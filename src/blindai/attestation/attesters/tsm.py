"""The attester of TDX and SEV-SNP guests: the kernel's configfs-tsm.

Source: Linux, Documentation/ABI/testing/configfs-tsm-report (6.7 and newer). A folder made below `REPORTS` is one
request with attributes of its own: `inblob` takes report_data when it is closed, `outblob` is computed when it is
read, and `generation` counts what was written.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from blindai.attestation.attesters import certificate_table
from blindai.attestation.attesters.failures import reporting
from blindai.attestation.attesters.files import Files, HostFiles
from blindai.attestation.attesters.freshness import intel_quote_over, snp_report_over
from blindai.attestation.evidence import TEE, Evidence, require_report_data
from blindai.errors import ConfigurationError, Unavailable

REPORTS = "/sys/kernel/config/tsm/report"

PROVIDERS = {"tdx_guest": TEE.INTEL_TDX, "sev_guest": TEE.AMD_SEV_SNP}

# A relying party waits for ten seconds at most (`channel.gated.GATE_SECONDS`), and each attempt may take one.
ATTEMPTS = 3
PAUSE_SECONDS = 0.2

MAX_PRIVILEGE_LEVEL = 3  # VMPL 0 is the most privileged of the four (AMD 24593, section 15.36.7)

_AGAIN = frozenset({"attester.conflict", "attester.busy", "attester.stale"})
_HINT = "it takes a TDX or SEV-SNP guest with Linux 6.7 or newer, the module tdx_guest or sev-guest, and configfs"


class TsmAttester:
    """Attests a TDX or SEV-SNP guest through the kernel. Safe to call from several threads: each call has its folder.

    On SEV-SNP, the certificates that the host hands out are put beside the report; on TDX the quote comes alone.

    Args:
        tee: `TEE.INTEL_TDX` or `TEE.AMD_SEV_SNP`; what the kernel provides must be that.
        files: where the kernel's files are.
        privilege_level: SEV-SNP alone: the VMPL to put into the report, 0 to 3; without it, the kernel's own.
        pause: waits a number of seconds before another attempt.

    Raises:
        ConfigurationError: `attester.privilege_level`.
    """

    simulated = False
    quick = False

    def __init__(
        self,
        tee: TEE,
        *,
        files: Files | None = None,
        privilege_level: int | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        if tee not in PROVIDERS.values():
            raise ValueError(f"configfs-tsm gives no evidence of {tee}")
        if privilege_level is not None:
            _require_privilege_level(tee, privilege_level)
        self.tee = tee
        self._files = HostFiles() if files is None else files
        self._privilege_level = privilege_level
        self._pause = pause

    def attest(self, report_data: bytes) -> Evidence:
        """Have `report_data`, 64 bytes, signed. See `Attester.attest`.

        Raises:
            ConfigurationError: `attester.missing`, `attester.denied`, `attester.provider`, `attester.privilege_level`.
            Unavailable: `attester.conflict`, `attester.busy`, `attester.stale`, after several attempts;
                `attester.failed`, `attester.quote`, `attester.certificate_table` at once.
        """
        require_report_data(report_data)
        attempt = 1
        while True:
            try:
                return self._attempt(report_data)
            except Unavailable as error:
                if error.code not in _AGAIN or attempt == ATTEMPTS:
                    raise
            attempt += 1
            self._pause(PAUSE_SECONDS)

    def _attempt(self, report_data: bytes) -> Evidence:
        with _request(self._files) as entry:
            if (tee := entry.tee()) is not self.tee:
                raise ConfigurationError(
                    f"the kernel gives evidence of {tee}, not of {self.tee}",
                    code="attester.provider",
                    hint="name the platform that this machine is, or --platform auto",
                )
            before, writes = entry.generation(), 1
            if self._privilege_level is not None:
                entry.write_privilege_level(self._privilege_level)
                writes += 1
            entry.write("inblob", report_data)
            blob = entry.read("outblob")
            table = entry.read("auxblob") if self.tee is TEE.AMD_SEV_SNP else b""
            # The kernel drops an error of the write itself, which it makes only when the file is closed.
            if (after := entry.generation()) != before + writes:
                raise Unavailable(
                    f"another process interferes with the request: {after - before} writes where {writes} were made",
                    code="attester.conflict",
                    hint=f"let no other process write below {REPORTS}",
                )
        if self.tee is TEE.INTEL_TDX:
            return Evidence(tee=self.tee, quote=intel_quote_over(report_data, blob, tee=self.tee))
        report = snp_report_over(report_data, blob)
        amd = certificate_table.endorsements(table, signing_key=report.signing_key)
        return Evidence(tee=self.tee, quote=report.raw, amd=amd)


def provided(files: Files) -> TEE:
    """Ask the kernel of which TEE it gives evidence.

    Raises:
        ConfigurationError: `attester.missing`, there is no configfs-tsm or nothing behind it; `attester.denied`;
            `attester.provider`, a TEE that this package does not know.
        Unavailable: `attester.busy`, `attester.failed`.
    """
    with _request(files) as entry:
        return entry.tee()


class _Entry:
    """One request: the attributes in a folder."""

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self._path = path

    def read(self, attribute: str) -> bytes:
        with reporting(f"reading {attribute} of configfs-tsm"):
            return self._files.read(f"{self._path}/{attribute}")

    def write(self, attribute: str, value: bytes) -> None:
        with reporting(f"writing {attribute} of configfs-tsm"):
            self._files.write(f"{self._path}/{attribute}", value)

    def write_privilege_level(self, level: int) -> None:
        try:
            self.write("privlevel", b"%d\n" % level)
        except Unavailable as error:
            if error.code != "attester.failed":
                raise
            # The kernel says EINVAL below its floor: code at a lower privilege cannot speak for a higher one.
            raise ConfigurationError(
                f"the kernel does not accept privilege level {level}: {error.message}", code="attester.privilege_level"
            ) from error

    def generation(self) -> int:
        text = self.read("generation").strip()
        if not text.isdigit():
            raise Unavailable(f"the kernel's generation is no number: {text[:32]!r}", code="attester.failed")
        return int(text)

    def tee(self) -> TEE:
        name = self.read("provider").strip().decode("ascii", "replace")
        if name not in PROVIDERS:
            raise ConfigurationError(
                f"the kernel's provider of evidence is {name!r}, which is none of {', '.join(PROVIDERS)}",
                code="attester.provider",
            )
        return PROVIDERS[name]


def _require_privilege_level(tee: TEE, level: int) -> None:
    if tee is not TEE.AMD_SEV_SNP or not 0 <= level <= MAX_PRIVILEGE_LEVEL:
        raise ConfigurationError(
            f"there is no privilege level {level} of {tee}",
            code="attester.privilege_level",
            hint=f"a level is for SEV-SNP alone, from 0 to {MAX_PRIVILEGE_LEVEL}",
        )


@contextmanager
def _request(files: Files) -> Iterator[_Entry]:
    """A folder that no one else has, and that is gone afterwards."""
    path = f"{REPORTS}/blindai-{secrets.token_hex(16)}"
    with reporting(f"making a request in {REPORTS}", hint=_HINT):
        files.mkdir(path)
    try:
        yield _Entry(files, path)
    except BaseException:
        # What went wrong first is what must be told.
        with suppress(OSError):
            files.rmdir(path)
        raise
    with reporting(f"removing {path}"):
        files.rmdir(path)
