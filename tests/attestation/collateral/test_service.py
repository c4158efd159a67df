from __future__ import annotations

import pytest

from blindai.attestation.collateral.service import AMD_KDS, INTEL_PCS, Services
from blindai.attestation.evidence import TEE
from blindai.errors import ConfigurationError


def test_the_makers_own_services() -> None:
    services = Services()
    assert (services.intel, services.amd) == (INTEL_PCS, AMD_KDS)
    assert services.intel_root_crl() == "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("pccs.example:8081", "https://pccs.example:8081"),
        ("https://pccs.example/", "https://pccs.example"),
        ("https://pccs.example/sgx/certification/v4/", "https://pccs.example"),
        ("http://127.0.0.1:8081/mirror", "http://127.0.0.1:8081/mirror"),
        ("https://[::1]:8081", "https://[::1]:8081"),
    ],
)
def test_an_own_service(given: str, meant: str) -> None:
    services = Services.at(given, TEE.INTEL_TDX)
    assert (services.intel, services.amd) == (meant, AMD_KDS)
    assert services.intel_root_crl() == f"{meant}/sgx/certification/v4/rootcacrl"
    assert Services.at(given, TEE.AZURE_SEV_SNP) == Services(amd=meant)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://",
        "ftp://pccs.example",
        "file:///etc/passwd",
        "https://user:word@pccs.example",
        "https://pccs.example?key=1",
        "https://pccs.example#part",
        "https://pccs.example:0",
        "https://pccs.example:99999",
        "https://[::1",
        "https://pccs.example/\nx",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Services.at(url, TEE.INTEL_SGX)
    assert caught.value.code == "collateral.url"


def test_a_tee_that_needs_none() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Services.at("https://pccs.example", TEE.TPM)
    assert caught.value.code == "collateral.url"
