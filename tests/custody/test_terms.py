"""The terms of a lease: everything is checked before anything is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blindai.custody.terms import DEFAULT_SOFT_MS, DEFAULT_TTL_MS
from blindai.errors import ConfigurationError, InvalidInput
from blindai.wire.custody import MAX_AMOUNT, MAX_CONSUMERS, Unit
from lending import POLICY, terms


def test_the_defaults_are_a_dead_mans_switch_of_a_minute(tmp_path: Path) -> None:
    made = terms(tmp_path)
    assert (made.soft_ms, made.ttl_ms) == (DEFAULT_SOFT_MS, DEFAULT_TTL_MS) == (45_000, 60_000)
    assert (made.max_instances, made.approvals, made.unit) == (1, 1, Unit.QUERIES)


def test_each_consumer_has_an_account(tmp_path: Path) -> None:
    assert terms(tmp_path, consumers={"alice": 5, "bob": None}).accounts == {"alice": 5, "bob": None}
    assert terms(tmp_path, consumers={}).accounts == {}


def test_a_lease_open_to_anyone_has_one_account(tmp_path: Path) -> None:
    assert terms(tmp_path, open_to_anyone=True).accounts == {"": None}


def test_a_policy_that_lists_processors_needs_no_leave(tmp_path: Path) -> None:
    chips = f'\n[chips]\nallowed = ["{"11" * 16}"]\n'
    assert terms(tmp_path, policy=POLICY + chips, any_chip=False).appraisal_policy().chips == ("11" * 16,)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"name": ""}, "lease.name"),
        ({"name": "  "}, "lease.name"),
        ({"name": "x" * 101}, "lease.name"),
        ({"name": "two\nlines"}, "lease.name"),
        ({"name": 7}, "lease.name"),
        ({"borrower": ""}, "lease.borrower"),
        ({"model_id": "model"}, "lease.model_id"),
        ({"model_id": "Acme/model"}, "lease.model_id"),
        ({"model_id": "acme/../model"}, "lease.model_id"),
        ({"model_id": "acme/a..b"}, "lease.model_id"),
        ({"model_digest": "5E" * 32}, "lease.model_digest"),
        ({"model_digest": "5e" * 31}, "lease.model_digest"),
        ({"unit": Unit.TOKENS}, "lease.unit"),
        ({"unit": Unit.SECONDS}, "lease.unit"),
        ({"unit": Unit.EPOCHS}, "lease.unit"),
        ({"soft_ms": 60_000}, "lease.time"),
        ({"soft_ms": 299}, "lease.time"),
        ({"soft_ms": -1}, "lease.time"),
        ({"ttl_ms": 24 * 3600 * 1000 + 1}, "lease.time"),
        ({"ttl_ms": 60_000.0}, "lease.time"),
        ({"soft_ms": True}, "lease.time"),
        ({"tranche_max": 0}, "lease.tranche_max"),
        ({"tranche_max": MAX_AMOUNT + 1}, "lease.tranche_max"),
        ({"tranche_max": "10"}, "lease.tranche_max"),
        ({"max_instances": 0}, "lease.max_instances"),
        ({"max_instances": 1001}, "lease.max_instances"),
        ({"approvals": 0}, "lease.approvals"),
        ({"approvals": 17}, "lease.approvals"),
        ({"approvals": True}, "lease.approvals"),
        ({"consumers": {"alice": 1}, "open_to_anyone": True}, "lease.consumers"),
        ({"consumers": {f"c{number}": None for number in range(MAX_CONSUMERS + 1)}}, "lease.consumers"),
        ({"any_chip": False}, "lease.chips"),
        ({"policy": "version = 1"}, "policy.missing_key"),
        ({"policy": POLICY + "allow_debug = true"}, "policy.unknown_key"),
    ],
)
def test_terms_that_are_wrong_are_refused(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        terms(tmp_path, **changes)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"budget": 0}, "amount.zero"),
        ({"budget": -5}, "amount.negative"),
        ({"budget": MAX_AMOUNT + 1}, "amount.too_large"),
        ({"budget": "100"}, "amount.type"),
        ({"budget": 1e3}, "amount.type"),
        ({"budget": None}, "amount.type"),
        ({"consumers": {"alice": 0}}, "amount.zero"),
        ({"consumers": {"alice": 1.5}}, "amount.type"),
        ({"consumers": {"": None}}, "lease.consumers"),
        ({"consumers": {"Alice": None}}, "lease.consumers"),
        ({"consumers": {"../alice": None}}, "lease.consumers"),
        ({"consumers": {"x" * 64: None}}, "lease.consumers"),
    ],
)
def test_amounts_and_names_that_are_none_are_refused(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        terms(tmp_path, **changes)
    assert refused.value.code == code


def test_the_largest_terms_are_taken(tmp_path: Path) -> None:
    made = terms(
        tmp_path,
        budget=MAX_AMOUNT,
        consumers={f"c{number}": MAX_AMOUNT for number in range(MAX_CONSUMERS)},
        soft_ms=24 * 3600 * 1000 - 1,
        ttl_ms=24 * 3600 * 1000,
        tranche_max=MAX_AMOUNT,
        max_instances=1000,
        approvals=16,
    )
    assert len(made.accounts) == MAX_CONSUMERS
