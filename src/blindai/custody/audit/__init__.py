"""The audit of a lease's log: everything in it verified again, offline, by whoever has the file."""

from blindai.custody.audit.auditor import UNKNOWABLE, Audit, audit
from blindai.custody.audit.findings import Finding
from blindai.custody.audit.instances import State

__all__ = ["UNKNOWABLE", "Audit", "Finding", "State", "audit"]
