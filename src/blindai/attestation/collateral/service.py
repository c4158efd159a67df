"""Where endorsements are asked for: Intel's PCS or an own PCCS, AMD's KDS or a mirror of it."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

import msgspec

from blindai.attestation.anchors import AMD_TEES, INTEL_TEES
from blindai.attestation.evidence import TEE
from blindai.errors import ConfigurationError

INTEL_PCS = "https://api.trustedservices.intel.com"
AMD_KDS = "https://kdsintf.amd.com"

# Intel's own service has no path for this list: its address stands in the root certificate (CRLDistributionPoints).
INTEL_ROOT_CRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"

# Configurations of Intel's quote provider library (sgx_default_qcnl.conf) name a PCCS with this path.
_PCCS_PATH = "/sgx/certification/v4"


class Services(msgspec.Struct, frozen=True):
    """The address of each maker's service, without a slash at its end.

    Attributes:
        intel: speaks version 4 of the PCS API.
        amd: speaks version 1 of the KDS interface.
    """

    intel: str = INTEL_PCS
    amd: str = AMD_KDS

    @classmethod
    def at(cls, url: str, tee: TEE) -> Self:
        """`url` in place of the service that endorses `tee`.

        `https` is meant where no scheme is given. `http` may be written out: what comes is signed, so that whoever
        listens learns which processor it is about, and whoever interferes can only withhold it.

        Raises:
            ConfigurationError: `collateral.url`; this is no address, or the TEE needs no such service.
        """
        address = _address(url)
        if tee in INTEL_TEES:
            return cls(intel=address)
        if tee in AMD_TEES:
            return cls(amd=address)
        raise ConfigurationError(
            f"evidence of {tee} needs no collateral service", code="collateral.url", hint="leave --collateral-url out"
        )

    def intel_root_crl(self) -> str:
        """The address of the root CA's revocation list."""
        return INTEL_ROOT_CRL if self.intel == INTEL_PCS else f"{self.intel}{_PCCS_PATH}/rootcacrl"


def _address(url: str) -> str:
    whole = url if "://" in url else f"https://{url}"
    try:
        parts = urlsplit(whole)
        good = bool(parts.hostname) and parts.scheme in {"http", "https"} and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username is not None or not whole.isprintable():
        raise ConfigurationError(
            f"this is not the address of a collateral service: {url!r}",
            code="collateral.url",
            hint="give it as https://host:port",
        )
    return whole.rstrip("/").removesuffix(_PCCS_PATH)
