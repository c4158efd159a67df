"""The layout of Intel quotes: SGX version 3, TDX versions 4 and 5. Parsing only; nothing here is verified.

Sources: Intel SGX DCAP ECDSA Quote Library API, appendix A.4 (version 3); Intel TDX DCAP Quoting Library API,
appendix A.3 (versions 4 and 5); Intel SDM volume 3D, chapter 38 (SGX ATTRIBUTES); Intel TDX module ABI (TD ATTRIBUTES).

Every byte of a quote is accounted for: lengths must be used up exactly. What follows the quote in its buffer is
kept apart in `trailing` (the kernel's configfs and Azure's IMDS hand out zero-padded buffers).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import msgspec

from blindai.attestation.evidence import TEE
from blindai.errors import AttestationError

# A quote with its certificate chain is about 5 KB; 16 KB leaves room for zero padding to a fixed buffer.
MAX_QUOTE_BYTES = 16 * 1024

INTEL_QE_VENDOR_ID = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")  # version 3 API, A.4 table 3
ATTESTATION_KEY_ECDSA_P256 = 2  # the only key type for which Intel runs a quoting enclave
TEE_TYPE_SGX = 0x00000000
TEE_TYPE_TDX = 0x00000081

# TDX version 5, "quote body descriptor": what follows the header.
BODY_TD_REPORT_1_0 = 2
BODY_TD_REPORT_1_5 = 3

CERTIFICATION_PCK_CHAIN = 5  # concatenated PEM certificates: PCK, PCK CA, root
CERTIFICATION_QE_REPORT = 6  # versions 4 and 5 wrap the QE report together with type 5

QE_AUTH_DATA_BYTES = 32  # Intel's quoting enclaves always use 32

_HEADER = struct.Struct("<HHIHH16s20s")
_BODY_DESCRIPTOR = struct.Struct("<HI")
_SIGNATURE_AND_KEY = struct.Struct("<64s64s")
_QE_REPORT = struct.Struct("<384s64sH")
_CERTIFICATION = struct.Struct("<HI")
_LENGTH = struct.Struct("<I")

_ENCLAVE_REPORT = struct.Struct("<16sI12s16sQ8s32s32s32s32s64sHHH42s16s64s")
_ENCLAVE_REPORT_FIELDS = (
    *("cpu_svn", "misc_select", "reserved_1", "isvextprodid", "attributes", "xfrm", "mrenclave", "reserved_2"),
    *("mrsigner", "reserved_3", "configid", "isv_prod_id", "isv_svn", "config_svn", "reserved_4", "isvfamilyid"),
    "report_data",
)
_ENCLAVE_MEASUREMENTS = ("mrenclave", "mrsigner", "xfrm", "configid", "isvextprodid", "isvfamilyid")
_ENCLAVE_SVNS = ("isv_prod_id", "isv_svn", "config_svn")

_TD_REPORT = struct.Struct("<16s48s48s8sQ8s48s48s48s48s48s48s48s48s64s")
_TD_REPORT_FIELDS = (
    *("tee_tcb_svn", "mrseam", "mrsignerseam", "seam_attributes", "td_attributes", "xfam"),
    *("mrtd", "mrconfigid", "mrowner", "mrownerconfig", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "report_data"),
)
_TD_MEASUREMENTS = tuple(name for name in _TD_REPORT_FIELDS if name.startswith(("mr", "rtmr", "seam_", "xfam")))
_TD_REPORT_1_5 = struct.Struct("<16s48s")  # tee_tcb_svn_2, mrservicetd

SGX_ATTRIBUTES = {
    "init": 0,
    "debug": 1,
    "mode64": 2,
    "provisioning_key": 4,
    "einittoken_key": 5,
    "cet": 6,
    "kss": 7,
    "aex_notify": 10,
}
TD_ATTRIBUTES = {
    "debug": 0,
    "hgs_plus_profiling": 4,
    "perf_profiling": 5,
    "pmt_profiling": 6,
    "icssd": 16,
    "servtd_ext": 17,
    "lass": 27,
    "sept_ve_disable": 28,
    "migratable": 29,
    "pks": 30,
    "kl": 31,
    "tpa": 62,
    "perfmon": 63,
}


# What may be set; whether it should be is the policy's decision (provisioning_key, einittoken_key, perfmon).
_SAFE_ATTRIBUTES = {
    TEE.INTEL_SGX: frozenset(SGX_ATTRIBUTES) - {"debug"},
    TEE.INTEL_TDX: frozenset({"icssd", "lass", "sept_ve_disable", "pks", "kl", "perfmon"}),
}

_TD_BODY_SIZES = {
    BODY_TD_REPORT_1_0: _TD_REPORT.size,
    BODY_TD_REPORT_1_5: _TD_REPORT.size + _TD_REPORT_1_5.size,
}


class UnverifiedQuote(msgspec.Struct, frozen=True, kw_only=True):
    """What a quote says of itself. Anyone can write these bytes: believe them only once `verify` accepted them.

    Attributes:
        tee, version: from the header.
        report_data: 64 bytes.
        measurements, svns, flags: by the names that `Claims` documents.
        unknown_attributes: attribute bits that are set but have no name here.
        signed: header and body, the bytes under the quote's signature (64 bytes, raw r||s).
        identity: `signed` without report_data: what stays the same from quote to quote of one enclave.
        authentication: everything after the signature: attestation key, QE report, certification data.
        attestation_key: 64 bytes, x||y on P-256.
        pck_chain: the PEM certificates of the certification data, leaf first, without its terminating zeros.
        trailing: what follows the quote in its buffer.
    """

    tee: TEE
    version: int
    report_data: bytes
    measurements: dict[str, str]
    svns: dict[str, int]
    flags: dict[str, bool]
    unknown_attributes: int
    signed: bytes
    identity: bytes
    signature: bytes
    authentication: bytes
    attestation_key: bytes
    pck_chain: bytes
    trailing: bytes

    @property
    def debug(self) -> bool:
        return self.flags["debug"]


def parse(quote: bytes) -> UnverifiedQuote:
    """Take a quote apart without verifying anything.

    Raises:
        AttestationError: step `evidence`; `evidence.too_large`, `evidence.malformed` (a length does not fit, or bytes
            inside the quote belong to no field), `evidence.unsupported` (a version, key type, vendor, TEE or body
            that this verifier does not know).
    """
    if len(quote) > MAX_QUOTE_BYTES:
        raise AttestationError(
            "the quote is larger than any genuine quote",
            code="evidence.too_large",
            step="evidence",
            expected=f"at most {MAX_QUOTE_BYTES} bytes",
            got=f"{len(quote)} bytes",
        )
    fields = _Fields(quote)
    version, key_type, tee_type, _, _, vendor, _ = fields.take(_HEADER)
    if key_type != ATTESTATION_KEY_ECDSA_P256:
        raise _unsupported(f"attestation key type {ATTESTATION_KEY_ECDSA_P256}", f"type {key_type}")
    if vendor != INTEL_QE_VENDOR_ID:
        raise _unsupported(f"quoting enclave vendor {INTEL_QE_VENDOR_ID.hex()}", vendor.hex())
    if (version, tee_type) == (3, TEE_TYPE_SGX):
        tee, body = TEE.INTEL_SGX, _enclave_report(fields)
    elif (version, tee_type) == (4, TEE_TYPE_TDX):
        tee, body = TEE.INTEL_TDX, _td_report(fields)
    elif (version, tee_type) == (5, TEE_TYPE_TDX):
        tee, body = TEE.INTEL_TDX, _described_td_report(fields)
    else:
        raise _unsupported("SGX version 3, TDX version 4 or 5", f"version {version}, TEE type {tee_type:#x}")
    signed = fields.taken()
    after_report_data = _TD_REPORT_1_5.size if "mrservicetd" in body.measurements else 0
    report_data_at = len(signed) - after_report_data - len(body.report_data)
    (length,) = fields.take(_LENGTH)
    authentication = _Fields(fields.take_bytes(length))
    signature, attestation_key = authentication.take(_SIGNATURE_AND_KEY)
    return UnverifiedQuote(
        tee=tee,
        version=version,
        report_data=body.report_data,
        measurements=body.measurements,
        svns=body.svns,
        flags=body.flags,
        unknown_attributes=body.unknown_attributes,
        signed=signed,
        identity=signed[:report_data_at] + signed[report_data_at + len(body.report_data) :],
        signature=signature,
        authentication=authentication.after(len(signature)),
        attestation_key=attestation_key,
        pck_chain=_pck_chain(authentication, wrapped=version >= 4),
        trailing=fields.rest(),
    )


def require_no_trailing_data(quote: UnverifiedQuote) -> None:
    """Refuse bytes after the quote that its signature does not cover. Zero padding is harmless and common.

    Raises:
        AttestationError: `evidence.trailing_data`, step `evidence`.
    """
    if quote.trailing.strip(b"\0"):
        raise AttestationError(
            "the quote is followed by data that nothing vouches for",
            code="evidence.trailing_data",
            step="evidence",
            expected="nothing but zeros after the quote",
            got=f"{len(quote.trailing)} bytes of data",
        )


def require_strict_attributes(quote: UnverifiedQuote) -> None:
    """Refuse attributes under which a TEE does not keep its promises, whatever code runs in it.

    Raises:
        AttestationError: step `debug`; `platform.debug` (the host may read its memory), `platform.sept_ve_disable`
            (the host may inject #VE exceptions by withholding pages), `platform.service_td` (another TD has a hold
            on this one), `platform.attributes` (any other bit that is not known to be safe, or SGX without INIT).
    """
    if quote.debug:
        raise _attributes(
            "debug",
            "the enclave is in debug mode: its host can read it",
            expected="debug off",
            got="debug on",
            likely="a development build or launch option was deployed",
        )
    if quote.tee is TEE.INTEL_TDX:
        if not quote.flags["sept_ve_disable"]:
            raise _attributes(
                "sept_ve_disable",
                "the trust domain lets its host inject virtualization exceptions",
                expected="SEPT_VE_DISABLE set",
                got="SEPT_VE_DISABLE clear",
                likely="the VM was launched by an old hypervisor or without sept-ve-disable=on",
            )
        if int(quote.measurements.get("mrservicetd", "0"), 16):
            raise _attributes(
                "service_td",
                "the trust domain is bound to a service TD, which may migrate or inspect it",
                expected="MRSERVICETD all zeros",
                got=quote.measurements["mrservicetd"],
            )
    elif not quote.flags["init"]:
        raise _attributes("attributes", "the enclave was never initialised", expected="INIT set", got="INIT clear")
    safe = _SAFE_ATTRIBUTES[quote.tee]
    unsafe = [name for name, is_set in quote.flags.items() if is_set and name not in safe]
    if quote.unknown_attributes:
        unsafe.append(f"unknown bits {quote.unknown_attributes:#x}")
    if unsafe:
        raise _attributes(
            "attributes",
            "the TEE runs with attributes that are not known to be safe",
            expected=", ".join(sorted(safe)),
            got=", ".join(unsafe),
        )


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    report_data: bytes
    measurements: dict[str, str]
    svns: dict[str, int]
    flags: dict[str, bool]
    unknown_attributes: int


class _Fields:
    """Takes fields off a buffer; running out of bytes is a refusal."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take_bytes(layout.size))

    def take_bytes(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise _malformed(f"{end} bytes or more", f"{len(self._data)} bytes")
        chunk = self._data[self._at : end]
        self._at = end
        return chunk

    def taken(self) -> bytes:
        return self._data[: self._at]

    def after(self, offset: int) -> bytes:
        return self._data[offset:]

    def rest(self) -> bytes:
        return self._data[self._at :]

    def nothing_left(self, where: str) -> None:
        if self._at != len(self._data):
            raise _malformed(f"nothing {where}", f"{len(self._data) - self._at} bytes")


def _enclave_report(fields: _Fields) -> _Body:
    values = dict(zip(_ENCLAVE_REPORT_FIELDS, fields.take(_ENCLAVE_REPORT), strict=True))
    return _Body(
        report_data=values["report_data"],
        measurements={name: values[name].hex() for name in _ENCLAVE_MEASUREMENTS},
        svns={name: values[name] for name in _ENCLAVE_SVNS},
        flags=_named(values["attributes"], SGX_ATTRIBUTES),
        unknown_attributes=_unnamed(values["attributes"], SGX_ATTRIBUTES),
    )


def _td_report(fields: _Fields) -> _Body:
    values = dict(zip(_TD_REPORT_FIELDS, fields.take(_TD_REPORT), strict=True))
    module_svn, module_version = values["tee_tcb_svn"][:2]
    return _Body(
        report_data=values["report_data"],
        measurements={name: values[name].hex() for name in _TD_MEASUREMENTS},
        svns={"tdx_module_svn": module_svn, "tdx_module_version": module_version},
        flags=_named(values["td_attributes"], TD_ATTRIBUTES),
        unknown_attributes=_unnamed(values["td_attributes"], TD_ATTRIBUTES),
    )


def _described_td_report(fields: _Fields) -> _Body:
    """Version 5: type and size of the body come first."""
    body_type, size = fields.take(_BODY_DESCRIPTOR)
    if body_type not in _TD_BODY_SIZES:
        raise _unsupported(f"a TD report body, type {BODY_TD_REPORT_1_0} or {BODY_TD_REPORT_1_5}", f"type {body_type}")
    if size != _TD_BODY_SIZES[body_type]:
        raise _malformed(f"a body of {_TD_BODY_SIZES[body_type]} bytes", f"{size} bytes")
    body = _td_report(fields)
    if body_type == BODY_TD_REPORT_1_5:
        tee_tcb_svn_2, mrservicetd = fields.take(_TD_REPORT_1_5)
        body.measurements["mrservicetd"] = mrservicetd.hex()
        # The module that runs now, where it was updated without a reboot (TD-preserving update).
        body.svns["tdx_module_svn_2"], body.svns["tdx_module_version_2"] = tee_tcb_svn_2[0], tee_tcb_svn_2[1]
    return body


def _pck_chain(authentication: _Fields, *, wrapped: bool) -> bytes:
    if wrapped:
        kind, size = authentication.take(_CERTIFICATION)
        if kind != CERTIFICATION_QE_REPORT:
            raise _unsupported(f"certification data of type {CERTIFICATION_QE_REPORT}", f"type {kind}")
        certification = _Fields(authentication.take_bytes(size))
        authentication.nothing_left("after the certification data")
    else:
        certification = authentication
    _, _, auth_data_size = certification.take(_QE_REPORT)
    if auth_data_size != QE_AUTH_DATA_BYTES:
        raise _malformed(f"{QE_AUTH_DATA_BYTES} bytes of QE authentication data", f"{auth_data_size} bytes")
    certification.take_bytes(auth_data_size)
    kind, size = certification.take(_CERTIFICATION)
    if kind != CERTIFICATION_PCK_CHAIN:
        raise _unsupported(f"a PCK certificate chain, type {CERTIFICATION_PCK_CHAIN}", f"type {kind}")
    chain = certification.take_bytes(size)
    certification.nothing_left("after the PCK certificate chain")
    return chain.rstrip(b"\0")  # Intel's quoting library writes the C string with its terminator


def _named(attributes: int, names: Mapping[str, int]) -> dict[str, bool]:
    return {name: bool(attributes >> bit & 1) for name, bit in names.items()}


def _unnamed(attributes: int, names: Mapping[str, int]) -> int:
    return attributes & ~sum(1 << bit for bit in names.values())


def _attributes(name: str, message: str, *, expected: str, got: str, likely: str = "") -> AttestationError:
    return AttestationError(message, code=f"platform.{name}", step="debug", expected=expected, got=got, likely=likely)


def _malformed(expected: str, got: str) -> AttestationError:
    return AttestationError(
        "the quote is malformed", code="evidence.malformed", step="evidence", expected=expected, got=got
    )


def _unsupported(expected: str, got: str) -> AttestationError:
    return AttestationError(
        "the quote is of a kind that this verifier does not know",
        code="evidence.unsupported",
        step="evidence",
        expected=expected,
        got=got,
    )
