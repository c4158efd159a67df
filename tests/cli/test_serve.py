"""`blindai serve`: how it starts, says so, and ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blindai import Connection
from blindai.attestation.attesters import detection
from blindai.attestation.attesters.platform import Platform
from blindai.attestation.attesters.tsm import REPORTS
from blindai.attestation.evidence import TEE, DeviceKind
from blindai.attestation.simulated.intel import SimulatedIntel
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.cli import serve
from blindai.enclave.config import Cloud, Custody, EnclaveConfig
from fake_machine import FakeMachine
from fake_tsm import FakeTsm, TdxGuest

from .conftest import Run


@contextmanager
def started(folder: Path, *arguments: str, platform: str = "simulated-tdx") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "blindai", "serve", "--port", "0", "--platform", platform, *arguments],
        cwd=folder,
        env=os.environ | {"COLUMNS": "80", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def announced(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    text = ""
    while not text.endswith("}\n"):
        line = process.stdout.readline()
        assert line, process.communicate()
        text += line
    announcement = json.loads(text)
    assert announcement["simulated"] is True
    return str(announcement["address"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(folder: Path, number: int) -> None:
    with started(folder, "--json", "--log-format", "json") as process:
        address = announced(process)
        with Connection(address, simulation=True) as client:
            assert client.server().name == "blindai"
            process.send_signal(number)
            _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert [json.loads(line)["event"] for line in log.splitlines()][-1] == "stopped"


def test_it_says_how_to_check_it(folder: Path) -> None:
    with started(folder) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(4)]
        process.terminate()
        process.communicate(timeout=20)
    text = "".join(lines)
    assert "serving at https://127.0.0.1:" in text
    assert "SIMULATED: no hardware protects" in text
    assert "blindai verify https://127.0.0.1:" in text


@pytest.mark.parametrize(
    ("platform", "tee"),
    [
        ("simulated-tdx", TEE.INTEL_TDX),
        ("simulated-sgx", TEE.INTEL_SGX),
        ("simulated-snp", TEE.AMD_SEV_SNP),
    ],
)
def test_every_simulated_platform(folder: Path, platform: str, tee: TEE) -> None:
    with started(folder, "--json", platform=platform) as process:
        with Connection(announced(process), simulation=True) as client:
            assert client.attestation.claims is not None
            assert client.attestation.claims.tee is tee
        process.terminate()
        process.communicate(timeout=20)


def test_the_configuration_is_attested(folder: Path) -> None:
    (folder / "enclave.toml").write_text('name = "ward 7"\n[limits]\nmax_models = 3\n')
    digests = []
    for arguments in ([], ["--config", "enclave.toml"]):
        with started(folder, "--json", *arguments) as process:
            with Connection(announced(process), simulation=True) as client:
                digests.append(next(check.got for check in client.attestation.checks if check.step == "config"))
            process.terminate()
            process.communicate(timeout=20)
    assert digests[0] != digests[1]


def test_a_port_in_use(program: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = program("serve", "--platform", "simulated-tdx", "--port", str(listener.getsockname()[1]))
    assert (ended.code, "configuration.address" in ended.err) == (2, True)


def test_without_a_tee_it_says_what_to_do_instead(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "HostFiles", FakeMachine)
    ended = run("serve", "--json")
    assert (ended.code, ended.json["error"]["code"]) == (2, "attester.none_found")
    assert ended.json["error"]["hint"].endswith("blindai serve --platform simulated-tdx")


def test_simulated_devices_are_attested_with_it(folder: Path) -> None:
    with started(folder, "--json", "--devices", "simulated:2") as process:
        with Connection(announced(process), simulation=True) as client:
            assert [device.kind for device in client.attestation.devices] == [DeviceKind.NVIDIA_GPU] * 2
        process.terminate()
        process.communicate(timeout=20)


def test_devices_that_do_not_exist(program: Run) -> None:
    ended = program("serve", "--platform", "simulated-tdx", "--devices", "abacus", "--json")
    assert (ended.code, ended.json["error"]["code"]) == (2, "attester.unknown_devices")


def test_a_platform_that_is_named_but_not_there(program: Run) -> None:
    ended = program("serve", "--platform", "sgx", "--port", "0", "--json")
    assert (ended.code, ended.json["error"]["code"]) == (2, "attester.missing")
    assert "gramine-sgx" in ended.json["error"]["hint"]


def test_it_says_what_it_found_before_it_uses_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeTsm(TdxGuest(SimulatedIntel(SimulatedRoot.generate())))
    monkeypatch.setattr(detection, "HostFiles", lambda: FakeMachine(mounts={REPORTS: kernel}))
    ended = run("serve", "--port", "0", "--devices", "abacus")
    assert (ended.code, "attester.unknown_devices" in ended.err) == (2, True)
    assert [line.partition(":")[0] for line in ended.err.splitlines()[:2]] == ["not SGX", "tdx"]


def test_it_says_why_it_runs_on_hardware(capsys: pytest.CaptureFixture[str]) -> None:
    why = ("not SGX: there is no Gramine", "tdx: the kernel says so")
    serve._announcer(Platform.TDX, why, EnclaveConfig(), simulated=False, as_json=False)("::1", 9443)
    shown = capsys.readouterr().err
    assert shown.startswith("serving at https://[::1]:9443 on tdx")
    assert "SIMULATED" not in shown
    assert "--simulation" not in shown
    serve._announcer(Platform.TDX, why, EnclaveConfig(), simulated=False, as_json=True)("::1", 9443)
    announced = json.loads(capsys.readouterr().out)
    assert announced == {"address": "https://[::1]:9443", "platform": "tdx", "why": list(why), "simulated": False}


def test_it_says_whose_model_it_has_on_loan(capsys: pytest.CaptureFixture[str]) -> None:
    custody = Custody(
        address="custodian.example:9444", public_key="ab" * 32, lease="lease-aaaaaaaaaaaaaaaa", model_id="acme/scorer"
    )
    serve._announcer(Platform.TDX, (), EnclaveConfig(custody=custody), simulated=True, as_json=False)("::1", 9443)
    shown = capsys.readouterr().err
    assert "acme/scorer, from the custodian at custodian.example:9444" in shown
    assert "SIMULATED" in shown
    serve._announcer(Platform.TDX, (), EnclaveConfig(custody=custody), simulated=True, as_json=True)("::1", 9443)
    assert json.loads(capsys.readouterr().out)["leased"] == "acme/scorer"


def test_it_says_whose_word_decides_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    cloud = Cloud(address="control.example:9446", public_key="ab" * 32, endpoint="https://enclave.example:9443")
    serve._announcer(Platform.TDX, (), EnclaveConfig(cloud=cloud), simulated=False, as_json=False)("::1", 9443)
    assert "whose control plane at control.example:9446 says who may do what" in capsys.readouterr().err
    serve._announcer(Platform.TDX, (), EnclaveConfig(cloud=cloud), simulated=False, as_json=True)("::1", 9443)
    assert json.loads(capsys.readouterr().out)["cloud"] == "control.example:9446"


def test_a_sealed_model_without_a_custodian(program: Run) -> None:
    ended = program("serve", "--sealed-model", "model.sealed", "--port", "0", "--json")
    assert (ended.code, ended.json["error"]["code"]) == (2, "configuration.custody")


def test_a_configuration_with_an_unknown_key(program: Run, folder: Path) -> None:
    (folder / "enclave.toml").write_text("[limits]\nmodels = 3\n")
    ended = program("serve", "--config", "enclave.toml", "--port", "0", "--json")
    assert (ended.code, ended.json["error"]["code"]) == (2, "configuration.unknown_key")
    assert "limits.models" in ended.json["error"]["message"]


@pytest.mark.parametrize("missing", ["onnxruntime", "uvicorn"])
@pytest.mark.parametrize("command", ["serve", "demo"])
def test_where_only_the_client_is_installed(
    run: Run, monkeypatch: pytest.MonkeyPatch, missing: str, command: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # to the import system: it is not there
    # What needs it may have been imported by another test.
    monkeypatch.delitem(sys.modules, "blindai.enclave.engines.onnxruntime", raising=False)
    ended = run(command, "--json")
    assert (ended.code, ended.json["error"]["code"]) == (2, "configuration.server_missing")
    assert ended.json["error"]["hint"] == "pip install 'blindai[server]'"
