"""A simulated Intel platform: real quotes, real certificates, no hardware.

What it emits passes byte for byte through the same verifier as evidence of real processors, under a root that no
policy accepts unless it names it. It protects nothing: whoever reads this process's memory has every key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from blindai.attestation.anchors import Anchor
from blindai.attestation.evidence import TEE, Evidence, IntelCollateral, require_report_data
from blindai.attestation.simulated import certificates, quote
from blindai.attestation.simulated.certificates import Issuer, PlatformIdentity, Validity
from blindai.attestation.simulated.collateral import (
    COLLATERAL_LIFETIME,
    QE_ATTRIBUTES,
    QUOTING_ENCLAVES,
    TEE_TCB_SVN,
    SimulatedPki,
    make_collateral,
)
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.attestation.verifiers.intel_quote import SGX_ATTRIBUTES, TD_ATTRIBUTES

# Collateral is made anew well before it ends, so that a client with a long-lived connection is not cut off.
RENEWAL_MARGIN = timedelta(days=7)

FMSPC = bytes.fromhex("00906ed50000")
CPU_SVN = bytes([3, 3, 2, 2, 4, 1, 0, 5]) + bytes(8)
PCE_SVN = 13
XFRM = (0xE7).to_bytes(8, "little")  # x87, SSE, AVX, AVX-512, PKRU
XFAM = (0x602E7).to_bytes(8, "little")  # the same and AMX
QE_AUTH_DATA = bytes(range(32))

_TD_REGISTERS = (
    *("mrseam", "mrsignerseam", "mrtd", "mrconfigid", "mrowner", "mrownerconfig"),
    *("rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrservicetd"),
)
_TD_REGISTER_BYTES = 48
_ENCLAVE_REGISTER_BYTES = 32

Revocable = Literal["pck", "pck_ca", "tcb_signer"]


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with the platform, for tests and demonstrations. By default nothing is.

    Attributes:
        attributes: names of attribute bits to flip, such as `debug` or `sept_ve_disable`.
        tcb_status, qe_tcb_status: Intel's status of the TCB level that the platform, or its quoting enclave, reaches.
        advisories: security advisories of that TCB level.
        collateral_shift: moves the validity of the collateral; minus 60 days make it expired, 2 days make it early.
        revoked: certificates to put on the revocation lists.
        tcb_info_signed_by_pck: let the PCK certificate sign TCB info and QE identity.
        without_collateral: send the bare quote.
    """

    attributes: frozenset[str] = frozenset()
    tcb_status: str = "UpToDate"
    qe_tcb_status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    collateral_shift: timedelta = timedelta()
    revoked: frozenset[Revocable] = frozenset()
    tcb_info_signed_by_pck: bool = False
    without_collateral: bool = False


class SimulatedIntel:
    """One simulated processor with one enclave or trust domain in it. Safe to call from several threads.

    Args:
        root: the simulated root; `SimulatedRoot.load_or_create()` for this installation's own.
        tee: `TEE.INTEL_TDX` or `TEE.INTEL_SGX`.
        quote_version: 3 for SGX, 4 (the default) or 5 for TDX.
        measurements: registers by their names in `Claims`, lower-case hex; all others are zeros, or the simulated
            module's own. SGX knows `mrenclave` and `mrsigner`; `isv_prod_id` and `isv_svn` are 1.
        faults: what is wrong with it.
        clock: the time, UTC.
    """

    def __init__(
        self,
        root: SimulatedRoot,
        *,
        tee: TEE = TEE.INTEL_TDX,
        quote_version: int | None = None,
        measurements: Mapping[str, str] | None = None,
        faults: Faults | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.tee = tee
        self.quote_version = quote_version or (3 if tee is TEE.INTEL_SGX else 4)
        if (self.quote_version == 3) != (tee is TEE.INTEL_SGX) or self.quote_version not in (3, 4, 5):
            raise ValueError(f"there is no quote version {self.quote_version} of {tee}")
        self.anchor: Anchor = root.anchor
        self.faults = faults or Faults()
        self._clock = clock
        self._root_id = bytes.fromhex(root.anchor.spki_sha256)
        self.pki = SimulatedPki(Issuer(root.certificate, root.key), self._identity(), clock())
        self._attestation_key = ec.generate_private_key(ec.SECP256R1())
        self._before, self._after = self._body(dict(measurements or {}))
        self._attestation_point = quote.public_point(self._attestation_key)
        self._certification = self._certify()
        self._collateral, self._renew_at = self._issue_collateral()

    def attest(self, report_data: bytes) -> Evidence:
        """Make a quote over `report_data` and put the collateral beside it.

        Raises:
            ValueError: `report_data` is not 64 bytes.
        """
        require_report_data(report_data)
        return Evidence(
            tee=self.tee,
            quote=self.quote(report_data),
            intel_collateral=None if self.faults.without_collateral else self.collateral(),
        )

    def quote(self, report_data: bytes) -> bytes:
        """The signed quote alone."""
        signed = self._before + report_data + self._after
        signature = quote.sign(self._attestation_key, signed)
        return quote.assemble(signed, signature, self._attestation_point, self._certification)

    def collateral(self) -> IntelCollateral:
        """The collateral, made anew where it nears its end."""
        if self._clock() >= self._renew_at:
            self._collateral, self._renew_at = self._issue_collateral()
        return self._collateral

    def _identity(self) -> PlatformIdentity:
        return PlatformIdentity(
            ppid=self._derive("ppid")[:16],
            platform_instance_id=self._derive("platform instance")[:16],
            cpu_svn=CPU_SVN,
            pce_svn=PCE_SVN,
            fmspc=FMSPC,
        )

    def _derive(self, purpose: str) -> bytes:
        """32 bytes that stay the same for one installation."""
        return hashlib.sha256(self._root_id + purpose.encode()).digest()

    def _body(self, measurements: dict[str, str]) -> tuple[bytes, bytes]:
        """What the attestation key signs, before and after report_data."""
        head = quote.header(
            self.quote_version,
            quote.SGX if self.tee is TEE.INTEL_SGX else quote.TDX,
            platform=self._derive("quoting enclave")[:16],
        ) + quote.body_descriptor(self.quote_version)
        if self.tee is TEE.INTEL_SGX:
            registers = _registers(("mrenclave", "mrsigner"), _ENCLAVE_REGISTER_BYTES, measurements)
            report = quote.enclave_report(
                cpu_svn=CPU_SVN,
                attributes=self._attributes({"init", "mode64"}, SGX_ATTRIBUTES),
                xfrm=XFRM,
                mrenclave=registers["mrenclave"],
                mrsigner=registers["mrsigner"],
                isv_prod_id=1,
                isv_svn=1,
                report_data=b"",
            )
            return head + report, b""
        registers = _registers(
            _TD_REGISTERS, _TD_REGISTER_BYTES, {"mrseam": certificates.digest("TDX module", 48).hex(), **measurements}
        )
        before, after = quote.td_report_around(
            registers,
            tee_tcb_svn=TEE_TCB_SVN,
            attributes=self._attributes({"sept_ve_disable"}, TD_ATTRIBUTES),
            xfam=XFAM,
            version=self.quote_version,
        )
        return head + before, after

    def _attributes(self, usual: set[str], bits: Mapping[str, int]) -> int:
        return sum(1 << bits[name] for name in usual ^ self.faults.attributes)

    def _certify(self) -> bytes:
        """The quoting enclave's report over the attestation key, signed by the PCK."""
        qe = QUOTING_ENCLAVES[self.tee]
        binding = hashlib.sha256(self._attestation_point + QE_AUTH_DATA).digest()
        report = quote.enclave_report(
            cpu_svn=CPU_SVN,
            attributes=int.from_bytes(bytes.fromhex(QE_ATTRIBUTES)[:8], "little") | 1 << SGX_ATTRIBUTES["mode64"],
            xfrm=XFRM,
            mrenclave=certificates.digest("quoting enclave"),
            mrsigner=qe.mrsigner,
            isv_prod_id=qe.isv_prod_id,
            isv_svn=qe.isv_svn,
            report_data=binding + bytes(32),
        )
        return quote.certification(
            version=self.quote_version,
            qe_report=report,
            qe_signature=quote.sign(self.pki.pck.key, report),
            qe_auth_data=QE_AUTH_DATA,
            pck_chain=self.pki.pck_chain.encode() + b"\0",
        )

    def _issue_collateral(self) -> tuple[IntelCollateral, datetime]:
        now = self._clock()
        start = now + self.faults.collateral_shift - certificates.BACKDATING
        validity = Validity(start, start + COLLATERAL_LIFETIME)
        holders = {"pck": self.pki.pck, "pck_ca": self.pki.pck_ca, "tcb_signer": self.pki.tcb_signer}
        collateral = make_collateral(
            self.pki,
            self.tee,
            validity,
            tcb_status=self.faults.tcb_status,
            qe_tcb_status=self.faults.qe_tcb_status,
            advisories=self.faults.advisories,
            revoked=[holders[name].certificate for name in sorted(self.faults.revoked)],
            json_signer=self.pki.pck if self.faults.tcb_info_signed_by_pck else None,
        )
        return collateral, now - certificates.BACKDATING + COLLATERAL_LIFETIME - RENEWAL_MARGIN


def _registers(names: tuple[str, ...], size: int, values: Mapping[str, str]) -> dict[str, bytes]:
    unknown = set(values) - set(names)
    if unknown:
        raise ValueError(f"this TEE has no register {', '.join(sorted(unknown))}")
    registers = {name: bytes.fromhex(values.get(name, "00" * size)) for name in names}
    for name, value in registers.items():
        if len(value) != size:
            raise ValueError(f"{name} is {size} bytes, not {len(value)}")
    return registers
