"""TPMs in software that are not ours: swtpm, made with a certificate by its local CA, started and measured into.

Needs swtpm, its tools and tpm2-pytss; where they are missing, tests that ask for one are skipped, which CI refuses
(tests/plugins/skip_guard.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from blindai.attestation.simulated.tpm import EV_EFI_BOOT_SERVICES_APPLICATION, EV_SEPARATOR
from blindai.attestation.simulated.tpm_layout import log_event, log_header
from blindai.attestation.verifiers.certificates import spki_sha256

START_SECONDS = 20.0
_PLATFORM_OPTIONS = "--platform-manufacturer tests\n--platform-version 1\n--platform-model swtpm\n"


def require() -> None:
    """Skip the test where no such TPM can be made."""
    missing = [program for program in ("swtpm", "swtpm_setup", "swtpm_localca") if shutil.which(program) is None]
    if importlib.util.find_spec("tpm2_pytss") is None:
        missing.append("tpm2-pytss (the extra `tpm`)")
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: see CONTRIBUTING.md, section Tests")


class LocalCa:
    """The maker of TPMs: a root and an issuing CA below it, both made by swtpm_localca with the first TPM."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        (folder / "options").write_text(_PLATFORM_OPTIONS)
        (folder / "localca.conf").write_text(
            f"statedir = {folder}\nsigningkey = {folder}/signkey.pem\n"
            f"issuercert = {folder}/issuercert.pem\ncertserial = {folder}/certserial\n"
        )
        self.setup = folder / "setup.conf"
        self.setup.write_text(
            f"create_certs_tool = {shutil.which('swtpm_localca')}\n"
            f"create_certs_tool_config = {folder}/localca.conf\ncreate_certs_tool_options = {folder}/options\n"
        )

    @property
    def certificates(self) -> bytes:
        """Issuer and root, PEM."""
        return b"".join((self._folder / name).read_bytes() for name in ("issuercert.pem", self._root))

    @property
    def root_spki(self) -> str:
        """SHA-256 of the root's public key, as a policy names it."""
        return spki_sha256(x509.load_pem_x509_certificate((self._folder / self._root).read_bytes()))

    _root = "swtpm-localca-rootca-cert.pem"


class Swtpm:
    """One TPM with an EK certificate by `ca`; its state outlives its process."""

    def __init__(self, folder: Path, ca: LocalCa, *, banks: str = "sha256", certified: bool = True) -> None:
        self.ca = ca
        self._state = folder
        folder.mkdir(parents=True)
        command = ["swtpm_setup", "--tpm2", "--tpmstate", str(folder), "--config", str(ca.setup)]
        options = ["--pcr-banks", banks, *(["--create-ek-cert"] if certified else [])]
        made = subprocess.run(
            [*command, *options],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        self._process: subprocess.Popen[bytes] | None = None
        self._log = log_header()
        self.port = 0

    @property
    def tcti(self) -> str:
        return f"swtpm:host=127.0.0.1,port={self.port}"

    def start(self) -> None:
        """Power it on: all PCRs begin anew. The port stays the same from the first start on."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            port = self.port or random.randrange(20000, 30000, 2)  # the next one is the control channel
            self._process = self._spawn(port)
            while self._process.poll() is None and time.monotonic() < deadline:
                if _listens(port) and _listens(port + 1):
                    self.port, self._log = port, log_header()
                    return
                time.sleep(0.02)
            self.stop()
        pytest.fail("swtpm does not start")

    def _spawn(self, port: int) -> subprocess.Popen[bytes]:
        channels = ["--server", f"type=tcp,port={port}", "--ctrl", f"type=tcp,port={port + 1}"]
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._state}", *channels]
        return subprocess.Popen(
            [*command, "--flags", "not-need-init,startup-clear"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self) -> None:
        """Cut the power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def extend(self, pcr: int, digest: bytes) -> None:
        """TPM2_PCR_Extend."""
        import tpm2_pytss as pytss

        value = pytss.TPMT_HA(hashAlg=pytss.TPM2_ALG.SHA256, digest=pytss.TPMU_HA(sha256=digest))
        with self.opened() as tpm:
            tpm.pcr_extend(pytss.ESYS_TR(pcr), pytss.TPML_DIGEST_VALUES([value]))

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        """The TPM itself, for what another program on the machine might do to it."""
        import tpm2_pytss as pytss

        with pytss.ESAPI(self.tcti) as tpm:
            yield tpm

    def measure(self, pcr: int, content: bytes, *, kind: int = EV_EFI_BOOT_SERVICES_APPLICATION) -> None:
        """As firmware does: extend, and log it."""
        digest = hashlib.sha256(content).digest()
        self.extend(pcr, digest)
        self._log += log_event(pcr, kind, digest, content)

    def boot(self, *, loader: bytes = b"loader 1.0", kernel: bytes = b"kernel 1.0") -> bytes:
        """A measured boot; the log, as the kernel hands it out."""
        self.measure(0, b"firmware")
        for pcr in (0, 4, 7):
            self.measure(pcr, bytes(4), kind=EV_SEPARATOR)
        self.measure(4, loader)
        self.measure(9, kernel)
        return self._log


def _listens(port: int) -> bool:
    """Without a connection: swtpm would take one for its client."""
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
