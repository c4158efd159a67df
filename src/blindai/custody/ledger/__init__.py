"""The ledger of a custodian: leases, accounts, instances, grants, records, requests, and the log of all that."""

from blindai.custody.ledger.ledger import Ledger

__all__ = ["Ledger"]
