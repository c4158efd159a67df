"""One custodian process of several on one database: an enclave renews and spends until the budget or its time is up.

It is told on its standard input, in one line of JSON, which database, whose keys and which lease. For every answer that
it has, and so may act upon, it prints the digest of the grant and the units that it was given.
"""

from __future__ import annotations

import json
import sys

from blindai.custody.keys import CustodianKeys
from blindai.custody.ledger import Ledger
from blindai.errors import Unavailable
from blindai.web.database import Database
from lending import Instance


def main() -> None:
    told = json.loads(sys.stdin.readline())
    database = Database.open(told["database"])
    keys = CustodianKeys(bytes.fromhex(told["seed"]), bytes.fromhex(told["wrapping"]))
    instance = Instance(Ledger(database, keys), told["lease"], keys.public_key).admit()
    _say("ready")
    sys.stdin.readline()
    for _ in range(told["renewals"]):
        try:
            answer = instance.renew({"alice": 3}, key=True)
        except Unavailable as error:
            _say(error.code)
            continue
        units = answer.grant.quantities.get("alice", 0)
        _say(f"{answer.grant.digest} {units}")
        if instance.held.get("alice"):
            instance.spend("alice", instance.held["alice"])
    database.dispose()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
