"""Claims (RFC 9334, section 2.1): what verified evidence says about the attester, in one shape for all TEEs."""

from __future__ import annotations

from datetime import datetime

import msgspec

from blindai.attestation.evidence import TEE

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
}

# Names in `Claims.flags` without which no verifier accepts evidence, that only add protection (`icssd`, `lass`), or
# that say nothing about security.
PROTECTIVE_FLAGS = frozenset({"init", "mode64", "sept_ve_disable", "icssd", "lass"})


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
        chip_id: stable identity of the processor, lower-case hex (PPID), or empty if it is masked.
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
