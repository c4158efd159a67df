from __future__ import annotations

import dcap_qvl
from tests.attestation.simulation import healthy

from blindai.attestation.simulated.certificates import (
    PlatformIdentity,
    digest,
    pem,
)


def test_the_sgx_extension_says_what_the_platform_is() -> None:
    pki = healthy().pki
    parsed = dcap_qvl.parse_pck_extension_from_pem(pem(pki.pck.certificate).encode())
    identity: PlatformIdentity = pki.identity
    assert parsed.ppid == identity.ppid
    assert parsed.cpu_svn == identity.cpu_svn
    assert parsed.pce_svn == identity.pce_svn
    assert parsed.pce_id == identity.pce_id
    assert parsed.fmspc == identity.fmspc
    assert parsed.platform_instance_id == identity.platform_instance_id
    assert parsed.sgx_type == 1
    assert parsed.get_value("1.2.840.113741.1.13.1.2.5") == bytes([identity.cpu_svn[4]])


def test_made_up_measurements_have_the_size_of_their_register() -> None:
    assert len(digest("x")) == 32
    assert len(digest("x", 48)) == 48
    assert digest("x") != digest("y")
