"""Receipts: what an enclave signs is checked when it comes, and can be audited later by anyone."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

import blindai
from blindai.attestation.anchors import Vendor
from blindai.attestation.policy import Policy
from blindai.attestation.result import Outcome
from blindai.client.connection import Connection
from blindai.client.receipt import CHECKS, Receipt, SavedReceipt
from blindai.errors import AttestationError, BlindAIError, ConfigurationError, InvalidInput, ReceiptError
from blindai.wire import v2
from blindai.wire.receipt import ReceiptBody, SignedReceipt
from enclave_server import RunningServer, node_model

from .conftest import address

X = np.arange(6, dtype=np.float32).reshape(2, 3)
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def receipt(client: Connection) -> Receipt:
    return signed(client)


def signed(client: Connection, **options: Any) -> Receipt:
    receipt = client.predict("acme/adder", X, sign=True, **options).receipt
    assert receipt is not None
    return receipt


def edited(receipt: Receipt, edit: Edit) -> Receipt:
    content = json.loads(receipt.saved.encode())
    edit(content)
    return Receipt(SavedReceipt.decode(json.dumps(content).encode()))


def refusal(receipt: Receipt, policy: Policy, **options: Any) -> BlindAIError:
    with pytest.raises((AttestationError, ReceiptError)) as caught:
        receipt.verify(policy, **options)
    return caught.value


# When it comes.


def test_a_receipt_says_what_was_asked_of_what_and_answered(
    client: Connection, enclave: RunningServer, policy: Policy, adder: bytes
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    prediction = client.predict("acme/adder", X, sign=True)
    receipt = prediction.receipt
    assert receipt is not None
    assert (receipt.model, receipt.version) == ("acme/adder", prediction.version)
    assert receipt.model_digest == hashlib.sha256(adder).hexdigest()
    assert receipt.keyset.digest == client.attestation.keyset_digest
    assert receipt.evidence.statement.keyset_digest == receipt.saved.receipt.keyset_digest
    assert (receipt.simulated, receipt.grant_digest) == (True, None)
    assert before < receipt.time < datetime.now(UTC) + timedelta(seconds=1)
    assert "SIMULATED" in repr(receipt)
    assert receipt.saved.address == address(enclave)
    result = receipt.verify(policy, inputs=X, outputs=prediction)
    assert result.simulated


def test_without_asking_there_is_none(client: Connection) -> None:
    assert client.predict("acme/adder", X).receipt is None


def test_both_forms_on_the_wire_are_one_input_and_one_output(client: Connection) -> None:
    binary, text = signed(client), signed(client, binary=False)
    assert binary.input_digest == text.input_digest
    assert binary.output_digest == text.output_digest
    assert binary.nonce != text.nonce


def test_named_outputs_are_asked_for(client: Connection, policy: Policy) -> None:
    signed(client, outputs=["y"]).verify(policy, outputs={"y": X + 1})


def test_many_at_once_have_each_their_own(client: Connection, policy: Policy) -> None:
    def ask(number: int) -> tuple[int, blindai.Prediction]:
        return number, client.predict("acme/adder", X * number, sign=True)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(32)))
    receipts = [prediction.receipt for _, prediction in answers]
    assert len({receipt.nonce for receipt in receipts if receipt}) == 32
    for number, prediction in answers:
        assert prediction.receipt is not None
        prediction.receipt.verify(policy, inputs=X * number, outputs=X * number + 1)


def test_of_the_client_for_asyncio(enclave: RunningServer, policy: Policy) -> None:
    async def ask() -> blindai.Prediction:
        async with blindai.AsyncConnection(address(enclave), policy=policy) as client:
            return await client.predict("acme/adder", X, sign=True)

    prediction = asyncio.run(ask())
    assert prediction.receipt is not None
    prediction.receipt.verify(policy, inputs=X, outputs=prediction)


def test_a_resumed_connection_relies_on_the_gate_before(enclave: RunningServer, policy: Policy) -> None:
    with Connection(address(enclave), policy=policy) as client:
        first = signed(client)
        for link in client._idle:
            link.stream.close()
        client._idle.clear()
        second = signed(client)
        assert client.attestation.mode == "resumed"
    assert first.evidence == second.evidence
    second.verify(policy, inputs=X)


def test_keys_that_were_renewed_meanwhile_sign_only_for_new_connections(enclave: RunningServer, policy: Policy) -> None:
    end = enclave.end
    assert end is not None
    with Connection(address(enclave), policy=policy) as old:
        before = signed(old)
        enclave.call(end._renew)
        again = signed(old)
        assert again.keyset == before.keyset
        with Connection(address(enclave), policy=policy) as new:
            other = signed(new)
    assert other.keyset != before.keyset
    for receipt in (before, again, other):
        receipt.verify(policy, inputs=X)


# What a lying enclave, or whoever sits where the answer is made, may try.


class Liar:
    """Changes what an enclave answers, before the client reads it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.change: Callable[[v2.InferResponse], v2.InferResponse] = lambda response: response
        decode = v2.decode_response
        monkeypatch.setattr(v2, "decode_response", lambda *arguments: self.change(decode(*arguments)))

    def says(self, text: object) -> None:
        self.change = lambda response: msgspec.structs.replace(response, parameters={"receipt": text})


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch) -> Liar:
    return Liar(monkeypatch)


def code_of(client: Connection) -> str:
    with pytest.raises(ReceiptError) as caught:
        client.predict("acme/adder", X, sign=True)
    assert caught.value.code in str(caught.value)
    return caught.value.code


def test_no_receipt_is_refused(client: Connection, liar: Liar) -> None:
    liar.change = lambda response: msgspec.structs.replace(response, parameters={})
    assert code_of(client) == "receipt.missing"


@pytest.mark.parametrize("text", [1, True])
def test_a_receipt_that_is_no_text(client: Connection, liar: Liar, text: object) -> None:
    liar.says(text)
    assert code_of(client) == "receipt.missing"


def test_a_receipt_that_cannot_be_read(client: Connection, liar: Liar) -> None:
    liar.says("{}")
    assert code_of(client) == "receipt.malformed"


def test_the_receipt_of_another_request(client: Connection, liar: Liar, receipt: Receipt) -> None:
    liar.says(SignedReceipt(receipt.saved.receipt, receipt.saved.signature).encode())
    assert code_of(client) == "receipt.nonce"


def test_other_outputs_than_were_signed(client: Connection, liar: Liar) -> None:
    def change(response: v2.InferResponse) -> v2.InferResponse:
        (output,) = response.outputs
        return msgspec.structs.replace(response, outputs=(v2.Tensor(output.name, "FP32", output.data + 1),))

    liar.change = change
    assert code_of(client) == "receipt.output"


@pytest.mark.parametrize("name", ["model_name", "model_version"])
def test_the_answer_of_another_model(client: Connection, liar: Liar, name: str) -> None:
    liar.change = lambda response: msgspec.structs.replace(response, **{name: "7"})
    assert code_of(client) == "receipt.model"


def changed(name: str, value: object) -> Callable[[ReceiptBody], ReceiptBody]:
    return lambda body: msgspec.structs.replace(body, **{name: value})


LIES = {
    "keyset": changed("keyset_digest", "00" * 32),
    "nonce": changed("nonce", "00" * 32),
    "config": changed("config_digest", "00" * 32),
    "platform": changed("simulated", False),
    "time": changed("time_ms", int(datetime(2090, 1, 1, tzinfo=UTC).timestamp() * 1000)),
    "model": changed("model", "acme/other"),
    "input": changed("input_digest", "00" * 32),
    "output": changed("output_digest", "00" * 32),
}


@pytest.mark.parametrize("check", LIES)
def test_a_lie_that_the_enclave_signs_is_found(
    client: Connection, enclave: RunningServer, liar: Liar, check: str
) -> None:
    """The signature is good, and what it is under is not."""
    assert enclave.end is not None
    keyset = enclave.end.identity().keyset

    def change(response: v2.InferResponse) -> v2.InferResponse:
        body = LIES[check](SignedReceipt.decode(str(response.parameters["receipt"])).receipt)
        text = SignedReceipt(body, keyset.sign(body.message).hex()).encode()
        return msgspec.structs.replace(response, parameters={"receipt": text})

    liar.change = change
    assert code_of(client) == f"receipt.{check}"


def test_a_signature_by_other_keys_is_refused(client: Connection, liar: Liar) -> None:
    def change(response: v2.InferResponse) -> v2.InferResponse:
        signed = SignedReceipt.decode(str(response.parameters["receipt"]))
        return msgspec.structs.replace(
            response, parameters={"receipt": SignedReceipt(signed.receipt, "00" * 64).encode()}
        )

    liar.change = change
    assert code_of(client) == "receipt.signature"


# Later.


def test_a_saved_receipt_is_the_same(receipt: Receipt, policy: Policy, tmp_path: Path) -> None:
    receipt.save(tmp_path / "receipt.json")
    loaded = Receipt.load(tmp_path / "receipt.json")
    assert loaded.saved == receipt.saved
    loaded.verify(policy, inputs=X.tolist(), outputs={"y": X + 1})
    with pytest.raises(ConfigurationError) as caught:
        receipt.save(tmp_path / "receipt.json")
    assert caught.value.code == "configuration.save_exists"


def test_the_file_holds_no_value_of_input_or_output(client: Connection) -> None:
    secret = np.array([[1234.5, 6789.25, -4321.125]], np.float32)
    receipt = client.predict("acme/adder", secret, sign=True).receipt
    assert receipt is not None
    text = receipt.saved.encode().decode()
    for values in (secret, secret + 1):
        assert not any(str(value) in text for value in values.ravel().tolist())


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"inputs": X + 1}, "receipt.input"),
        ({"inputs": X[:1]}, "receipt.input"),
        ({"inputs": {"z": X}}, "receipt.input"),
        ({"inputs": "words"}, "receipt.input"),
        ({"outputs": X}, "receipt.output"),
        ({"outputs": {"y": X}}, "receipt.output"),
        ({"inputs": X, "outputs": X + 2}, "receipt.output"),
    ],
)
def test_other_values_are_refused(receipt: Receipt, policy: Policy, values: dict[str, Any], code: str) -> None:
    assert refusal(receipt, policy, **values).code == code


def flip(text: str) -> str:
    return text[:-1] + ("0" if text[-1] != "0" else "1")


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    else:
        yield path


def tampered(content: dict[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    copy = json.loads(json.dumps(content))
    place: Any = copy
    for key in path[:-1]:
        place = place[key]
    old = place[path[-1]]
    match old:
        case bool():
            place[path[-1]] = not old
        case int():
            place[path[-1]] = old + 1
        case None:
            place[path[-1]] = "0"
        case _ if isinstance(old, str) and re.match(r"\d{4}-\d\d-\d\dT", old):
            place[path[-1]] = old.replace("20", "19", 1)
        case _:
            place[path[-1]] = flip(old)
    return copy  # type: ignore[no-any-return]  # what JSON decodes to


def readable(content: dict[str, Any]) -> Receipt | None:
    with contextlib.suppress(InvalidInput):
        return Receipt(SavedReceipt.decode(json.dumps(content).encode()))
    return None


def test_every_field_of_the_file_is_held_to(receipt: Receipt, policy: Policy) -> None:
    """Whichever leaf of the file is changed, the file is unreadable or a named check fails."""
    content = json.loads(receipt.saved.encode())
    paths = list(leaves(content))
    assert len(paths) > 40
    for path in paths:
        changed = readable(tampered(content, path))
        if changed is None:
            continue
        audit = changed.audit(policy)
        assert audit.error is not None, path
        failed = [check.code for check in audit.checks if check.outcome is Outcome.FAIL]
        assert failed, path
        if path[0] in {"blindai", "address", "asked", "verdict", "gate", "salt"}:
            assert "receipt.nonce" in failed, path
        else:
            expected = {"receipt": "receipt.signature", "signature": "receipt.signature"}
            assert expected.get(str(path[0]), f"receipt.{str(path[0])[:-1]}") in failed, path


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (lambda content: content["receipt"].update(input_digest="00" * 32), "receipt.signature"),
        (lambda content: content["receipt"].update(keyset_digest="00" * 32), "receipt.keyset"),
        (lambda content: content.update(address="https://elsewhere:1"), "receipt.nonce"),
        (lambda content: content["gate"]["statement"].update(nonce="00" * 32), "binding.nonce"),
        (lambda content: content["gate"]["keyset"].update(receipt_key="00" * 32), "binding.record"),
        (lambda content: content["gate"]["keyset"].update(not_after=2**62), "binding.record"),
        (lambda content: content["inputs"][0].update(name="z"), "receipt.input"),
        (lambda content: content["inputs"][0].update(shape=[2**60]), "receipt.input"),
        (lambda content: content.update(outputs=[]), "receipt.output"),
    ],
)
def test_the_first_refusal_is_raised(receipt: Receipt, policy: Policy, edit: Edit, code: str) -> None:
    assert refusal(edited(receipt, edit), policy).code == code


def test_the_gate_of_another_enclave_does_not_carry_over(
    start_enclave: Callable[..., RunningServer], receipt: Receipt, policy: Policy, adder: bytes
) -> None:
    """Both are genuine, and by the policy as good as each other."""
    server = start_enclave()
    with Connection(address(server), policy=policy) as client:
        client.upload_model(adder, model_id="acme/adder")
        other = signed(client)
    swapped = Receipt(msgspec.structs.replace(receipt.saved, gate=other.saved.gate))
    assert refusal(swapped, policy).code == "receipt.keyset"
    audit = swapped.audit(policy)
    failed = {check.code for check in audit.checks if check.outcome is Outcome.FAIL}
    assert failed == {"receipt.keyset", "receipt.signature", "receipt.nonce"}


def test_a_policy_that_does_not_accept_the_enclave(receipt: Receipt, policy: Policy) -> None:
    strict = dataclasses.replace(policy, simulated_roots={Vendor.INTEL: "00" * 32})
    error = refusal(receipt, strict)
    assert isinstance(error, AttestationError)
    audit = receipt.audit(strict)
    assert [check.name for check in audit.checks] == [name for key, name in CHECKS.items() if key != "model"]


def test_it_outlives_the_enclave_and_says_when_its_collateral_has_run_out(
    receipt: Receipt, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not receipt.audit(policy).outdated
    later = receipt.saved.asked + timedelta(days=3650)
    late = refusal(receipt, policy, at=later)
    assert isinstance(late, AttestationError)
    assert late.code.endswith("expired")
    monkeypatch.setattr("blindai.client.receipt.datetime", type("Later", (datetime,), {"now": lambda _: later}))
    audit = receipt.audit(policy)
    assert (audit.error, audit.at) == (None, receipt.saved.asked)
    assert audit.outdated == late.code


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"kind":"attestation"}', b"\xff", b"[" * 5000])
def test_another_file_is_no_receipt(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(InvalidInput) as caught:
        Receipt.load(path)
    assert caught.value.code == "input.saved_receipt"


def test_a_file_that_is_not_there_too_long_or_of_another_version(
    receipt: Receipt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInput) as caught:
        Receipt.load(tmp_path / "nothing")
    assert caught.value.code == "input.saved_receipt"
    with pytest.raises(InvalidInput) as caught:
        edited(receipt, lambda content: content.update(v=2))
    assert "version 2" in caught.value.message
    monkeypatch.setattr("blindai.client.receipt.MAX_FILE_BYTES", 10)
    with pytest.raises(InvalidInput) as caught:
        SavedReceipt.decode(receipt.saved.encode())
    assert "more than 10 bytes" in caught.value.message


def test_text_and_numbers_of_all_sorts(client: Connection, policy: Policy) -> None:
    model = node_model(onnx.helper.make_node("Identity", ["x"], ["y"]))
    client.upload_model(model, model_id="acme/same")
    values = np.array([[np.nan, np.inf, -0.0, 1e-45]], np.float32)
    prediction = client.predict("acme/same", values, sign=True)
    assert prediction.receipt is not None
    assert prediction.receipt.input_digest != prediction.receipt.output_digest  # the names differ
    prediction.receipt.verify(policy, inputs=values, outputs=prediction)
    client.delete_model("acme/same")
