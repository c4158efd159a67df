from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blindai.channel.keyset import PrivateKeyset
from blindai.enclave.api.receipts import Receipts
from blindai.enclave.models.model_version import ModelVersion
from blindai.errors import BlindAIError, InvalidInput, Unavailable
from blindai.wire.custody import Grant, Unit
from blindai.wire.receipt import SignedReceipt, TensorDigest, tensors_digest
from blindai.wire.tensor import Tensor

NONCE = "5a" * 32
X = Tensor.from_array("x", np.arange(3, dtype=np.float32))
Y = Tensor.from_array("y", np.arange(2, dtype=np.int64))


class Keys:
    """A signer with one keyset."""

    simulated = True
    config_digest = "cf" * 32

    def __init__(self) -> None:
        self.keyset = PrivateKeyset(datetime.now(UTC))

    def receipt_keyset(self, digest: str | None) -> PrivateKeyset | None:
        return self.keyset if digest in {None, self.keyset.digest} else None


def version(*, leased: bool) -> ModelVersion:
    """What a receipt tells of a version."""
    told = SimpleNamespace(model_name="acme/model", number="2", sha256="dd" * 32, leased=leased)
    return cast("ModelVersion", told)


def grant(seq: int) -> Grant:
    return Grant(
        lease="lease-aaaaaaaaaaaaaaaa",
        instance="11" * 32,
        seq=seq,
        prev="00" * 32,
        challenge="22" * 32,
        unit=Unit.QUERIES,
        quantities={},
        consumers={"": 0},
        soft_ms=1,
        ttl_ms=1,
        model_digest="dd" * 32,
        policy_digest="33" * 32,
        stop_epoch=0,
        record_seq=0,
        record_head="00" * 32,
    )


def signed(receipts: Receipts, keys: Keys, *, leased: bool = False) -> SignedReceipt:
    wanted = receipts.wanted({"receipt_nonce": NONCE, "receipt_keyset": keys.keyset.digest})
    assert wanted is not None
    (text,) = receipts.signed(wanted, version(leased=leased), [X], [Y]).values()
    receipt = SignedReceipt.decode(str(text))
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(keys.keyset.public.receipt_key))
    key.verify(bytes.fromhex(receipt.signature), receipt.receipt.message)
    return receipt


def test_a_receipt_is_of_model_input_output_and_request() -> None:
    keys = Keys()
    body = signed(Receipts(keys, grant=lambda: None), keys).receipt
    assert (body.model, body.version, body.model_digest) == ("acme/model", "2", "dd" * 32)
    assert body.input_digest == tensors_digest([TensorDigest.of(X)])
    assert body.output_digest == tensors_digest([TensorDigest.of(Y)])
    assert (body.nonce, body.keyset_digest, body.config_digest) == (NONCE, keys.keyset.digest, keys.config_digest)
    assert (body.simulated, body.grant_digest) == (True, None)


def test_the_receipt_of_a_model_on_loan_names_the_newest_grant() -> None:
    keys, grants = Keys(), [grant(1)]
    receipts = Receipts(keys, grant=lambda: grants[-1])
    for _ in range(2):
        assert signed(receipts, keys, leased=True).receipt.grant_digest == grants[0].digest
    grants.append(grant(2))
    assert signed(receipts, keys, leased=True).receipt.grant_digest == grants[1].digest
    assert signed(receipts, keys).receipt.grant_digest is None


def test_a_model_on_loan_without_a_grant_gives_no_receipt() -> None:
    keys = Keys()
    with pytest.raises(Unavailable) as caught:
        signed(Receipts(keys, grant=lambda: None), keys, leased=True)
    assert caught.value.code == "lease.waiting"


def test_who_does_not_ask_gets_none() -> None:
    assert Receipts(Keys(), grant=lambda: None).wanted({"binary_data_output": True}) is None
    assert Receipts(None, grant=lambda: None).wanted({}) is None


def test_the_present_keys_sign_where_none_are_named() -> None:
    keys = Keys()
    wanted = Receipts(keys, grant=lambda: None).wanted({"receipt_nonce": NONCE})
    assert wanted is not None
    assert wanted.keyset is keys.keyset


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"receipt_nonce": ""}, "input.receipt_nonce"),
        ({"receipt_nonce": "5A" * 32}, "input.receipt_nonce"),
        ({"receipt_nonce": "5a" * 33}, "input.receipt_nonce"),
        ({"receipt_nonce": NONCE + "\n"}, "input.receipt_nonce"),
        ({"receipt_nonce": 5}, "input.receipt_nonce"),
        ({"receipt_nonce": True}, "input.receipt_nonce"),
        ({"receipt_keyset": "00" * 32}, "input.receipt_nonce"),
        ({"receipt_nonce": NONCE, "receipt_keyset": "00" * 32}, "input.receipt_keyset"),
        ({"receipt_nonce": NONCE, "receipt_keyset": "x"}, "input.receipt_keyset"),
    ],
)
def test_a_request_that_cannot_be_met(parameters: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Receipts(Keys(), grant=lambda: None).wanted(parameters)
    assert caught.value.code == code


def test_a_server_without_keys_signs_nothing() -> None:
    receipts = Receipts(None, grant=lambda: None)
    with pytest.raises(BlindAIError) as caught:
        receipts.wanted({"receipt_nonce": NONCE})
    assert caught.value.code == "input.receipt"
    wanted = Receipts(Keys(), grant=lambda: None).wanted({"receipt_nonce": NONCE})
    assert wanted is not None
    with pytest.raises(ValueError, match="signs no receipts"):
        receipts.signed(wanted, version(leased=False), [], [])
