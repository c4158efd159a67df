"""The JSON interface of the control plane (`wire.cloud_api`), for the command line and the SDK."""

from blindai.cloud.api.addresses import ADDRESSES
from blindai.cloud.api.application import routes

__all__ = ["ADDRESSES", "routes"]
