from __future__ import annotations

import msgspec
import pytest

from blindai.attestation.result import STEPS, AttestationResult, Checklist, Mode, Status
from blindai.channel.binding import _MISMATCHES, ConnectionBinding
from blindai.channel.statement import Role, Statement

OWN = Statement(
    role=Role.SERVER,
    nonce="01" * 32,
    ekm="02" * 32,
    spki_sha256="03" * 32,
    keyset_digest="04" * 32,
    devices_digest="05" * 32,
    config_digest="06" * 32,
)


@pytest.mark.parametrize("field", _MISMATCHES)
def test_the_field_that_differs_is_named(field: str) -> None:
    claimed = msgspec.structs.replace(OWN, **{field: Role.CLIENT if field == "role" else "ff" * 32})
    error = ConnectionBinding(OWN, claimed).refusal(claimed.report_data)
    code, message, likely = _MISMATCHES[field]
    assert (error.code, error.step, error.message, error.likely) == (code, "binding", message, likely)
    assert (error.expected, error.got) == (getattr(OWN, field), getattr(claimed, field))


def test_of_several_the_worst_is_named() -> None:
    """A man in the middle has another key and another session: it is the key that tells."""
    claimed = msgspec.structs.replace(OWN, ekm="ff" * 32, spki_sha256="ff" * 32, config_digest="ff" * 32)
    assert ConnectionBinding(OWN, claimed).refusal(claimed.report_data).code == "binding.key"


@pytest.mark.parametrize(
    ("claimed", "got"),
    [
        (None, bytes(64)),
        (OWN, bytes(64)),
        (msgspec.structs.replace(OWN, ekm="ff" * 32), bytes(64)),
        (msgspec.structs.replace(OWN, v=2), msgspec.structs.replace(OWN, v=2).report_data),
    ],
    ids=["no statement", "the right one", "one that evidence does not commit to", "another version"],
)
def test_a_statement_that_explains_nothing_is_not_believed(claimed: Statement | None, got: bytes) -> None:
    error = ConnectionBinding(OWN, claimed).refusal(got)
    assert (error.code, error.step) == ("binding.report_data", "binding")
    assert (error.expected, error.got) == (OWN.report_data.hex(), got.hex())


def test_what_is_required_is_this_ends_own() -> None:
    claimed = msgspec.structs.replace(OWN, ekm="ff" * 32)
    assert ConnectionBinding(OWN, claimed).report_data == OWN.report_data


def test_every_field_of_a_statement_has_words() -> None:
    assert set(_MISMATCHES) == set(Statement.__struct_fields__) - {"v"}


def test_a_refusal_after_the_appraisal_turns_the_verdict() -> None:
    from blindai.channel.binding import unbound

    checks = Checklist()
    for step in STEPS:
        with checks.check(step):
            pass
    accepted = AttestationResult(
        status=Status.AFFIRMING, checks=checks.checks, mode=Mode.FRESH, policy_digest="", keyset_digest="ab"
    )
    error = unbound(accepted, "no", code="binding.key", expected="aa" * 32, got="bb" * 32)
    assert error.result is not None
    assert error.result.status is Status.CONTRAINDICATED
    assert [check.step for check in error.result.checks if check.outcome == "FAIL"] == ["binding"]
    assert error.result.tally() == (len(STEPS) - 1, len(STEPS))
    assert (error.expected, error.got) == ("aaaa..aa", "bbbb..bb")
