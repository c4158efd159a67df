"""The record of a gate: what a peer claims in it can refuse a verdict, and never break one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from blindai.attestation.result import Status
from blindai.channel import gate
from blindai.channel.keyset import PrivateKeyset
from blindai.channel.saved_evidence import SavedEvidence, Verdict
from blindai.channel.statement import NO_DEVICES, Role, Statement
from blindai.channel.transcript import Transcript
from blindai.errors import InvalidInput

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


def saved() -> SavedEvidence:
    keyset = PrivateKeyset(NOW).public
    statement = Statement(Role.SERVER, "00" * 32, "11" * 32, "22" * 32, keyset.digest, NO_DEVICES, "33" * 32)
    transcript = Transcript(
        at=NOW, statement=statement, claimed=statement, keyset=keyset, config={}, evidence=msgspec.Raw(b"{}")
    )
    return SavedEvidence(blindai="0", address="https://h:1", verdict=Verdict(Status.AFFIRMING), gate=transcript)


def test_a_file_reads_back_as_it_was_written() -> None:
    record = saved()
    again = SavedEvidence.decode(record.encode())
    assert again.encode() == record.encode()
    assert again.gate.statement.report_data == record.gate.statement.report_data


@pytest.mark.parametrize("part", ["statement", "claimed"])
@pytest.mark.parametrize(
    "change",
    [{"nonce": "zz" * 32}, {"ekm": "\xe9" * 64}, {"spki_sha256": ""}, {"devices_digest": "\ud800"}, {"v": 2**60}],
)
def test_a_statement_that_cannot_be_encoded_is_no_statement(part: str, change: dict[str, Any]) -> None:
    content = json.loads(saved().encode())
    content["gate"][part] |= change
    with pytest.raises(InvalidInput, match="no saved evidence") as caught:
        SavedEvidence.decode(json.dumps(content).encode())
    assert caught.value.code == "input.saved_evidence"


@pytest.mark.parametrize("change", [{"nonce": "\xe9" * 64}, {"v": 2**60}, {"v": -1}])
def test_nor_can_a_peer_claim_one(change: dict[str, Any]) -> None:
    record = saved().gate
    claimed = msgspec.to_builtins(record.statement) | change
    answer = {"v": 1, "mode": "fresh", "keyset": record.keyset, "config": {}, "statement": claimed, "evidence": {}}
    with pytest.raises(msgspec.ValidationError):
        gate.fresh_decoder.decode(msgspec.json.encode(answer))
