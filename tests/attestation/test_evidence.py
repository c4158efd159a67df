from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.attestation.evidence import MAX_EVIDENCE_BYTES, TEE, Evidence, IntelCollateral
from blindai.errors import AttestationError

COLLATERAL = IntelCollateral(**{field: field for field in IntelCollateral.__struct_fields__})
EVIDENCE = Evidence(tee=TEE.INTEL_TDX, quote=b"\x00\xffquote", intel_collateral=COLLATERAL)


def refused(data: bytes, code: str) -> AttestationError:
    with pytest.raises(AttestationError) as caught:
        Evidence.decode(data)
    assert (caught.value.step, caught.value.code) == ("evidence", code)
    return caught.value


def edited(**fields: Any) -> bytes:
    return json.dumps(json.loads(EVIDENCE.encode()) | fields).encode()


COLLATERALS = st.builds(
    IntelCollateral,
    **{field: st.text(max_size=20) for field in IntelCollateral.__struct_fields__ if not field.startswith("pck_cert")},
    pck_certificate_chain=st.none() | st.text(max_size=20),
)


@given(st.builds(Evidence, tee=st.sampled_from(TEE), quote=st.binary(), intel_collateral=st.none() | COLLATERALS))
def test_what_is_encoded_decodes_to_the_same(evidence: Evidence) -> None:
    assert Evidence.decode(evidence.encode()) == evidence


@given(st.binary() | st.text().map(str.encode))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    refused(data, "evidence.malformed")


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_arbitrary_json_is_refused(value: object) -> None:
    refused(json.dumps(value).encode(), "evidence.malformed")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        edited(tee="amd-sev"),
        edited(tee=1),
        edited(tee=None),
        edited(quote=7),
        edited(quote="not base64!"),
        edited(quote=None),
        edited(extra=1),
        edited(intel_collateral={}),
        edited(intel_collateral=msgspec.to_builtins(COLLATERAL) | {"extra": ""}),
        edited(intel_collateral=msgspec.to_builtins(COLLATERAL) | {"tcb_info": {}}),
        EVIDENCE.encode() + b"{}",
        EVIDENCE.encode()[:-1],
        b"\xef\xbb\xbf" + EVIDENCE.encode(),
        b'{"tee":"\xff"}',
        b"[" * 100_000,
        b'{"tee":' * 100_000,
    ],
)
def test_malformed_evidence(data: bytes) -> None:
    assert refused(data, "evidence.malformed").got


def test_evidence_that_is_too_large() -> None:
    data = b" " * (MAX_EVIDENCE_BYTES + 1)
    assert refused(data, "evidence.too_large").got == f"{len(data)} bytes"


def test_evidence_as_large_as_allowed() -> None:
    data = EVIDENCE.encode()
    assert Evidence.decode(data + b" " * (MAX_EVIDENCE_BYTES - len(data))) == EVIDENCE
