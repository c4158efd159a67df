"""One control plane process of two on one database: it does what its script of random operations says, and says so.

It is told on its standard input, in one line of JSON, which database, which accounts and users, which enclaves it
hears, and the seed of its script. Each operation is a line before it begins and a line when it is done or refused, so
that what was under way in a process that was killed is known.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from account_world import SITE, ListMailer
from blindai.cloud.accounts import Accounts, Role, invitations
from blindai.cloud.fleet import Fleet
from blindai.errors import BlindAIError
from blindai.web.database import Database
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import AuthorisationRequest, ModelListing, Report, UsageTotal
from blindai.wire.cloud_api import NewKey

Entry = list[str]

# How often each operation comes, of 100.
SHARES = {"create": 24, "revoke": 14, "invite": 16, "remove": 6, "role": 8, "report": 16, "shared": 16}

# A share of the reports is sent twice, as after a lost answer.
REPEATED = 0.3


@dataclass
class Enclave:
    """One that reports to this process: its totals only grow.

    Attributes:
        queries: by account and key id.
        models: versions of the model of each account.
    """

    instance: str
    queries: dict[tuple[str, str], int]
    models: dict[str, int]


class Worker:
    """Carries out operations; each returns what the log must have of it."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.chance = random.Random(told["seed"])
        self.organisations: dict[str, str] = told["organisations"]
        self.users: dict[str, str] = told["users"]
        self.shared: str = told["shared"]
        self.steps = 0
        self.mail = ListMailer()
        database = Database.open(told["database"])
        self.accounts = Accounts(database, self.mail, SITE)
        self.fleet = Fleet(database, lambda message: message[:64].ljust(64), public_key="")
        self.own = Enclave(told["instance"], {}, {})
        self.made: list[tuple[str, ApiKey]] = []

    def create(self) -> list[Entry]:
        namespace = self._organisation()
        # By one who is a member at this moment, but may be none, or a viewer, when the key is made.
        members = self.accounts.members(self.organisations[namespace], namespace)
        user = self.chance.choice(members).user
        created = self.accounts.create_key(user, namespace, NewKey(name="a key"))
        key = ApiKey.parse(created.api_key)
        self.made.append((namespace, key))
        self._authorise(key)
        return [[namespace, user, "key.created", key.id]]

    def revoke(self) -> list[Entry]:
        namespace, key = self.chance.choice(self.made) if self.made else ("", ApiKey.new())
        self.accounts.revoke_key(self.organisations.get(namespace, ""), namespace, key.id)
        if self._authorise(key):
            raise AssertionError("a key that was revoked is in force")
        return [[namespace, "", "key.revoked", key.id]]

    def invite(self) -> list[Entry]:
        namespace, user = self._organisation(), self._user()
        role = self.chance.choice(list(Role)[:2])
        admin, email = self.organisations[namespace], self.users[user]
        self.accounts.invite(admin, namespace, email, role)
        link = re.search(r"link=(\S+)", self.mail.sent[-1].text)
        invited = [namespace, admin, "member.invited", f"{role.value} {email}"]
        if link is None or self.chance.random() < 0.1:
            return [invited]
        try:
            self.accounts.accept(user, link[1])
        except BlindAIError as error:
            # The other process has sent another invitation to the same address, or that one was accepted.
            if error.code not in {"account.invitation", "account.member"}:
                raise
            return [invited]
        return [invited, [namespace, user, "member.joined", role.value]]

    def remove(self) -> list[Entry]:
        namespace, user = self._organisation(), self._user()
        admin = self.organisations[namespace]
        self.accounts.remove_member(admin, namespace, user)
        return [[namespace, admin, "member.removed", user]]

    def role(self) -> list[Entry]:
        namespace, user = self._organisation(), self._user()
        admin, role = self.organisations[namespace], self.chance.choice(list(Role)[:2])
        self.accounts.set_role(admin, namespace, user, role)
        return [[namespace, admin, "member.role", f"{role.value} {user}"]]

    def report(self) -> list[Entry]:
        """The enclave that only this process hears: more queries, and another version of a model."""
        namespace = self._organisation()
        holder = (namespace, self.made[-1][1].id if self.made else "bai_sk_00000000")
        queries = self.own.queries | {holder: self.own.queries.get(holder, 0) + self.chance.randint(1, 9)}
        version = self.own.models.get(namespace, 0) + 1
        listing = ModelListing(namespace=namespace, name="model", version=version, bytes=version)
        told = Report(
            totals=tuple(UsageTotal(namespace=ns, key_id=key, queries=count) for (ns, key), count in queries.items()),
            models=(listing, *_withdrawn(listing)),
        )
        self._send(self.own.instance, told)
        self.own.queries, self.own.models = queries, self.own.models | {namespace: version}
        return [[namespace, holder[1], "report", f"{queries[holder]} {version}"]]

    def report_shared(self) -> list[Entry]:
        """The enclave that both processes hear, each all of its reports: one of them comes second, or too late."""
        self.steps += 1
        namespace = min(self.organisations)
        listing = ModelListing(namespace=namespace, name="shared", version=self.steps)
        told = Report(
            totals=(UsageTotal(namespace=namespace, key_id="bai_sk_shared00", queries=10 * self.steps),),
            models=(listing, *_withdrawn(listing)),
        )
        self._send(self.shared, told)
        return [[namespace, "bai_sk_shared00", "report", f"{10 * self.steps} {self.steps}"]]

    def operations(self, count: int) -> None:
        """Do so many operations, and say of each how it went."""
        does: dict[str, Callable[[], list[Entry]]] = {
            "create": self.create,
            "revoke": self.revoke,
            "invite": self.invite,
            "remove": self.remove,
            "role": self.role,
            "report": self.report,
            "shared": self.report_shared,
        }
        for _ in range(count):
            [name] = self.chance.choices(list(SHARES), list(SHARES.values()))
            _say({"begin": name})
            try:
                entries = does[name]()
            except BlindAIError as error:
                _say({"refused": name, "code": error.code})
            else:
                _say({"done": name, "entries": entries})

    def _send(self, instance: str, told: Report) -> None:
        self.fleet.report(instance, told)
        if self.chance.random() < REPEATED:
            try:
                self.fleet.report(instance, told)
            except BlindAIError as error:
                # The other process was told of more meanwhile.
                if instance != self.shared or error.code != "fleet.totals":
                    raise

    def _authorise(self, key: ApiKey) -> bool:
        asked = AuthorisationRequest(nonce="00" * 32, keys=(key.digest,))
        return bool(self.fleet.authorise(self.own.instance, asked).assertions)

    def _organisation(self) -> str:
        return self.chance.choice(list(self.organisations))

    def _user(self) -> str:
        return self.chance.choice(list(self.users))


def _withdrawn(listing: ModelListing) -> tuple[ModelListing, ...]:
    """The version before `listing`, as one that is there no more."""
    if listing.version == 1:
        return ()
    return (ModelListing(namespace=listing.namespace, name=listing.name, version=listing.version - 1, deleted=True),)


def main() -> None:
    told = json.loads(sys.stdin.readline())
    worker = Worker(told)
    _say("ready")
    sys.stdin.readline()
    # An account may send few mails on one day, and this is one day.
    with patch.object(invitations, "MAX_MAILS_PER_DAY", 10_000):
        worker.operations(told["operations"])


def _say(line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
