"""The report of an NVIDIA GPU or NVSwitch: an SPDM GET_MEASUREMENTS request and the signed response to it.

Nothing here is verified: `nvidia` does that.

Sources: DMTF DSP0274 (SPDM) 1.1.0, section "GET_MEASUREMENTS request and MEASUREMENTS response messages"; the numbers
of the opaque fields are those of NVIDIA's nvtrust.
"""

from __future__ import annotations

import msgspec

from blindai.attestation.claims import Location
from blindai.attestation.evidence import DeviceKind
from blindai.errors import AttestationError

# A GH100 reports 4117 bytes. The driver's buffer has 8 KB (NVML_CC_GPU_ATTESTATION_REPORT_SIZE).
MAX_REPORT_BYTES = 8192

REQUEST_BYTES = 37
REQUEST_NONCE = Location("report", 4, 36)
NONCE_BYTES = 32
SIGNATURE_BYTES = 96  # r and s of ECDSA on P-384, 48 bytes each, big-endian
FWID_BYTES = 48  # SHA-384

VERSION = 0x11  # SPDM 1.1
GET_MEASUREMENTS = 0xE0
MEASUREMENTS = 0x60
SIGNATURE_REQUESTED = 0x01
ALL_BLOCKS = 0xFF
DMTF = 0x01  # MeasurementSpecification: the format of DSP0274

# Numbers of opaque fields. A field without a name here is signed as the others are, and not read.
DRIVER, FIRMWARE, FWID, PROTECTED_PCIE, FEATURES = 3, 6, 20, 21, 36

_VALUE_HEAD_BYTES = 3

_FEATURES = {0: "single", 1: "multi", 2: "protected-pcie"}
_PROTECTED_PCIE = {0xAA: "protected-pcie", 0x55: "single"}


class UnverifiedReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the report says.

    Attributes:
        nonce: 32 bytes that the device was asked to sign.
        measurements: index, counted from 1, to lower-case hex.
        driver, firmware: as versions are written on screens: `550.90.07`, `96.00.9F.00.01`.
        fwid: SHA-384 of the firmware that made the response; empty where the report names none.
        mode: `single`, `multi` or `protected-pcie`; empty where the report does not say.
        signed: everything before the signature.
        signature: r and s.
        locations: where `nonce`, `driver`, `firmware`, `fwid`, `mode` and `measurement INDEX` stand.
    """

    nonce: bytes
    measurements: dict[int, str]
    driver: str
    firmware: str
    fwid: bytes
    mode: str
    signed: bytes
    signature: bytes
    locations: dict[str, Location]


class _Reader:
    """Takes a report apart from front to back."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        taken = self._data[self.at : self.at + size]
        if len(taken) != size:
            raise _malformed(f"{size} bytes at {self.at}", f"{len(taken)} bytes")
        self.at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")


def parse(report: bytes, kind: DeviceKind) -> UnverifiedReport:
    """Take a report apart. Every byte of it belongs to a field.

    Raises:
        AttestationError: `devices.malformed` or `devices.unsupported`, step `devices`.
    """
    if len(report) > MAX_REPORT_BYTES:
        raise _malformed(f"at most {MAX_REPORT_BYTES} bytes", f"{len(report)} bytes")
    reader = _Reader(report)
    version, request, attributes, blocks = reader.take(4)
    if version != VERSION:
        raise AttestationError(
            "the report is of a version of SPDM that this release does not verify",
            code="devices.unsupported",
            step="devices",
            expected="SPDM 1.1",
            got=f"SPDM {version >> 4}.{version & 0xF}",
        )
    # The device answers what it was asked: a request for fewer blocks would leave measurements out.
    if (request, attributes, blocks) != (GET_MEASUREMENTS, SIGNATURE_REQUESTED, ALL_BLOCKS):
        raise _malformed("a request for all measurements, signed", report[:4].hex())
    nonce = reader.take(NONCE_BYTES)
    reader.take(1)  # the slot of the certificate chain
    version, response, _, _, count = reader.take(5)
    if (version, response) != (VERSION, MEASUREMENTS):
        raise _malformed("measurements", f"a response of type {response:#04x}, version {version:#04x}")
    size = reader.number(3)
    locations = {"nonce": REQUEST_NONCE}
    measurements = _measurements(reader, count, size, locations)
    reader.take(NONCE_BYTES)  # of the device
    fields = _fields(reader, reader.number(2), locations)
    signed = report[: reader.at]
    signature = reader.take(SIGNATURE_BYTES)
    if reader.at != len(report):
        raise _malformed("nothing after the signature", f"{len(report) - reader.at} bytes")
    return UnverifiedReport(
        nonce=nonce,
        measurements=measurements,
        driver=_text(fields.get(DRIVER, b"")),
        firmware=_firmware(fields.get(FIRMWARE, b""), kind),
        fwid=fields.get(FWID, b""),
        mode=_mode(fields),
        signed=signed,
        signature=signature,
        locations=locations,
    )


def _measurements(reader: _Reader, count: int, size: int, locations: dict[str, Location]) -> dict[int, str]:
    measurements: dict[int, str] = {}
    end = reader.at + size
    for _ in range(count):
        index, specification = reader.take(2)
        length = reader.number(2)
        reader.take(1)  # what kind of thing was measured
        value_length = reader.number(2)
        if specification != DMTF or length != _VALUE_HEAD_BYTES + value_length or index in measurements:
            raise _malformed("measurements as DMTF writes them, each once", f"measurement {index}")
        locations[f"measurement {index}"] = Location("report", reader.at, reader.at + value_length)
        measurements[index] = reader.take(value_length).hex()
    if not measurements or reader.at != end:
        raise _malformed(f"measurements of {size} bytes", f"{len(measurements)} that end at {reader.at}, not {end}")
    return measurements


_NAMES = {DRIVER: "driver", FIRMWARE: "firmware", FWID: "fwid", PROTECTED_PCIE: "protected_pcie", FEATURES: "features"}


def _fields(reader: _Reader, size: int, locations: dict[str, Location]) -> dict[int, bytes]:
    """The opaque data: number, length and value of each field. Of the fields that are read, each may stand once."""
    fields: dict[int, bytes] = {}
    end = reader.at + size
    while reader.at < end:
        number, length = reader.number(2), reader.number(2)
        start = reader.at
        value = reader.take(length)
        if number in _NAMES:
            if number in fields:
                raise _malformed("each field once", f"the {_NAMES[number]} twice")
            locations[_NAMES[number]] = Location("report", start, reader.at)
            fields[number] = value
    if reader.at != end:
        raise _malformed(f"opaque data up to byte {end}", f"a field that ends at {reader.at}")
    return fields


def _text(value: bytes) -> str:
    text = value.rstrip(b"\0").decode("ascii", "replace")
    if not text.isprintable() or not text.isascii():
        raise _malformed("a version in ASCII", value.hex())
    return text


def _firmware(value: bytes, kind: DeviceKind) -> str:
    """A switch writes its BIOS version as text. A GPU has a little-endian number of 8 bytes, of which 5 are shown."""
    if kind is DeviceKind.NVIDIA_SWITCH or not value:
        return _text(value)
    if len(value) != 8:
        raise _malformed("a VBIOS version of 8 bytes", f"{len(value)} bytes")
    return ".".join(f"{part:02X}" for part in (*value[3::-1], value[4]))


def _mode(fields: dict[int, bytes]) -> str:
    """Newer firmware names the mode; older only says whether it is Protected PCIe."""
    for number, names in ((FEATURES, _FEATURES), (PROTECTED_PCIE, _PROTECTED_PCIE)):
        if number in fields:
            value = fields[number]
            if not value or (mode := names.get(int.from_bytes(value, "little"))) is None:
                raise _malformed("a mode that is known", value.hex())
            return mode
    return ""


def _malformed(expected: str, got: str) -> AttestationError:
    message = "the report of the device cannot be parsed"
    return AttestationError(message, code="devices.malformed", step="devices", expected=expected, got=got)
