"""Consumers and their tokens: signed, revoked by epoch, and kept nowhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from blindai.custody import tables
from blindai.custody.ledger import tokens
from blindai.errors import InvalidInput
from blindai.wire.consumer_token import ConsumerToken
from lending import Custodian


def test_a_new_consumer_gets_a_token_that_the_enclave_can_check(custodian: Custodian) -> None:
    lease = custodian.lend()
    version = custodian.ledger.versions()[lease]
    token = ConsumerToken.verified(custodian.ledger.add_consumer(lease, "bob", 30, by="ann"), custodian.keys.public)
    assert (token.lease, token.consumer, token.epoch) == (lease, "bob", 0)
    assert custodian.ledger.versions()[lease] > version
    assert [(account.consumer, account.budget) for account in custodian.ledger.lease(lease).accounts] == [
        ("alice", None),
        ("bob", 30),
    ]
    assert custodian.kinds(lease) == ["consumer.added", "token.issued"]
    assert custodian.instance(lease).renew({"bob": 1}).grant.consumers == {"alice": 0, "bob": 0}


def test_tokens_are_revoked_by_their_epoch(custodian: Custodian) -> None:
    lease = custodian.lend()
    before = ConsumerToken.verified(custodian.ledger.issue_token(lease, "alice", by="ann"), custodian.keys.public)
    version = custodian.ledger.versions()[lease]
    custodian.ledger.revoke_tokens(lease, "alice", by="ann")
    assert custodian.ledger.versions()[lease] > version
    lowest = custodian.instance(lease).renew().grant.consumers["alice"]
    after = ConsumerToken.verified(custodian.ledger.issue_token(lease, "alice", by="ann"), custodian.keys.public)
    assert before.epoch < lowest == after.epoch
    assert custodian.last(lease).kind == "token.issued"
    assert custodian.ledger.lease(lease).accounts[0].token_epoch == 1


def test_a_token_is_kept_nowhere(custodian: Custodian) -> None:
    lease = custodian.lend()
    token = custodian.ledger.add_consumer(lease, "bob", None, by="ann")
    with custodian.database.read() as connection:
        for table in tables.metadata.sorted_tables:
            for row in connection.execute(sa.select(table)):
                assert token[10:60] not in str(tuple(row))
    assert token[10:60] not in json.dumps(list(custodian.ledger.export(lease)))


@pytest.mark.parametrize("name", ["", "Alice", "a b", "-a", "x" * 64, "ä", None])
def test_a_name_that_is_none_is_refused(custodian: Custodian, name: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.add_consumer(custodian.lend(), name, None, by="ann")
    assert refused.value.code == "lease.consumers"


@pytest.mark.parametrize(("budget", "code"), [(0, "amount.zero"), (-1, "amount.negative"), (2**70, "amount.too_large")])
def test_a_budget_that_is_none_is_refused(custodian: Custodian, budget: int, code: str) -> None:
    lease = custodian.lend()
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.add_consumer(lease, "bob", budget, by="ann")
    assert refused.value.code == code
    assert custodian.kinds(lease) == []


@pytest.mark.parametrize("budget", [None, 1])
def test_no_single_operator_gives_away_by_a_new_name_what_takes_two(custodian: Custodian, budget: int | None) -> None:
    lease = custodian.lend(approvals=2)
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.add_consumer(lease, "bob", budget, by="ann")
    assert refused.value.code == "lease.consumer_budget"
    custodian.ledger.add_consumer(lease, "bob", 0, by="ann")
    assert custodian.ledger.raise_budget(lease, consumer="bob", amount=5, by="ann") is not None
    assert {account.consumer: account.budget for account in custodian.ledger.lease(lease).accounts}["bob"] == 0


def test_a_consumer_is_added_once(custodian: Custodian) -> None:
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.add_consumer(custodian.lend(), "alice", None, by="ann")
    assert refused.value.code == "lease.consumer_exists"


def test_a_lease_has_so_many_consumers_and_no_more(custodian: Custodian, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_CONSUMERS", 2)
    lease = custodian.lend()
    custodian.ledger.add_consumer(lease, "bob", None, by="ann")
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.add_consumer(lease, "carol", None, by="ann")
    assert refused.value.code == "lease.consumers"


def test_a_stranger_gets_no_token(custodian: Custodian) -> None:
    lease = custodian.lend()
    for act in (custodian.ledger.issue_token, custodian.ledger.revoke_tokens):
        with pytest.raises(InvalidInput) as refused:
            act(lease, "mallory", by="ann")
        assert refused.value.code == "lease.consumer"


def test_a_lease_open_to_anyone_has_no_tokens(custodian: Custodian) -> None:
    lease = custodian.lend(open_to_anyone=True)
    for act in (
        lambda: custodian.ledger.add_consumer(lease, "bob", None, by="ann"),
        lambda: custodian.ledger.issue_token(lease, "", by="ann"),
        lambda: custodian.ledger.revoke_tokens(lease, "", by="ann"),
    ):
        with pytest.raises(InvalidInput) as refused:
            act()
        assert refused.value.code == "lease.open"
