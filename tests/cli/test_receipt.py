"""`blindai predict --receipt` and `blindai audit` of what it saves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from blindai.attestation.measure.local import local_policy
from blindai.client.connection import Connection
from blindai.demo.enclaves import served
from enclave_server import node_model

from .conftest import Run
from .test_verify import with_other_code

X = np.arange(4, dtype=np.float32).reshape(1, 4)


@pytest.fixture(scope="module")
def signing() -> Iterator[str]:
    """The address of an enclave with the model `acme/adder`."""
    with served() as address:
        with Connection(address, policy=local_policy()) as client:
            adder = node_model(onnx.helper.make_node("Add", ["x", "one"], ["y"]), one=np.ones(1, np.float32))
            client.upload_model(adder, model_id="acme/adder")
        yield address


@pytest.fixture
def saved(run: Run, folder: Path, signing: str) -> Path:
    np.save(folder / "in.npy", X)
    ended = run("predict", "acme/adder", "in.npy", "--addr", signing, "--receipt", "receipt.json", "--json")
    assert (ended.code, "receipt saved to receipt.json" in ended.err) == (0, True)
    (folder / "out.json").write_text(ended.out)
    return folder / "receipt.json"


def edited(path: Path, **changes: Any) -> Path:
    changed = path.with_name("edited.json")
    changed.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return changed


def test_a_receipt_is_accepted_offline_with_a_line_for_each_check(run: Run, saved: Path, signing: str) -> None:
    ended = run("audit", saved, "--input", "in.npy", "--output", "out.json")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert sum(line.startswith("PASS") for line in lines) >= 14
    for words in (
        "signed with the receipt key",
        "input digest",
        "output digest",
        "ACCEPTED",
        "SIMULATED",
        "the time of the receipt",
        "receipt   acme/adder version 1",
        "as claimed by the enclave",
        signing,
    ):
        assert words in ended.out
    assert "outdated" not in ended.out


def test_without_the_values_their_digests_are_still_signed(run: Run, saved: Path) -> None:
    ended = run("audit", saved, "--json")
    assert ended.code == 0
    told = ended.json
    assert (told["kind"], told["receipt"]["model"], told["outdated"]) == ("receipt", "acme/adder", "")
    assert {check["outcome"] for check in told["checks"]} == {"PASS"}
    assert told["result"]["simulated"]
    assert told["not_known"]
    assert not told["policy_changed"]


def test_explained_it_shows_every_value(run: Run, saved: Path) -> None:
    ended = run("audit", saved, "--explain")
    assert ended.code == 0
    assert json.loads(saved.read_text())["signature"][:32] in ended.out
    assert "report_data" in ended.out


@pytest.mark.parametrize(
    ("option", "values", "code"),
    [("--input", X + 1, "receipt.input"), ("--output", X, "receipt.output")],
)
def test_other_values_are_refused(run: Run, saved: Path, option: str, values: Any, code: str) -> None:
    np.save(saved.parent / "other.npy", values)
    ended = run("audit", saved, option, "other.npy")
    assert (ended.code, code in ended.err, "REFUSED" in ended.out) == (3, True, True)
    assert "no prompt" not in ended.err
    told = run("audit", saved, option, "other.npy", "--json").json
    assert told["error"]["code"] == code
    assert [check["code"] for check in told["checks"] if check["outcome"] == "FAIL"] == [code]


def test_a_tampered_receipt_is_refused(run: Run, saved: Path) -> None:
    receipt = json.loads(saved.read_text())["receipt"]
    ended = run("audit", edited(saved, receipt=receipt | {"model": "acme/other"}))
    assert (ended.code, "receipt.signature" in ended.err) == (3, True)
    ended = run("audit", edited(saved, address="https://elsewhere:1"))
    assert (ended.code, "receipt.nonce" in ended.err) == (3, True)


def test_a_policy_that_does_not_accept_the_enclave(run: Run, folder: Path, saved: Path) -> None:
    ended = run("audit", saved, "--policy", with_other_code(folder))
    assert (ended.code, "code.unknown" in ended.err) == (3, True)
    assert "is not the one of then" in ended.out
    assert "no prompt" not in ended.err


def test_at_another_time(run: Run, saved: Path) -> None:
    ended = run("audit", saved, "--at", "2035-01-01T00:00:00Z")
    assert (ended.code, "expired" in ended.err, "leave out --at" in ended.err) == (3, True, True)
    assert run("audit", saved, "--at", "now").code == 0


def test_the_enclave_need_not_be_there_and_age_is_told(run: Run, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = datetime.fromisoformat(json.loads(saved.read_text())["asked"]) + timedelta(days=3650)
    monkeypatch.setattr("blindai.client.receipt.datetime", type("Later", (datetime,), {"now": lambda _: later}))
    ended = run("audit", saved)
    assert (ended.code, "ACCEPTED" in ended.out) == (0, True)
    assert "outdated  by the clock of today the enclave would be refused" in ended.out
    assert run("audit", saved, "--json").json["outdated"].endswith("expired")


def test_a_receipt_is_never_written_over(run: Run, saved: Path, signing: str) -> None:
    ended = run("predict", "acme/adder", "in.npy", "--addr", signing, "--receipt", saved.name)
    assert (ended.code, "configuration.save_exists" in ended.err) == (2, True)


def test_an_option_that_is_of_no_use_for_a_receipt(run: Run, saved: Path) -> None:
    ended = run("audit", saved, "--collateral-url", "https://x")
    assert (ended.code, "configuration.audit" in ended.err) == (2, True)


def test_options_that_are_for_receipts_alone(run: Run, saved: Path, signing: str) -> None:
    assert run("verify", signing, "--save", "evidence.json").code == 0
    ended = run("audit", "evidence.json", "--input", "in.npy")
    assert (ended.code, "configuration.audit" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("text", "code"),
    [('{"outputs": [{"name": "y"}]}', "input.file"), ('{"outputs": [5]}', "input.file"), ("{", "input.file")],
)
def test_an_output_that_cannot_be_read(run: Run, saved: Path, text: str, code: str) -> None:
    (saved.parent / "broken.json").write_text(text)
    ended = run("audit", saved, "--output", "broken.json")
    assert (ended.code, code in ended.err) == (5, True)


def test_a_file_that_says_it_is_a_receipt(run: Run, folder: Path) -> None:
    (folder / "file.json").write_text('{"kind": "receipt"}')
    ended = run("audit", "file.json")
    assert (ended.code, "input.saved_receipt" in ended.err) == (5, True)
