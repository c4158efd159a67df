"""Thousands of changed copies of a TPM's evidence: each is refused in one way, or changes nothing that is signed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import pytest
from tests.attestation import tpm as made
from tests.attestation.tpm import NOW, activation, good, identity_of, quote_of, root, with_identity, with_quote

from blindai.attestation.evidence import Evidence
from blindai.attestation.result import Checklist
from blindai.attestation.simulated.tpm import SimulatedTpm
from blindai.attestation.verifiers import verify
from mutations import Mutation, mutations, run


def judge(evidence: Evidence, one: SimulatedTpm | None = None) -> None:
    verify(evidence, anchors=(root().anchor,), now=NOW, checks=Checklist(), activation=activation(one))


def certificate(index: int) -> Callable[[bytes], Evidence]:
    def replaced(der: bytes) -> Evidence:
        chain = list(identity_of(good()).ek_certificates)
        chain[index] = der
        return with_identity(good(), ek_certificates=tuple(chain))

    return replaced


def _pcr(value: bytes) -> Evidence:
    return with_quote(good(), pcrs=quote_of(good()).pcrs | {4: value})


PARTS: dict[str, tuple[bytes, Callable[[bytes], Evidence], bool]] = {
    "quote": (good().quote, lambda data: msgspec.structs.replace(good(), quote=data), True),
    "signature": (quote_of(good()).signature, lambda data: with_quote(good(), signature=data), True),
    "pcr": (quote_of(good()).pcrs[4], _pcr, True),
    "log": (quote_of(good()).event_log or b"", lambda data: with_quote(good(), event_log=data), False),
    "ak": (identity_of(good()).ak_public, lambda data: with_identity(good(), ak_public=data), True),
    "ek": (identity_of(good()).ek_public, lambda data: with_identity(good(), ek_public=data), True),
    "ek certificate": (identity_of(good()).ek_certificates[0], certificate(0), True),
    "root": (identity_of(good()).ek_certificates[1], certificate(1), True),
}


def changed(part: str) -> Iterator[Mutation]:
    data, _, signed = PARTS[part]
    return mutations(data, signed=[(0, len(data))] if signed else [], flips=3000 if part == "log" else None)


@pytest.mark.parametrize("part", PARTS)
def test_no_change_of_what_is_signed_is_accepted(part: str) -> None:
    """The log is not signed: it only has to replay to the signed PCRs."""
    _, replaced, signed = PARTS[part]
    tally = run(lambda data: judge(replaced(data)), changed(part))
    assert tally.refused + tally.accepted == tally.tried
    assert not signed or tally.accepted == 0


def test_an_rsa_signature() -> None:
    one = made.tpm(ek="rsa", ak="rsa")
    evidence = one.attest(made.REPORT_DATA)
    signature = quote_of(evidence).signature
    tally = run(
        lambda data: judge(with_quote(evidence, signature=data), one),
        mutations(signature, signed=[(0, len(signature))], flips=500),
    )
    assert tally.accepted == 0


def test_there_are_enough_of_them() -> None:
    assert sum(1 for part in PARTS for _ in changed(part)) >= 4000
