"""What a consumer is told of a lease, on the wire."""

from __future__ import annotations

import msgspec

from blindai.enclave.lease.state import Phase
from blindai.wire.lease import STATES, LeaseRequest, ModelLease


def test_it_survives_the_way() -> None:
    lease = ModelLease("acme/model", "serving", used=3, budget=5, request=LeaseRequest("request-1", "pending"))
    assert msgspec.json.decode(msgspec.json.encode(lease), type=ModelLease) == lease
    assert lease.left == 2


def test_what_is_empty_is_left_out_and_what_is_newer_ignored() -> None:
    assert msgspec.json.encode(ModelLease("a/b", "waiting")) == b'{"model":"a/b","state":"waiting"}'
    newer = b'{"model":"a/b","state":"serving","colour":"red","used":9,"budget":5}'
    assert msgspec.json.decode(newer, type=ModelLease).left == 0


def test_the_states_are_those_of_the_enclave() -> None:
    assert set(STATES) == set(Phase)
