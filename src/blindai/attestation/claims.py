"""Claims (RFC 9334, section 2.1): what verified evidence says about the attester, in one shape for all TEEs."""

from __future__ import annotations

from datetime import datetime

import msgspec

from blindai.attestation.evidence import TEE, DeviceKind

# Names in `Claims.flags` that each take something from the isolation or add to what must be trusted.
FLAGS: dict[str, str] = {
    "smt": "the processor runs two threads per core",
    "dynamic_platform": "processors can be added to the platform while it runs",
    "cached_keys": "the platform's keys are kept by Intel's registration service",
    "provisioning_key": "the enclave can derive the platform's provisioning key",
    "einittoken_key": "the enclave can authorise the launch of other enclaves",
    "kss": "the enclave uses key separation and sharing",
    "aex_notify": "the enclave is told of asynchronous exits",
    "cet": "the enclave uses control-flow enforcement",
    "migratable": "the trust domain can be moved to another host",
    "perfmon": "the trust domain uses performance counters",
    "pks": "the trust domain uses supervisor protection keys",
    "kl": "the trust domain uses Key Locker",
    "cxl": "the guest accepts memory that is attached over CXL",
    "console": "the serial console, which the host reads and writes, is connected to the guest",
    "no_secure_boot": "the guest's firmware also starts unsigned code",
}

# Names in `Claims.flags` without which no verifier accepts evidence, that only add protection (`icssd`, `lass`), or
# that say nothing about security.
PROTECTIVE_FLAGS = frozenset(
    {
        *("init", "mode64", "sept_ve_disable", "icssd", "lass"),
        *(
            "single_socket",
            "tsme",
            "ecc",
            "rapl_disabled",
            "ciphertext_hiding",
            "alias_check",
            "iommu_write_safe",
            "tio",
        ),
        *("mem_aes_256_xts", "page_swap_disabled"),
    }
)


class Location(msgspec.Struct, frozen=True, array_like=True):
    """Where a claim stands in the evidence: `end` is the first byte behind it."""

    of: str
    start: int
    end: int


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What a verifier found to be vouched for by the TEE's vendor. Only verifiers make these.

    Attributes:
        tee: which TEE signed.
        simulated: the anchor is a simulated root: nothing here is vouched for by hardware.
        anchor: name of the trust anchor on which the chain ended.
        report_data: the 64 bytes that the attested code chose.
        measurements: register name to lower-case hex, by the manifest's names (`mrtd`, `rtmr0`.., `mrenclave`, ..).
        svns: security version numbers and product ids by name (`isv_svn`, `isv_prod_id`).
        debug: the TEE can be read by its host.
        flags: further attribute bits by name (see `FLAGS`); a raised one that the policy does not list is refused.
        tcb_status: Intel's name of the platform's TCB status, such as `UpToDate`.
        tcb_date: the date of the TCB level that the platform reached, UTC.
        tcb_evaluation_data_number: of the TCB info that judged it.
        advisories: security advisories that apply to the platform.
        chip_id: stable identity of the processor, lower-case hex (Intel's PPID, AMD's CHIP_ID), or of the TPM (SHA-256
            of its EK's SubjectPublicKeyInfo); empty if it is masked.
        product: the processor's product line, such as `Milan`.
        signing_key: the kind of key that signed, where a TEE has several (`vcek`, `vlek`).
        tcb: security version of each part of AMD's firmware (`boot_loader`, `tee`, `snp`, `microcode`, `fmc`).
        vmpl: privilege level of who asked for an SEV-SNP report; 0 is the most privileged.
        crl_checked: a revocation list vouched for the certificates.
        locations: where `report_data`, each measurement, and other claims by their names here, stand in the evidence.
        not_after: earliest end of validity of everything that was relied on, UTC.
    """

    tee: TEE
    simulated: bool
    anchor: str
    report_data: bytes
    measurements: dict[str, str]
    debug: bool
    not_after: datetime
    svns: dict[str, int] = {}
    flags: dict[str, bool] = {}
    tcb_status: str = ""
    tcb_date: datetime | None = None
    tcb_evaluation_data_number: int = 0
    advisories: tuple[str, ...] = ()
    chip_id: str = ""
    product: str = ""
    signing_key: str = ""
    tcb: dict[str, int] = {}
    vmpl: int | None = None
    crl_checked: bool = True
    locations: dict[str, Location] = {}


class DeviceClaims(msgspec.Struct, frozen=True, kw_only=True):
    """What a verifier found to be vouched for by a device's maker. Only verifiers make these.

    Attributes:
        simulated, anchor, not_after: as in `Claims`.
        id: stable identity of the device, lower-case hex.
        chip, architecture: such as `GH100` and `hopper`.
        nonce: the 32 bytes that the device was asked to sign.
        driver, firmware: versions of the driver and of the VBIOS (a switch's BIOS), as the device reports them.
        mode: how it is shared out, `single`, `multi` or `protected-pcie`; empty where the device does not say.
        measurements: index to lower-case hex.
        locations: where the nonce and other claims stand in the report.
    """

    kind: DeviceKind
    simulated: bool
    anchor: str
    id: str
    architecture: str
    nonce: bytes
    driver: str
    firmware: str
    measurements: dict[int, str]
    not_after: datetime
    chip: str = ""
    mode: str = ""
    locations: dict[str, Location] = {}
