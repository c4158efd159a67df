"""NVIDIA's devices: real ones, simulated ones, and every way in which one is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from blindai.attestation.anchors import NVIDIA_DEVICE_ROOT, Anchor, Vendor
from blindai.attestation.claims import DeviceClaims
from blindai.attestation.evidence import DeviceEvidence, DeviceKind
from blindai.attestation.result import OpenCheck
from blindai.attestation.simulated.certificates import Issuer, Validity, pem
from blindai.attestation.simulated.nvidia import DeviceFaults, SimulatedDevice, SimulatedNvidiaRoot, issue
from blindai.attestation.verifiers.nvidia import verify_device
from blindai.attestation.verifiers.nvidia_certificates import MAX_CHAIN_CHARACTERS
from blindai.attestation.verifiers.nvidia_report import MAX_REPORT_BYTES
from blindai.errors import AttestationError
from mutations import mutations, run

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
NONCE = bytes(range(32))
GPU, SWITCH = DeviceKind.NVIDIA_GPU, DeviceKind.NVIDIA_SWITCH
VALIDITY = Validity(NOW - timedelta(days=1), NOW + timedelta(days=1))


@cache
def root() -> SimulatedNvidiaRoot:
    return SimulatedNvidiaRoot.generate(NOW)


def device(**settings: Any) -> SimulatedDevice:
    return SimulatedDevice(root(), now=NOW, **settings)


@cache
def healthy() -> SimulatedDevice:
    return device()


@cache
def good() -> DeviceEvidence:
    return healthy().attest(NONCE)


def verified(
    evidence: DeviceEvidence, *, anchors: tuple[Anchor, ...] | None = None, now: datetime = NOW
) -> DeviceClaims:
    trusted = (root().anchor,) if anchors is None else anchors
    return verify_device(evidence, anchors=trusted, now=now, check=OpenCheck(""))


def code(evidence: DeviceEvidence, **options: Any) -> str:
    with pytest.raises(AttestationError) as caught:
        verified(evidence, **options)
    assert caught.value.step == "devices"
    return caught.value.code


def genuine(vectors: Path, report: str, chain: str) -> DeviceEvidence:
    folder = vectors / "nvidia"
    return DeviceEvidence(
        kind=GPU,
        report=bytes.fromhex((folder / f"{report}_report.hex").read_text()),
        certificates=(folder / f"{chain}.b64").read_text(),
    )


class TestVectors:
    @pytest.mark.parametrize(("report", "chain"), [("hopper", "hopper_chain"), ("hopper2", "hopper2_chain_case1")])
    def test_genuine(self, vectors: Path, report: str, chain: str) -> None:
        evidence = genuine(vectors, report, chain)
        check = OpenCheck("")
        claims = verify_device(evidence, anchors=[NVIDIA_DEVICE_ROOT], now=NOW, check=check)
        assert (claims.architecture, claims.chip, claims.driver, claims.firmware) == (
            *("hopper", "GH100"),
            *("550.90.07", "96.00.9F.00.01"),
        )
        assert not claims.simulated
        assert claims.nonce == evidence.report[4:36]
        assert list(claims.measurements) == list(range(1, 65))
        assert claims.measurements[2].startswith("8048dfd18fe229bf")
        assert claims.not_after.year == 9999
        assert {"fwid, compared with the certificate's", "the signature"} <= {item.use for item in check.ranges}
        place = claims.locations["measurement 2"]
        assert evidence.report[place.start : place.end].hex() == claims.measurements[2]

    @pytest.mark.parametrize(
        ("chain", "refused"),
        [
            ("hopper2_chain_case2", "devices.fwid_missing"),
            ("hopper2_chain_case3", "devices.chain"),
            ("hopper2_chain_case4", "devices.fwid_missing"),
        ],
    )
    def test_refused(self, vectors: Path, chain: str, refused: str) -> None:
        assert code(genuine(vectors, "hopper2", chain), anchors=(NVIDIA_DEVICE_ROOT,)) == refused

    def test_not_under_another_vendors_anchor(self, vectors: Path) -> None:
        evidence = genuine(vectors, "hopper", "hopper_chain")
        other = msgspec.structs.replace(NVIDIA_DEVICE_ROOT, vendor=Vendor.AMD)
        assert code(evidence, anchors=(other,)) == "devices.anchor"

    def test_mutations_of_a_real_report(self, vectors: Path) -> None:
        evidence = genuine(vectors, "hopper", "hopper_chain")

        def judge(report: bytes) -> None:
            verified(msgspec.structs.replace(evidence, report=report), anchors=(NVIDIA_DEVICE_ROOT,))

        end = len(evidence.report)
        tally = run(judge, mutations(evidence.report, signed=[(0, end)], flips=2000))
        assert tally.tried >= 2500
        assert tally.accepted == 0

    def test_mutations_of_real_certificates(self, vectors: Path) -> None:
        evidence = genuine(vectors, "hopper", "hopper_chain")

        def judge(chain: bytes) -> None:
            text = chain.decode("latin-1")
            verified(msgspec.structs.replace(evidence, certificates=text), anchors=(NVIDIA_DEVICE_ROOT,))

        # Line ends and base64 may be written in several ways that mean the same certificates.
        tally = run(judge, mutations(evidence.certificates.encode(), signed=[], flips=1000))
        assert tally.tried >= 1500
        assert tally.refused > 0.95 * tally.tried


class TestSimulated:
    def test_gpu(self) -> None:
        claims = verified(good())
        assert claims.simulated
        assert claims.nonce == NONCE
        assert claims.measurements == healthy().measurements()
        assert (claims.chip, claims.mode, claims.driver) == ("GH100", "", "550.90.07")

    @pytest.mark.parametrize(("flag", "mode"), [(0, "single"), (1, "multi"), (2, "protected-pcie")])
    def test_switch_and_mode(self, flag: int, mode: str) -> None:
        claims = verified(device(kind=SWITCH, mode=flag).attest(NONCE))
        assert (claims.kind, claims.architecture, claims.mode) == (SWITCH, "ls10", mode)
        assert (claims.driver, claims.firmware) == ("", "96.10.6D.00.01")

    def test_blackwell(self) -> None:
        assert verified(device(chip="GB100").attest(NONCE)).architecture == "blackwell"

    def test_no_mode_and_no_driver(self) -> None:
        claims = verified(device(driver="").attest(NONCE))
        assert (claims.driver, claims.mode) == ("", "")

    def test_a_time_without_a_zone(self) -> None:
        with pytest.raises(ValueError, match="time zone"):
            verified(good(), now=NOW.replace(tzinfo=None))


class TestRefusals:
    @pytest.mark.parametrize(
        ("faults", "refused"),
        [
            (DeviceFaults(unsigned=True), "devices.signature"),
            (DeviceFaults(other_fwid=True), "devices.fwid"),
            (DeviceFaults(without_fwid=True), "devices.fwid_missing"),
        ],
    )
    def test_faults(self, faults: DeviceFaults, refused: str) -> None:
        assert code(device(faults=faults).attest(NONCE)) == refused

    def test_report_of_another_device(self) -> None:
        other = device(number=2).attest(NONCE)
        mixed = msgspec.structs.replace(good(), report=other.report)
        assert code(mixed) == "devices.signature"

    def test_simulated_root_is_no_anchor(self) -> None:
        assert code(good(), anchors=(NVIDIA_DEVICE_ROOT,)) == "devices.anchor"

    def test_expired(self) -> None:
        assert code(good(), now=NOW + timedelta(days=4000)) == "devices.certificate.expired"

    def test_not_yet_valid(self) -> None:
        assert code(good(), now=NOW - timedelta(days=3)) == "devices.certificate.not_yet_valid"

    def test_other_kind(self) -> None:
        claimed = device(kind=SWITCH).attest(NONCE)
        # The BIOS of a switch does not parse as the VBIOS of a GPU: its length says so first.
        assert code(msgspec.structs.replace(claimed, kind=GPU)) == "devices.malformed"
        assert code(device(kind=GPU, chip="LS10").attest(NONCE)) == "devices.kind"

    def test_unknown_chip(self) -> None:
        assert code(device(chip="XY100").attest(NONCE)) == "devices.unsupported"


class TestCertificates:
    @pytest.mark.parametrize("order", [(0, 1, 2, 4, 3), (0, 2, 1, 3, 4), (0, 1, 2, 3)])
    def test_wrong_order(self, order: tuple[int, ...]) -> None:
        chain = [healthy().chain[at] for at in order]
        assert code(with_chain(*chain)) == "devices.chain"

    def test_too_short(self) -> None:
        key = ec.generate_private_key(ec.SECP384R1())
        leaf = issue("GH100 A01", key, issuer=issuer_of_all(), validity=VALIDITY, fwid=bytes(48))
        assert code(with_chain(leaf, root().certificate)) == "devices.role"

    @pytest.mark.parametrize("text", ["", "x", "\xe9", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
    def test_unparsable(self, text: str) -> None:
        assert code(msgspec.structs.replace(good(), certificates=text)) == "devices.certificates"

    def test_too_long(self) -> None:
        assert code(with_chain(*healthy().chain, root().certificate)) == "devices.certificates"

    def test_too_large(self) -> None:
        text = good().certificates + "\n" * MAX_CHAIN_CHARACTERS
        assert code(msgspec.structs.replace(good(), certificates=text)) == "devices.certificates"

    @pytest.mark.parametrize(
        ("place", "change"),
        [
            (3, {"role": "GH100 Something"}),  # not an identity
            (2, {"role": "GB100 Provisioner ICA 1"}),  # of another chip
            (1, {"curve": ec.SECP256R1()}),
            (2, {"algorithm": hashes.SHA256()}),
            (1, {"no_usage": True}),
            (1, {"is_ca": False}),
            (0, {"is_ca": True}),
            (0, {"may_sign": False}),
        ],
    )
    def test_role(self, place: int, change: dict[str, Any]) -> None:
        assert code(with_chain(*made_chain(place, change))) == "devices.role"

    def test_the_made_chain_would_do(self) -> None:
        assert code(with_chain(*made_chain(0, {}))) == "devices.fwid"

    def test_fwid_extension_in_another_form(self) -> None:
        chain = made_chain(0, {"fwid": bytes(61)})
        assert code(with_chain(*chain)) == "devices.fwid_missing"


def with_chain(*chain: x509.Certificate) -> DeviceEvidence:
    return msgspec.structs.replace(good(), certificates=pem(*chain))


def issuer_of_all() -> Issuer:
    return Issuer(root().certificate, root().key)


def made_chain(changed: int, change: dict[str, Any]) -> list[x509.Certificate]:
    """A chain of five; that at `changed` is made otherwise."""
    roles = ["GH100 A01 FMC", "GH100 A01 device", "GH100 Provisioner ICA 1", "GH100 Identity"]
    chain = [root().certificate]
    issuer = issuer_of_all()
    for place in (3, 2, 1, 0):
        settings = {"role": roles[place], "is_ca": place > 0, **(change if place == changed else {})}
        key = ec.generate_private_key(settings.pop("curve", ec.SECP384R1()))
        certificate = made(key, issuer, **settings)
        issuer = Issuer(certificate, key)
        chain.insert(0, certificate)
    return chain


def made(
    key: ec.EllipticCurvePrivateKey,
    issuer: Issuer,
    *,
    role: str,
    is_ca: bool,
    algorithm: hashes.SHA256 | None = None,
    no_usage: bool = False,
    may_sign: bool = True,
    fwid: bytes = b"",
) -> x509.Certificate:
    """As `issue`, with what may be wrong."""
    from blindai.attestation.verifiers.nvidia_certificates import FWID_EXTENSION, FWID_PREFIX

    usual = issue(role, key, issuer=issuer, validity=VALIDITY, fwid=b"" if is_ca else bytes(48))
    builder = (
        x509.CertificateBuilder()
        .subject_name(usual.subject)
        .issuer_name(usual.issuer)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(VALIDITY.not_before)
        .not_valid_after(VALIDITY.not_after)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.UnrecognizedExtension(FWID_EXTENSION, fwid or FWID_PREFIX + bytes(48)), critical=False)
    )
    if not no_usage:
        flags = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
        )
        flags |= {"encipher_only": False, "decipher_only": False}
        usage = x509.KeyUsage(digital_signature=may_sign and not is_ca, key_cert_sign=is_ca, **flags)
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(issuer.key, algorithm or hashes.SHA384())


def cut(report: bytes) -> bytes:
    return report[:-200]


def patched(at: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda report: report[:at] + value + report[at + len(value) :]


class TestMalformed:
    @pytest.mark.parametrize(
        ("change", "refused"),
        [
            (cut, "devices.malformed"),
            (lambda report: report + b"\0", "devices.malformed"),
            (lambda report: report + bytes(MAX_REPORT_BYTES), "devices.malformed"),
            (patched(0, b"\x12"), "devices.unsupported"),
            (patched(1, b"\xe1"), "devices.malformed"),
            (patched(2, b"\x00"), "devices.malformed"),  # no signature was asked for
            (patched(3, b"\x02"), "devices.malformed"),  # one measurement was asked for
            (patched(38, b"\x7f"), "devices.malformed"),  # an error
            (patched(41, b"\x3f"), "devices.malformed"),  # one measurement less
            (patched(45, b"\x02"), "devices.malformed"),  # an index twice
            (patched(46, b"\x02"), "devices.malformed"),  # not DMTF's format
            (patched(47, b"\x34"), "devices.malformed"),  # sizes contradict each other
            (patched(41, b"\x00\x00\x00\x00"), "devices.malformed"),  # none at all
        ],
    )
    def test_report(self, change: Callable[[bytes], bytes], refused: str) -> None:
        assert code(msgspec.structs.replace(good(), report=change(good().report))) == refused

    @pytest.mark.parametrize(
        "opaque",
        [
            b"\x03\x00\x02\x00\xff\xff",  # a version that is no ASCII
            b"\x03\x00\x02\x00\x07\x07",  # or no text
            b"\x06\x00\x07\x00" + bytes(7),  # a VBIOS version of another length
            b"\x03\x00\x01\x001" * 2,  # a field twice
            b"\x24\x00\x01\x00\x09",  # a mode that is not known
            b"\x24\x00\x00\x00",  # or empty
            b"\x15\x00\x01\x00\x00",
            b"\x03\x00",  # cut off
        ],
    )
    def test_opaque_data(self, opaque: bytes) -> None:
        report = good().report
        before = report[: 37 + 8 + 64 * 55 + 32]
        changed = before + len(opaque).to_bytes(2, "little") + opaque + bytes(96)
        assert code(msgspec.structs.replace(good(), report=changed)) == "devices.malformed"

    def test_a_field_that_ends_behind_the_opaque_data(self) -> None:
        report = good().report
        before = report[: 37 + 8 + 64 * 55 + 32]
        changed = before + (5).to_bytes(2, "little") + b"\x63\x00\x04\x00" + bytes(96)
        assert code(msgspec.structs.replace(good(), report=changed)) == "devices.malformed"

    @pytest.mark.parametrize(("value", "mode"), [(0x55, "single"), (0xAA, "protected-pcie")])
    def test_protected_pcie_of_older_firmware(self, value: int, mode: str) -> None:
        from blindai.attestation.verifiers.nvidia_report import parse

        opaque = b"\x15\x00\x01\x00" + bytes([value]) + b"\x63\x00\x01\x00\x00"
        changed = good().report[: 37 + 8 + 64 * 55 + 32] + len(opaque).to_bytes(2, "little") + opaque + bytes(96)
        assert parse(changed, GPU).mode == mode
        assert parse(changed, GPU).firmware == ""


def test_mutations_of_a_simulated_switch() -> None:
    evidence = device(kind=SWITCH, mode=1).attest(NONCE)

    def judge(report: bytes) -> None:
        verified(msgspec.structs.replace(evidence, report=report))

    tally = run(judge, mutations(evidence.report, signed=[(0, len(evidence.report))], flips=1000))
    assert tally.tried >= 1500
    assert tally.accepted == 0
