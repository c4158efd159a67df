"""The measurement of the simulated platform: the installed package's own files.

A real platform measures an image or an enclave file before it runs. The simulated one has only the package, and
takes that: change one byte of it, and clients refuse what you serve, as they would on hardware.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from blindai.attestation.evidence import TEE

_IGNORED_FOLDERS = frozenset({"__pycache__"})
_DOMAIN = b"blindai/simulated/measurement/v1"

TD_REGISTERS = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
SIMULATED_REGISTERS: dict[TEE, tuple[str, ...]] = {
    TEE.INTEL_TDX: TD_REGISTERS,
    TEE.INTEL_SGX: ("mrenclave", "mrsigner"),
    TEE.AMD_SEV_SNP: ("launch_digest",),
}


def measure_package(root: Path | None = None, *, tee: TEE | None = None) -> dict[str, str]:
    """Measure the package: register name to lower-case hex, for the registers of `tee`, or of all TEEs.

    `mrtd` and `mrenclave` (SHA-384, SHA-256) cover every file below `root`, by sorted relative path, with lengths;
    `launch_digest` (SHA-384) covers `mrtd`.
    `rtmr0` stands for the firmware and `rtmr1`, `rtmr2` for kernel and command line: here, fixed values; `rtmr3`
    and `mrsigner` likewise. The result is kept: a running process serves the code it was started with.

    Args:
        root: folder of the package; by default the one that is running.
        tee: whose registers are asked for.
    """
    registers = _measure(root or Path(__file__).parents[2])
    if tee is None:
        return dict(registers)
    return {name: registers[name] for name in SIMULATED_REGISTERS[tee]}


@lru_cache(8)
def _measure(root: Path) -> dict[str, str]:
    mrtd, mrenclave = hashlib.sha384(_DOMAIN), hashlib.sha256(_DOMAIN)
    for name, content in _files(root):
        for part in (name.encode(), content):
            for digest in (mrtd, mrenclave):
                digest.update(len(part).to_bytes(8))
                digest.update(part)
    registers = {"mrtd": mrtd.hexdigest(), "mrenclave": mrenclave.hexdigest()}
    for name in ("rtmr0", "rtmr1", "rtmr2"):
        registers[name] = hashlib.sha384(_DOMAIN + name.encode()).hexdigest()
    registers["rtmr3"] = "00" * 48
    registers["launch_digest"] = hashlib.sha384(_DOMAIN + b"launch_digest" + mrtd.digest()).hexdigest()
    registers["mrsigner"] = hashlib.sha256(_DOMAIN + b"mrsigner").hexdigest()
    return registers


def _files(root: Path) -> list[tuple[str, bytes]]:
    found = [
        path
        for path in root.rglob("*")
        if path.is_file() and not _IGNORED_FOLDERS.intersection(path.relative_to(root).parts)
    ]
    named = sorted((path.relative_to(root).as_posix(), path) for path in found)
    return [(name, path.read_bytes()) for name, path in named]
