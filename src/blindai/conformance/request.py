"""What is asked for: one JSON object, strictly read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, cast

import msgspec
from cryptography import x509

from blindai.attestation.anchors import NVIDIA_DEVICE_ROOT, VENDOR_ANCHORS, VENDORS, Anchor, Vendor
from blindai.attestation.evidence import TEE, DeviceKind
from blindai.attestation.policy import Policy
from blindai.attestation.verifiers.certificates import UNPARSABLE, common_name, spki_sha256
from blindai.conformance.octets import UnreadableOctets, documents, octets
from blindai.errors import BlindAIError, ConfigurationError

# Evidence of eight GPUs in base64 with its collateral is about 2 MB.
MAX_REQUEST_BYTES = 8 << 20

ALIASES = {
    "sgx": "intel-sgx",
    "tdx": "intel-tdx",
    "snp": "amd-sev-snp",
    "sev-snp": "amd-sev-snp",
    "azure": "azure-sev-snp",
    "azure-snp": "azure-sev-snp",
    "tpm2": "tpm",
    "nvidia": "nvidia-gpu",
}


class MalformedRequest(BlindAIError):
    """The request itself is wrong; nothing was judged."""

    default_code = "request.malformed"


class UnsupportedRequest(BlindAIError):
    """The request asks for a kind of evidence that this release does not know."""

    default_code = "request.unsupported"


class _Anchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    vendor: Vendor
    spki_sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    simulated: bool = False


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tee: str
    evidence: Any
    now: Annotated[datetime, msgspec.Meta(tz=True)]
    endorsements: Any = None
    collateral: Any = None
    anchors: list[str | _Anchor] | None = None
    policy: str | None = None
    expected_report_data: str | None = None
    expected_device_nonce: str | None = None
    id: str | int | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose own words are in order; the evidence in it may be anything.

    Attributes:
        tee: the TEE or the kind of device.
        evidence, endorsements, collateral: as they came.
        anchors: the roots on which chains may end.
        policy: None requires nothing beyond what every verifier does.
        now: the time of the verification.
        policy_digest: SHA-256 of its text; empty without one.
        expected: what the evidence must carry; None leaves it open.
        expected_device_nonce: what devices beside a processor must have signed.
        id: repeated in the answer.
    """

    tee: TEE | DeviceKind
    evidence: Any
    endorsements: Any
    collateral: Any
    anchors: tuple[Anchor, ...]
    policy: Policy | None
    policy_digest: str
    now: datetime
    expected: bytes | None
    expected_device_nonce: bytes | None
    id: str | int | None

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """Read a request.

        Raises:
            MalformedRequest: with the code of the manifest's error where it is the policy that is wrong.
            UnsupportedRequest: `tee` names no TEE that this release knows.
        """
        if len(data) > MAX_REQUEST_BYTES:
            raise MalformedRequest(f"a request has at most {MAX_REQUEST_BYTES} bytes")
        try:
            body = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRequest(str(error)) from error
        tee = _tee(body.tee)
        anchors = None if body.anchors is None else _given_anchors(body.anchors, tee)
        policy = _policy(body.policy, anchors)
        return cls(
            tee=tee,
            evidence=body.evidence,
            endorsements=body.endorsements,
            collateral=body.collateral,
            anchors=anchors if anchors is not None else _own_anchors(policy),
            policy=policy,
            policy_digest="" if body.policy is None else hashlib.sha256(body.policy.encode()).hexdigest(),
            now=body.now,
            expected=_expected("expected_report_data", body.expected_report_data),
            expected_device_nonce=_expected("expected_device_nonce", body.expected_device_nonce),
            id=body.id,
        )


def request_id(data: bytes) -> str | int | None:
    """The `id` of a request that may be otherwise wrong, as far as it can be found."""
    try:
        return _id_decoder.decode(data).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _tee(name: str) -> TEE | DeviceKind:
    name = ALIASES.get(name, name)
    if name in set(TEE):
        return TEE(name)
    if name in set(DeviceKind):
        return DeviceKind(name)
    raise UnsupportedRequest(f"this release knows {', '.join((*TEE, *DeviceKind))}")


@dataclass(frozen=True, kw_only=True)
class _AnchoredPolicy(Policy):
    """A policy whose chains end on the roots of the request."""

    replaced: tuple[Anchor, ...] | None = None

    def anchors(self) -> tuple[Anchor, ...]:
        return super().anchors() if self.replaced is None else self.replaced


def _policy(text: str | None, anchors: tuple[Anchor, ...] | None) -> Policy | None:
    if text is None:
        return None
    try:
        policy = cast(_AnchoredPolicy, _AnchoredPolicy.parse(text, "the policy of the request"))
    except ConfigurationError as error:
        raise MalformedRequest(error.message, code=error.code) from error
    return replace(policy, replaced=anchors)


def _expected(name: str, value: str | None) -> bytes | None:
    try:
        return None if value is None else octets(value)
    except UnreadableOctets as error:
        raise MalformedRequest(f"{name}: {error.message}") from error


def _own_anchors(policy: Policy | None) -> tuple[Anchor, ...]:
    if policy is not None:
        return policy.anchors()
    built_in = [anchor for anchors in VENDOR_ANCHORS.values() for anchor in anchors]
    return tuple(dict.fromkeys((*built_in, NVIDIA_DEVICE_ROOT)))


def _given_anchors(given: list[str | _Anchor], tee: TEE | DeviceKind) -> tuple[Anchor, ...]:
    return tuple(anchor for item in given for anchor in _given(item, tee))


def _given(item: str | _Anchor, tee: TEE | DeviceKind) -> list[Anchor]:
    if isinstance(item, _Anchor):
        return [Anchor(f"given {item.vendor} root", item.vendor, item.spki_sha256, simulated=item.simulated)]
    vendor = Vendor.NVIDIA if isinstance(tee, DeviceKind) else VENDORS[tee]
    try:
        roots = [x509.load_der_x509_certificate(der) for der in documents(item)]
        return [Anchor(common_name(root) or "given root", vendor, spki_sha256(root)) for root in roots]
    except (UnreadableOctets, *UNPARSABLE) as error:
        raise MalformedRequest(f"an anchor is no certificate: {error}") from error


class _Identified(msgspec.Struct, frozen=True):
    id: str | int | None = None


_decoder = msgspec.json.Decoder(_Body)
_id_decoder = msgspec.json.Decoder(_Identified)
