"""The enclaves of a cloud: which there are, what they are told of keys, and what they report."""

from blindai.cloud.fleet.fleet import Fleet
from blindai.cloud.fleet.instances import InstanceView

__all__ = ["Fleet", "InstanceView"]
