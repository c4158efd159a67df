from __future__ import annotations

import pytest
from tests.attestation.simulation import NOW, anchor, collateral_of, good, with_collateral, with_quote

from blindai.attestation.claims import Claims
from blindai.attestation.evidence import Evidence
from blindai.attestation.result import Checklist
from blindai.attestation.verifiers import verify
from mutations import mutations, run

# Header and body, which the attestation key signs.
SIGNED_BYTES = {"sgx-v3": 432, "tdx-v4": 632, "tdx-v5": 638}


def judge(evidence: Evidence) -> Claims:
    return verify(evidence, anchors=(anchor(),), now=NOW, checks=Checklist())


@pytest.mark.parametrize(("kind", "flips"), [("sgx-v3", 4000), ("tdx-v4", None), ("tdx-v5", 4000)])
def test_the_quote(kind: str, flips: int | None) -> None:
    """What follows the signed part is covered by other signatures, or must be as it is. Of one kind, every bit."""
    evidence = good(kind)
    signed = (0, SIGNED_BYTES[kind])
    changed = mutations(evidence.quote, signed=[signed], flips=flips)
    tally = run(lambda data: judge(with_quote(evidence, data)), changed)
    assert tally.tried > 4000
    assert "quote.signature" in tally.codes
    assert tally.accepted == 0


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity", "tcb_info_signature", "pck_crl", "root_ca_crl"])
def test_collateral(part: str) -> None:
    evidence = good()
    text: str = getattr(collateral_of(evidence), part)

    def changed(data: bytes) -> Claims:
        return judge(with_collateral(evidence, **{part: data.decode("latin-1")}))

    content = text.encode()
    tally = run(changed, mutations(content, signed=[(0, len(content))], flips=400))
    assert tally.accepted == 0
