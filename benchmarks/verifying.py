"""What it costs to verify the evidence of each TEE."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from report import Table
from timing import FULL, QUICK, Effort, Repeated, interleave, ratio

from blindai.attestation import credential
from blindai.attestation.anchors import Anchor
from blindai.attestation.attesters.azure import AzureAttester
from blindai.attestation.evidence import TEE, Activation, DeviceEvidence, Evidence
from blindai.attestation.result import Checklist, OpenCheck
from blindai.attestation.simulated.amd import SimulatedAmd
from blindai.attestation.simulated.amd_root import SimulatedAmdRoot
from blindai.attestation.simulated.azure import SimulatedAzure
from blindai.attestation.simulated.intel import SimulatedIntel
from blindai.attestation.simulated.nvidia import SimulatedDevice, SimulatedNvidiaRoot
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.attestation.simulated.tpm import SimulatedTpm
from blindai.attestation.simulated.tpm_certificates import SimulatedTpmRoot
from blindai.attestation.verifiers import verify
from blindai.attestation.verifiers.nvidia import verify_device

UNIT = "one ECDSA signature on P-256"

METHOD = (
    "From evidence in memory to claims: parsing, certificates, revocation lists, signatures and attributes; without"
    " policy, network and connection. *First* has seen no certificate of this platform before; *again* is a new quote"
    " of a platform whose certificates and collateral were verified before, and are compared with the time each time."
    f" All on one core, with simulated platforms, whose evidence has the form of the real one's. For scale: {UNIT},"
    " verified by the same library."
)

REPORT_DATA = bytes(64)

Way = tuple[str, Callable[[Any], None], Callable[[], Any]]  # name, what is timed, and what makes its argument


class Attester(Protocol):
    """Whatever makes evidence."""

    def attest(self, report_data: bytes, /) -> Evidence: ...


def measure(effort: Effort) -> Table:
    """Make evidence of every kind, and measure."""
    now = datetime.now(UTC)
    lanes = [Repeated(UNIT, _one_signature())]
    names = []
    for name, judge, make in (*_platforms(now), _gpu(now)):
        names.append(name)
        lanes.append(Repeated(f"{name}, first", _fresh(judge, make), between=forget_everything))
        lanes.append(Repeated(f"{name}, again", _fresh(judge, make)))
    run = interleave(lanes, effort)
    rows = [[UNIT, run.spread(UNIT).text(), "", "1"]]
    for name in names:
        first, again = f"{name}, first", f"{name}, again"
        against = ratio(run.p50[again], run.p50[UNIT]).text(1)
        rows.append([name, run.spread(again).text(), run.spread(first).text(), against])
    return Table(
        title="Verifying evidence",
        method=METHOD,
        columns=["", "again, p50, microseconds", "first, p50, microseconds", f"again against {UNIT}"],
        rows=rows,
        raw=run.p50,
    )


def _platforms(now: datetime) -> list[Way]:
    intel_root, amd_root, tpm_root = SimulatedRoot.generate(), SimulatedAmdRoot.generate(), SimulatedTpmRoot.generate()
    sgx, tdx = (SimulatedIntel(intel_root, tee=tee) for tee in (TEE.INTEL_SGX, TEE.INTEL_TDX))
    snp = SimulatedAmd(amd_root)
    tpm, vtpm = SimulatedTpm(tpm_root, ek="rsa", ak="rsa"), SimulatedTpm(tpm_root, ak="rsa")
    for one in (tpm, vtpm):
        one.boot()
    virtual_machine = SimulatedAzure(snp, vtpm)
    azure = AzureAttester(virtual_machine, virtual_machine)

    def way(name: str, anchor: Anchor, attester: Attester, activation: Activation | None = None) -> Way:
        judge = partial(_judge, anchors=(anchor,), activation=activation, now=now)
        return name, judge, partial(attester.attest, REPORT_DATA)

    return [
        way("Intel SGX, quote v3", sgx.anchor, sgx),
        way("Intel TDX, quote v4", tdx.anchor, tdx),
        way("AMD SEV-SNP, report v3", snp.anchor, snp),
        way("Azure, SEV-SNP with virtual TPM", snp.anchor, azure),
        way("TPM 2.0, RSA, with boot log", tpm.anchor, tpm, _activation(tpm)),
    ]


def _gpu(now: datetime) -> Way:
    root = SimulatedNvidiaRoot.generate()
    device = SimulatedDevice(root)

    def judge(evidence: DeviceEvidence) -> None:
        verify_device(evidence, anchors=(root.anchor,), now=now, check=OpenCheck(""))

    return "NVIDIA GPU beside any of them", judge, partial(device.attest, bytes(32))


def _activation(tpm: SimulatedTpm) -> Activation:
    secret = bytes(range(32))
    made = credential.make_credential(tpm.ek_public, tpm.ak_public.name, secret)
    answer = tpm.activate(made.blob, made.encrypted_secret)
    return Activation(ek_public=tpm.identity().ek_public, ak_name=tpm.ak_public.name, secret=secret, answer=answer)


def _judge(evidence: Evidence, *, anchors: tuple[Anchor, ...], activation: Activation | None, now: datetime) -> None:
    verify(evidence, anchors=anchors, now=now, checks=Checklist(), activation=activation)


def _fresh(judge: Callable[[Any], None], make: Callable[[], Any], *, ahead: int = 64) -> Callable[[], None]:
    """Judge evidence that was not judged before; made ahead, so that making it is not timed."""
    made = [make() for _ in range(ahead)]
    at = 0

    def call() -> None:
        nonlocal at
        at = (at + 1) % ahead
        judge(made[at])

    return call


def _one_signature() -> Callable[[], None]:
    key = ec.generate_private_key(ec.SECP256R1())
    public, message, algorithm = key.public_key(), bytes(632), ec.ECDSA(hashes.SHA256())
    return partial(public.verify, key.sign(message, algorithm), message, algorithm)


def forget_everything() -> None:
    """Empty the caches of all verifiers."""
    for name, module in list(sys.modules.items()):
        if name.startswith("blindai.attestation.verifiers."):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print(measure(QUICK if options.quick else FULL).markdown())
