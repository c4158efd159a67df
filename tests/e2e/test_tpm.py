"""The measured platform from nothing: a TPM is made and certified, a machine boots, `blindai serve` runs on it as a
process, and a client attests and uses it. Then whatever can be wrong with it is wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

import swtpm
from blindai import AttestationError, Connection
from blindai.attestation.attesters.tpm import TpmAttester, load_certificates
from blindai.attestation.evidence import TEE, Evidence, TpmIdentity
from blindai.attestation.result import Mode
from blindai.attestation.simulated.tpm import SimulatedTpm
from blindai.attestation.simulated.tpm_certificates import SimulatedTpmRoot
from blindai.channel.end import AttestedEnd
from blindai.demo.enclaves import stop
from blindai.enclave.config import EnclaveConfig
from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from enclave_server import RunningServer, node_model
from swtpm import LocalCa, Swtpm

ADDER = node_model(onnx.helper.make_node("Add", ["x", "one"], ["y"]), one=np.ones(1, np.float32))
LOADER, KERNEL = b"loader 1.0", b"kernel 1.0"


def extended(*contents: bytes) -> str:
    """The PCR that firmware leaves behind after it measured `contents`: worked out here, apart from the code."""
    value = bytes(32)
    for content in contents:
        value = hashlib.sha256(value + hashlib.sha256(content).digest()).digest()
    return value.hex()


PCR4 = extended(bytes(4), LOADER)
PCR9 = extended(KERNEL)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> LocalCa:
    swtpm.require()
    return LocalCa(tmp_path_factory.mktemp("maker") / "ca")


@pytest.fixture(scope="module")
def made(ca: LocalCa, tmp_path_factory: pytest.TempPathFactory) -> Swtpm:
    return Swtpm(tmp_path_factory.mktemp("tpm") / "state", ca)


@pytest.fixture
def tpm(made: Swtpm) -> Iterator[Swtpm]:
    """Powered on, with nothing measured yet."""
    made.start()
    yield made
    made.stop()


@contextmanager
def serving(tpm: Swtpm, folder: Path, log: bytes | None) -> Iterator[str]:
    """`blindai serve --platform tpm`, a process of its own; its address."""
    (folder / "maker.pem").write_bytes(tpm.ca.certificates)
    (folder / "boot.log").unlink(missing_ok=True)
    if log is not None:
        (folder / "boot.log").write_bytes(log)
    command = [sys.executable, "-P", "-m", "blindai", "serve", "--port", "0", "--json", "--log-format", "json"]
    files = {"--tpm-certificates": folder / "maker.pem", "--tpm-event-log": folder / "boot.log"}
    options = ["--tpm-tcti", tpm.tcti, *(str(part) for option in files.items() for part in option)]
    with (folder / "server.log").open("wb") as errors:
        process = subprocess.Popen(
            [*command, "--platform", "tpm", *options],
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            announcement = ""
            while not announcement.endswith("}\n"):
                line = process.stdout.readline()
                assert line, (folder / "server.log").read_text()
                announcement += line
            yield json.loads(announcement)["address"]
        finally:
            stop(process)


def manifest(folder: Path, ca_root: str, *, pcr4: str = PCR4, pcr9: str = PCR9) -> Path:
    path = folder / "manifest.toml"
    path.write_text(
        f'version = 1\naccepted_tees = ["tpm"]\n[tpm]\nroots = ["{ca_root}"]\n'
        f'[[code]]\nname = "machine 1.0"\ntee = "tpm"\npcr4 = "{pcr4}"\npcr9 = "{pcr9}"\n'
    )
    return path


def refused(address: str, policy: Path, step: str, code: str) -> AttestationError:
    with pytest.raises(AttestationError) as caught, Connection(address, policy=policy, progress=False):
        pass
    assert (caught.value.step, caught.value.code) == (step, code)
    return caught.value


def test_a_machine_is_attested_and_used(tpm: Swtpm, tmp_path: Path) -> None:
    log = tpm.boot(loader=LOADER, kernel=KERNEL)
    policy = manifest(tmp_path, tpm.ca.root_spki)
    with serving(tpm, tmp_path, log) as address, Connection(address, policy=policy, progress=False) as connection:
        result = connection.attestation
        assert result.claims is not None
        assert (result.claims.tee, result.mode, result.simulated) == (TEE.TPM, Mode.FRESH, False)
        assert (result.claims.measurements["pcr4"], result.claims.measurements["pcr9"]) == (PCR4, PCR9)
        assert result.claims.svns["reset_count"] > 0
        connection.upload_model(ADDER, model_id="acme/adder")
        prediction = connection.predict("acme/adder", np.array([[1, 2]], np.float32))
        np.testing.assert_array_equal(prediction.output[0].as_numpy(), [[2, 3]])


def test_other_code_was_booted(tpm: Swtpm, tmp_path: Path) -> None:
    log = tpm.boot(loader=b"loader 0.9", kernel=KERNEL)
    with serving(tpm, tmp_path, log) as address:
        error = refused(address, manifest(tmp_path, tpm.ca.root_spki), "code", "code.unknown")
    assert "PCR4" in error.check


def test_something_is_loaded_after_the_boot(tpm: Swtpm, tmp_path: Path) -> None:
    """The log says what the policy wants, the TPM does not."""
    policy = manifest(tmp_path, tpm.ca.root_spki)
    with serving(tpm, tmp_path, tpm.boot(loader=LOADER, kernel=KERNEL)) as address:
        with Connection(address, policy=policy, progress=False):
            pass
        tpm.extend(9, bytes(32))
        refused(address, policy, "quote", "quote.event_log")


def test_a_log_that_was_written_for_the_policy(tpm: Swtpm, tmp_path: Path) -> None:
    log = tpm.boot(loader=b"loader 0.9", kernel=KERNEL)
    forged = log.replace(hashlib.sha256(b"loader 0.9").digest(), hashlib.sha256(LOADER).digest())
    with serving(tpm, tmp_path, forged) as address:
        refused(address, manifest(tmp_path, tpm.ca.root_spki), "quote", "quote.event_log")


def test_without_a_log_the_pcrs_alone_decide(tpm: Swtpm, tmp_path: Path) -> None:
    policy = manifest(tmp_path, tpm.ca.root_spki)
    tpm.boot(loader=LOADER, kernel=KERNEL)
    with serving(tpm, tmp_path, None) as address:
        with Connection(address, policy=policy, progress=False):
            pass
        tpm.extend(4, bytes(32))
        refused(address, policy, "code", "code.unknown")


def test_the_root_of_another_maker(tpm: Swtpm, tmp_path: Path) -> None:
    with serving(tpm, tmp_path, tpm.boot(loader=LOADER, kernel=KERNEL)) as address:
        refused(address, manifest(tmp_path, "ab" * 32), "endorsements", "endorsements.anchor")


def test_a_reset_is_survived_and_seen(tpm: Swtpm, tmp_path: Path) -> None:
    policy = manifest(tmp_path, tpm.ca.root_spki)
    log = tpm.boot(loader=LOADER, kernel=KERNEL)
    resets = []
    with serving(tpm, tmp_path, log) as address:
        for _ in range(2):
            with Connection(address, policy=policy, progress=False) as connection:
                claims = connection.attestation.claims
                assert claims is not None
                resets.append(claims.svns["reset_count"])
            tpm.restart()
            refused(address, policy, "quote", "quote.event_log")
            assert tpm.boot(loader=LOADER, kernel=KERNEL) == log
    assert resets[1] > resets[0]


def test_while_the_tpm_is_gone_the_gate_stays_shut(tpm: Swtpm, tmp_path: Path) -> None:
    policy = manifest(tmp_path, tpm.ca.root_spki)
    with serving(tpm, tmp_path, tpm.boot(loader=LOADER, kernel=KERNEL)) as address:
        tpm.stop()
        error = refused(address, policy, "channel", "channel.not_attested")
        assert "gate.no_evidence" in error.got
        tpm.start()
        tpm.boot(loader=LOADER, kernel=KERNEL)
        with Connection(address, policy=policy, progress=False):
            pass


def test_another_tpm_in_the_same_place(tpm: Swtpm, tmp_path: Path) -> None:
    """Same maker, same boot: another machine, which only a policy that lists its TPMs can tell."""
    log = tpm.boot(loader=LOADER, kernel=KERNEL)
    policy = manifest(tmp_path, tpm.ca.root_spki)
    other = Swtpm(tmp_path / "other", tpm.ca)
    with serving(tpm, tmp_path, log) as address:
        with Connection(address, policy=policy, progress=False) as connection:
            claims = connection.attestation.claims
            assert claims is not None
        policy.write_text(policy.read_text() + f'[chips]\nallowed = ["{claims.chip_id}"]\n')
        tpm.stop()
        other.port = tpm.port
        other.start()
        try:
            other.boot(loader=LOADER, kernel=KERNEL)
            refused(address, policy, "platform", "chip.unknown")
        finally:
            other.stop()


# What no honest server does, with the same TPMs.


class Machine:
    """A machine that shows the identity of one TPM, has another open credentials, and evidence of a third."""

    tee, simulated, quick = TEE.TPM, False, False

    def __init__(
        self,
        *,
        identity: Callable[[], TpmIdentity],
        activate: Callable[[bytes, bytes], bytes],
        attest: Callable[[bytes], Evidence],
    ) -> None:
        self.identity, self.activate, self.attest = identity, activate, attest


@pytest.fixture
def attester(tpm: Swtpm) -> TpmAttester:
    tpm.boot(loader=LOADER, kernel=KERNEL)
    return TpmAttester(tpm.tcti, certificates=load_certificates(tpm.ca.certificates), event_log="/none")


@pytest.fixture
def other(made: Swtpm, tmp_path: Path) -> Iterator[TpmAttester]:
    """A second TPM of the same maker, which has measured the same."""
    second = Swtpm(tmp_path / "second", made.ca)
    second.start()
    second.boot(loader=LOADER, kernel=KERNEL)
    yield TpmAttester(second.tcti, certificates=load_certificates(second.ca.certificates), event_log="/none")
    second.stop()


@contextmanager
def machine(attester: Machine) -> Iterator[str]:
    config = EnclaveConfig()
    end = AttestedEnd(attester, msgspec.to_builtins(config))
    server = RunningServer(config, OnnxRuntimeEngine(), simulated=False, end=end)
    try:
        yield f"https://127.0.0.1:{server.port}"
    finally:
        server.stop()


def test_the_machine_of_these_tests_is_accepted_as_long_as_it_is_honest(
    attester: TpmAttester, made: Swtpm, tmp_path: Path
) -> None:
    honest = Machine(identity=attester.identity, activate=attester.activate, attest=attester.attest)
    policy = manifest(tmp_path, made.ca.root_spki)
    with machine(honest) as address, Connection(address, policy=policy, progress=False):
        pass


def test_evidence_of_another_tpm_than_the_one_that_was_asked(
    attester: TpmAttester, other: TpmAttester, made: Swtpm, tmp_path: Path
) -> None:
    swapped = Machine(identity=attester.identity, activate=attester.activate, attest=other.attest)
    with machine(swapped) as address:
        refused(address, manifest(tmp_path, made.ca.root_spki), "endorsements", "endorsements.activation")


def test_the_certificate_of_one_tpm_and_the_key_of_another(
    attester: TpmAttester, other: TpmAttester, made: Swtpm, tmp_path: Path
) -> None:
    """Neither opens the credential: one does not have the key, the other not the certificate."""

    def identity() -> TpmIdentity:
        return msgspec.structs.replace(attester.identity(), ak_public=other.identity().ak_public)

    def attest(report_data: bytes) -> Evidence:
        return msgspec.structs.replace(other.attest(report_data), tpm_identity=identity())

    policy = manifest(tmp_path, made.ca.root_spki)
    for asked in (attester, other):
        with machine(Machine(identity=identity, activate=asked.activate, attest=attest)) as address:
            error = refused(address, policy, "channel", "channel.not_attested")
            assert "gate.credential" in error.got
    with machine(Machine(identity=identity, activate=lambda *_: bytes(32), attest=attest)) as address:
        refused(address, policy, "endorsements", "endorsements.activation")


def test_a_quote_that_was_made_before(attester: TpmAttester, made: Swtpm, tmp_path: Path) -> None:
    old = attester.attest(bytes(64))
    replaying = Machine(identity=attester.identity, activate=attester.activate, attest=lambda _: old)
    with machine(replaying) as address:
        refused(address, manifest(tmp_path, made.ca.root_spki), "binding", "binding.report_data")


def test_no_tpm_at_all(attester: TpmAttester, made: Swtpm, tmp_path: Path) -> None:
    """A TPM in software, with a certificate by nobody, that has measured the very same."""
    simulated = SimulatedTpm(SimulatedTpmRoot.generate())
    simulated.extend(4, hashlib.sha256(bytes(4)).digest())
    simulated.extend(4, hashlib.sha256(LOADER).digest())
    simulated.extend(9, hashlib.sha256(KERNEL).digest())
    assert simulated.pcrs[4].hex() == PCR4
    forged = Machine(identity=simulated.identity, activate=simulated.activate, attest=simulated.attest)
    with machine(forged) as address:
        refused(address, manifest(tmp_path, made.ca.root_spki), "endorsements", "endorsements.anchor")
