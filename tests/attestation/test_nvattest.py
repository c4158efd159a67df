"""NVIDIA's nvattest, played by a program with its arguments, files and output."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from blindai.attestation import nvattest
from blindai.attestation.claims import DeviceClaims
from blindai.attestation.evidence import DeviceEvidence, DeviceKind
from blindai.attestation.nvattest import ask, require_accepted
from blindai.attestation.result import OpenCheck
from blindai.attestation.simulated.nvidia import SimulatedDevice, SimulatedNvidiaRoot
from blindai.attestation.verifiers.nvidia import verify_device
from blindai.errors import AttestationError, ConfigurationError, Unavailable

NONCE = bytes(range(32))

FAKE = """#!{python}
import base64, json, pathlib, sys, time
words = sys.argv[1:]
assert words[:5] == ["--format", "json", "--log-level", "off", "attest"], words
options = dict(zip(words[5::2], words[6::2], strict=True))
device = options["--device"]
assert options["--verifier"] == "local" and options[f"--{{device}}-evidence-source"] == "file"
given = json.loads(pathlib.Path(options[f"--{{device}}-evidence-file"]).read_text())
assert all(base64.b64decode(item["evidence"])[4:36].hex() == options["--nonce"] == item["nonce"] for item in given)
assert all(b"BEGIN CERTIFICATE" in base64.b64decode(item["certificate"]) for item in given)
said = json.loads({said!r})
time.sleep(said.pop("sleep", 0))
claim = {{"measres": "success", "eat_nonce": options["--nonce"], "hwmodel": given[0]["arch"]}} | said.pop("claim", {{}})
answer = {{"claims": [claim] * len(given), "result_code": 0, "result_message": "Ok"}} | said
print(said.get("text") or json.dumps(answer))
sys.exit(said.get("exit", 0))
"""


@pytest.fixture(scope="module")
def root() -> SimulatedNvidiaRoot:
    return SimulatedNvidiaRoot.generate()


def pair(
    root: SimulatedNvidiaRoot, kind: DeviceKind = DeviceKind.NVIDIA_GPU, nonce: bytes = NONCE
) -> tuple[DeviceEvidence, DeviceClaims]:
    evidence = SimulatedDevice(root, kind=kind).attest(nonce)
    claims = verify_device(evidence, anchors=[root.anchor], now=datetime.now(UTC), check=OpenCheck(""))
    return evidence, claims


def program(folder: Path, **said: Any) -> str:
    path = folder / "nvattest"
    path.write_text(FAKE.format(python=sys.executable, said=json.dumps(said)))
    path.chmod(0o700)
    return str(path)


@pytest.mark.parametrize("kind", list(DeviceKind))
def test_accepted(tmp_path: Path, root: SimulatedNvidiaRoot, kind: DeviceKind) -> None:
    verdict = ask([pair(root, kind), pair(root, kind)], program=program(tmp_path))
    assert verdict.accepted
    assert verdict.message == "Ok"
    assert [claims["measres"] for claims in verdict.claims] == ["success", "success"]


@pytest.mark.parametrize(
    "said",
    [
        {"result_code": 12, "result_message": "RIM mismatch"},
        {"exit": 1},
        {"claims": []},
        {"claim": {"measres": "Failure"}},
        {"claim": {"measres": None}},
        {"claim": {"eat_nonce": "00" * 32}},
    ],
)
def test_not_accepted(tmp_path: Path, root: SimulatedNvidiaRoot, said: dict[str, Any]) -> None:
    assert not ask([pair(root)], program=program(tmp_path, **said)).accepted


@pytest.mark.parametrize("said", [{"text": "Error 002"}, {"result_code": "0"}, {"claims": "none"}, {"text": "[]"}])
def test_another_answer(tmp_path: Path, root: SimulatedNvidiaRoot, said: dict[str, Any]) -> None:
    with pytest.raises(Unavailable) as caught:
        ask([pair(root)], program=program(tmp_path, **said))
    assert caught.value.code == "attester.failed"


def test_too_much(tmp_path: Path, root: SimulatedNvidiaRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvattest, "MAX_OUTPUT_BYTES", 10)
    with pytest.raises(Unavailable) as caught:
        ask([pair(root)], program=program(tmp_path))
    assert caught.value.code == "attester.failed"


def test_too_slow(tmp_path: Path, root: SimulatedNvidiaRoot) -> None:
    with pytest.raises(Unavailable) as caught:
        ask([pair(root)], program=program(tmp_path, sleep=60), timeout_seconds=0.5)
    assert caught.value.code == "attester.failed"


def test_not_installed(tmp_path: Path, root: SimulatedNvidiaRoot) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ask([pair(root)], program=str(tmp_path / "nothing"))
    assert caught.value.code == "attester.missing"


def test_what_cannot_be_asked_together(root: SimulatedNvidiaRoot) -> None:
    with pytest.raises(ValueError, match="together"):
        ask([])
    with pytest.raises(ValueError, match="together"):
        ask([pair(root), pair(root, DeviceKind.NVIDIA_SWITCH)])
    with pytest.raises(ValueError, match="together"):
        ask([pair(root), pair(root, nonce=bytes(32))])


def test_all_devices_of_an_appraisal(tmp_path: Path, root: SimulatedNvidiaRoot) -> None:
    pairs = [pair(root), pair(root, DeviceKind.NVIDIA_SWITCH), pair(root)]
    devices, claims = zip(*pairs, strict=True)
    verdicts = require_accepted(devices, claims, program=program(tmp_path))
    assert [len(verdict.claims) for verdict in verdicts] == [2, 1]


def test_devices_that_are_not_accepted(tmp_path: Path, root: SimulatedNvidiaRoot) -> None:
    evidence, claims = pair(root)
    with pytest.raises(AttestationError) as caught:
        require_accepted([evidence], [claims], program=program(tmp_path, result_message="RIM mismatch", exit=1))
    assert (caught.value.code, caught.value.step, caught.value.got) == ("devices.nvattest", "devices", "RIM mismatch")


def test_no_devices_to_ask_about() -> None:
    with pytest.raises(AttestationError) as caught:
        require_accepted([], [])
    assert (caught.value.code, caught.value.step) == ("devices.nvattest", "devices")
