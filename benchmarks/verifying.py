"""What it costs to verify the evidence of each TEE."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace
from report import Table
from timing import FULL, QUICK, Effort, Repeated, interleave, ratio

from blindai.attestation import credential
from blindai.attestation.anchors import Anchor
from blindai.attestation.attesters.azure import AzureAttester
from blindai.attestation.eventlog import MAX_BOOT_LOG_BYTES
from blindai.attestation.evidence import TEE, Activation, DeviceEvidence, Evidence
from blindai.attestation.policy.gpus import MAX_DEVICES
from blindai.attestation.result import Checklist, OpenCheck
from blindai.attestation.simulated.amd import SimulatedAmd
from blindai.attestation.simulated.amd_root import SimulatedAmdRoot
from blindai.attestation.simulated.azure import SimulatedAzure
from blindai.attestation.simulated.intel import SimulatedIntel
from blindai.attestation.simulated.nvidia import SimulatedDevice, SimulatedNvidiaRoot
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.attestation.simulated.tpm import SimulatedTpm
from blindai.attestation.simulated.tpm_certificates import SimulatedTpmRoot
from blindai.attestation.simulated.tpm_layout import log_event, log_header
from blindai.attestation.verifiers import verify
from blindai.attestation.verifiers.nvidia import verify_device
from blindai.errors import AttestationError

UNIT = "one ECDSA signature on P-256"

METHOD = (
    "From evidence in memory to claims: parsing, certificates, revocation lists, signatures and attributes; without"
    " policy, network and connection. *First* has seen no certificate of this platform before; *again* is a new quote"
    " of a platform whose certificates and collateral were verified before, and are compared with the time each time."
    f" All on one core, with simulated platforms, whose evidence has the form of the real one's. For scale: {UNIT},"
    " verified by the same library."
)

HOSTILE_METHOD = (
    "Evidence that was made to keep a verifier busy, within the size that is read at all, until the refusal. Nothing is"
    " remembered from one time to the next."
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


def measure_hostile(effort: Effort) -> Table:
    """Make evidence that is as slow to refuse as we know how to make it, and measure."""
    now = datetime.now(UTC)
    rows, raw = [], {}
    for name, judge in _hostile(now):
        code = _refusal_of(judge)
        forget_everything()
        run = interleave([Repeated(name, partial(_refusal_of, judge), between=forget_everything)], effort)
        rows.append([name, f"`{code}`", f"{run.spread(name).median / 1000:.1f}"])
        raw[name] = run.p50[name]
    return Table(
        title="Refusing hostile evidence",
        method=HOSTILE_METHOD,
        columns=["", "refused as", "p50, milliseconds"],
        rows=rows,
        raw=raw,
    )


def _hostile(now: datetime) -> list[tuple[str, Callable[[], object]]]:
    intel, amd = SimulatedIntel(SimulatedRoot.generate()), SimulatedAmd(SimulatedAmdRoot.generate())
    tpm = SimulatedTpm(SimulatedTpmRoot.generate())
    quote, report, boot = (one.attest(REPORT_DATA) for one in (intel, amd, tpm))
    collateral = intel.collateral()
    issuer = x509.load_pem_x509_certificates(collateral.pck_crl_issuer_chain.encode())[0].subject
    crl = _revocation_list(issuer, now, entries=12_000)
    log = log_header() + b"".join(log_event(4, 13, bytes(32), b"") for _ in range(MAX_BOOT_LOG_BYTES // 60))
    gpu_root = SimulatedNvidiaRoot.generate()
    gpus = [SimulatedDevice(gpu_root, number=number).attest(bytes(32)) for number in range(MAX_DEVICES)]

    def intel_with(**changes: str) -> Callable[[], object]:
        changed = replace(quote, intel_collateral=replace(collateral, **changes))
        return partial(_judge, changed, anchors=(intel.anchor,), activation=None, now=now)

    def gpus_with_the_last_altered() -> None:
        *first, last = gpus
        altered = replace(last, report=last.report[:-1] + bytes([last.report[-1] ^ 1]))
        for device in (*first, altered):
            verify_device(device, anchors=(gpu_root.anchor,), now=now, check=OpenCheck(""))

    quoted, beside = tpm.quote(bytes(32))
    long_log = replace(boot, quote=quoted, tpm=replace(beside, event_log=log))
    return [
        ("TDX, a revocation list of 12,000 entries by somebody else", intel_with(pck_crl=crl.hex())),
        ("TDX, a chain of 900 KB", intel_with(pck_crl_issuer_chain=collateral.pck_crl_issuer_chain * 500)),
        ("TDX, TCB info of 900 KB", intel_with(tcb_info="[" * 900_000)),
        (
            "SEV-SNP, a revocation list of 12,000 entries by somebody else",
            partial(
                _judge,
                replace(report, amd=replace(amd.endorsements(), crl=crl)),
                anchors=(amd.anchor,),
                activation=None,
                now=now,
            ),
        ),
        (
            "TPM, the longest boot log that is read",
            partial(_judge, long_log, anchors=(tpm.anchor,), activation=_activation(tpm), now=now),
        ),
        (f"{MAX_DEVICES} GPUs never met before, the last one altered", gpus_with_the_last_altered),
    ]


def _refusal_of(judge: Callable[[], object]) -> str:
    try:
        judge()
    except AttestationError as error:
        return error.code
    raise AssertionError("it was accepted")


def _revocation_list(issuer: x509.Name, now: datetime, *, entries: int) -> bytes:
    revoked = [
        x509.RevokedCertificateBuilder().serial_number(number + 1).revocation_date(now).build()
        for number in range(entries)
    ]
    builder = x509.CertificateRevocationListBuilder(issuer, now, now + timedelta(days=1), revoked_certificates=revoked)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


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
    chosen = QUICK if options.quick else FULL
    print(measure(chosen).markdown())
    print(measure_hostile(chosen).markdown())
