"""The certificates that a host hands to an SEV-SNP guest with its report.

Source: AMD, SEV-ES Guest-Hypervisor Communication Block Standardization (56421) 2.03, section 4.1.8.1: entries of GUID
(16 bytes, in the order in which a GUID is written), offset and length (4 bytes each, little-endian; the offset from
the start of the table), closed by an entry of zeros. The host wrote it: nothing in it is believed here.
"""

from __future__ import annotations

import struct
from uuid import UUID

from blindai.attestation.evidence import AmdEndorsements
from blindai.errors import Unavailable

VCEK = UUID("63da758d-e664-4564-adc5-f4b93be8accd")
VLEK = UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
ASK = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")  # beside a VLEK, the ASVK
ARK = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")
CRL = UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea")

# Hosts add entries of their own, but never many.
MAX_ENTRIES = 32

_ENTRY = struct.Struct("<16sII")


def parse(table: bytes) -> dict[UUID, bytes]:
    """The entries by GUID; those of unknown kinds too. An empty table is one without entries.

    Raises:
        Unavailable: `attester.certificate_table`; an entry lies outside of the table or over its head, a kind comes
            twice, there are too many, or the closing entry is missing.
    """
    places: dict[UUID, tuple[int, int]] = {}
    end = 0
    while table:
        if len(table) - end < _ENTRY.size or len(places) > MAX_ENTRIES:
            raise _malformed(f"no closing entry among the first {len(places)}")
        guid, offset, length = _ENTRY.unpack_from(table, end)
        end += _ENTRY.size
        if not any(guid):
            break
        if (kind := UUID(bytes=guid)) in places:
            raise _malformed(f"two entries of kind {kind}")
        places[kind] = (offset, length)
    for kind, (offset, length) in places.items():
        if offset < end or offset + length > len(table):
            raise _malformed(f"entry {kind} lies at {offset} to {offset + length} of {len(table)} bytes")
    return {kind: table[offset : offset + length] for kind, (offset, length) in places.items()}


def endorsements(table: bytes, *, signing_key: str) -> AmdEndorsements | None:
    """What the table holds for the key that signed a report; None without that key's certificate.

    Hosts may hand out that certificate alone: then `authority` and `root`, which AMD publishes, are empty, and are put
    in before the evidence is sent (`attestation.collateral`).

    Args:
        table: the table; empty where the host gave none.
        signing_key: `vcek` or `vlek`, as the report says.

    Raises:
        Unavailable: `attester.certificate_table`. See `parse`.
    """
    entries = parse(table)
    certificate = entries.get({"vcek": VCEK, "vlek": VLEK}[signing_key])
    if not certificate:
        return None
    return AmdEndorsements(
        certificate=certificate,
        authority=entries.get(ASK, b""),
        root=entries.get(ARK, b""),
        crl=entries.get(CRL) or None,
    )


def _malformed(what: str) -> Unavailable:
    return Unavailable(
        f"the host's table of SEV-SNP certificates is malformed: {what}",
        code="attester.certificate_table",
        hint="have the host's certificate table repaired or emptied",
    )
