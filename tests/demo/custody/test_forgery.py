from __future__ import annotations

import asyncio

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.channel.calling import CallingEnd, call
from blindai.custody.keys import CustodianKeys
from blindai.demo.custody.forgery import Forgery
from blindai.errors import CustodianError, Unavailable


def test_an_enclave_that_knows_the_custodians_key_says_nothing_to_another() -> None:
    forger, genuine = CustodianKeys.generate(), Ed25519PrivateKey.generate().public_key()

    async def lured() -> None:
        with pytest.raises(CustodianError) as caught:
            await call(
                CallingEnd(SimulatedAttester(), {}), "127.0.0.1", forgery.port, custodian=genuine, audience="lease"
            )
        assert caught.value.code == "custodian.signature"

    with Forgery(forger.sign, forger.public_key) as forgery:
        asyncio.run(lured())
    assert forgery.heard == 0


def test_whoever_has_the_key_is_believed_and_answers_what_was_prepared() -> None:
    keys = CustodianKeys.generate()

    async def lured() -> None:
        end = CallingEnd(SimulatedAttester(), {})
        connection = await call(end, "127.0.0.1", forgery.port, custodian=keys.public, audience="lease")
        answer = await connection.post("/v1/renewals", b"{}", max_answer_bytes=100)
        assert (answer.status, answer.body) == (200, b"a grant")
        with pytest.raises(Unavailable):
            await connection.post("/v1/watches", b"{}", max_answer_bytes=100, seconds=0.1)
        connection.cut()
        await asyncio.sleep(0)  # lets the loop close what was cut

    with Forgery(keys.sign, keys.public_key, {"/v1/renewals": b"a grant"}) as forgery:
        asyncio.run(lured())
    assert forgery.heard > len(b"{}")
