"""Both clients against a real enclave behind attested TLS."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import blindai
from blindai import AsyncConnection, Connection
from blindai.attestation.policy import Policy
from blindai.attestation.result import Mode
from blindai.attestation.simulated.root import SimulatedRoot
from blindai.channel import gate_reader
from blindai.channel.clock import SYSTEM_CLOCK
from blindai.channel.flow import AsyncStream, BlockingStream
from blindai.channel.keyset import PrivateKeyset
from blindai.channel.opened import server_name
from blindai.channel.plaintext import PlaintextTransport
from blindai.channel.server import AttestedProtocol
from blindai.client.async_connection import MAX_CONNECTIONS
from blindai.client.session import Link
from blindai.demo.impostor import Impostor
from blindai.enclave.config import EnclaveConfig, Limits, Timeouts
from blindai.errors import (
    AttestationError,
    ConfigurationError,
    InvalidInput,
    InvalidModel,
    ModelNotFound,
    QuotaExceeded,
    Unavailable,
)
from enclave_server import RunningServer, node_model

from .conftest import StartEnclave, address

ROW = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)


class LateClock:
    """The clock of this machine, and what a test adds to it."""

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        return SYSTEM_CLOCK.now() + self.offset

    def monotonic(self) -> float:
        return SYSTEM_CLOCK.monotonic() + self.offset


@pytest.fixture
def manifest(tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Path:
    """./manifest.toml, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "manifest.toml"
    path.write_text(policy.to_toml(), encoding="utf-8")
    return path


@pytest.fixture
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who has stored nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLINDAI_ADDR", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))


class TestSnippet:
    def test_of_the_readme(
        self, enclave: RunningServer, manifest: Path, adder: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its lines as they stand there; what they leave open is set before them."""
        Path("resnet18.onnx").write_bytes(adder)
        key, input_batch = "sk-test", ROW
        monkeypatch.setenv("BLINDAI_ADDR", address(enclave))
        with blindai.Connection(api_key=key) as client:
            response = client.upload_model("resnet18.onnx", model_id="acme/resnet18")
            prediction = client.predict("acme/resnet18", input_batch)
        assert response.name == "acme/resnet18"
        assert prediction.output[0].as_numpy().tolist() == [[2.0, 3.0, 4.0]]
        assert prediction.output[0].shape == (1, 3)
        assert prediction.output[0].as_flat() == [2.0, 3.0, 4.0]

    def test_connect_is_another_name(self) -> None:
        assert blindai.connect is Connection


class TestCalls:
    def test_models(self, start_enclave: StartEnclave, policy: Policy, adder: bytes) -> None:
        with Connection(address(start_enclave()), policy=policy) as client:
            assert client.models() == ()
            first = client.upload_model(adder, model_id="acme/adder")
            second = client.upload_model(adder, model_id="acme/adder")
            assert (first.version, second.version) == ("1", "2")
            assert first.size == len(adder)
            assert [(model.name, model.version) for model in client.models()] == [
                ("acme/adder", "1"),
                ("acme/adder", "2"),
            ]
            client.delete_model("acme/adder", version="1")
            assert client.model("acme/adder").versions == ("2",)
            client.unload_model("acme/adder")
            assert client.models(ready=True) == ()
            with pytest.raises(ModelNotFound):
                client.predict("acme/adder", ROW)
            client.load_model("acme/adder")
            assert client.predict("acme/adder", ROW).version == "2"
            client.delete_model("acme/adder")
            assert client.models() == ()
            with pytest.raises(ModelNotFound) as caught:
                client.predict("acme/adder", ROW)
            assert caught.value.code == "model.not_found"

    def test_models_on_asyncio(self, start_enclave: StartEnclave, policy: Policy, adder: bytes) -> None:
        server = start_enclave()

        async def main() -> None:
            async with AsyncConnection(address(server), policy=policy) as client:
                assert await client.models() == ()
                await client.upload_model(adder, model_id="acme/adder")
                assert (await client.model("acme/adder")).versions == ("1",)
                prediction = await client.predict("acme/adder", ROW, version="1", outputs=["y"], binary=False)
                assert prediction.output[0].as_flat() == [2.0, 3.0, 4.0]
                await client.unload_model("acme/adder")
                with pytest.raises(ModelNotFound):
                    await client.predict("acme/adder", ROW)
                await client.load_model("acme/adder")
                assert (await client.server()).name == "blindai"
                await client.delete_model("acme/adder")
                assert await client.models(ready=True) == ()

        asyncio.run(main())

    @pytest.mark.parametrize(
        "inputs",
        [ROW, ROW.tolist(), {"x": ROW}, [ROW], {"x": ROW.tolist()}],
        ids=["array", "list", "dict", "one", "both"],
    )
    @pytest.mark.parametrize("binary", [True, False])
    def test_forms_of_input(self, client: Connection, inputs: Any, binary: bool) -> None:
        prediction = client.predict("acme/adder", inputs, binary=binary)
        assert prediction.output[0].as_flat() == [2.0, 3.0, 4.0]
        assert prediction.attestation is not None
        assert prediction.attestation.simulated

    def test_large_tensors(self, client: Connection) -> None:
        values = np.random.default_rng(1).random((8, 1 << 17), dtype=np.float32)
        assert np.array_equal(client.predict("acme/adder", values).output[0].as_numpy(), values + 1)

    def test_server(self, client: Connection) -> None:
        assert client.server().name == "blindai"

    def test_external_data(self, start_enclave: StartEnclave, policy: Policy, adder: bytes, tmp_path: Path) -> None:
        weights = np.arange(100_000, dtype=np.float32)
        content = node_model(onnx.helper.make_node("Add", ["x", "w"], ["y"]), size=100_000, w=weights)
        path = tmp_path / "big.onnx"
        onnx.save_model(
            onnx.load_from_string(content),
            path,
            save_as_external_data=True,
            location="big.onnx.data",
            size_threshold=1024,
        )
        assert (tmp_path / "big.onnx.data").stat().st_size >= weights.nbytes
        with Connection(address(start_enclave()), policy=policy) as client:
            client.upload_model(path, model_id="acme/big")
            answer = client.predict("acme/big", np.ones((1, 100_000), np.float32)).output[0].as_numpy()
            assert np.array_equal(answer[0], weights + 1)
            (tmp_path / "big.onnx.data").unlink()
            with pytest.raises(InvalidModel) as caught:
                client.upload_model(path, model_id="acme/big")
            assert "big.onnx.data" in str(caught.value)
            assert client.model("acme/big").versions == ("1",)

    def test_progress(
        self, client: Connection, adder: bytes, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TERM", "xterm")
        client.upload_model(adder, model_id="acme/progress", progress=False)
        assert capfd.readouterr().err == ""
        client.upload_model(adder, model_id="acme/progress", progress=True)
        assert "acme/progress" in capfd.readouterr().err
        client.delete_model("acme/progress")

    def test_a_model_that_was_replaced_is_looked_at_again(
        self, start_enclave: StartEnclave, policy: Policy, adder: bytes
    ) -> None:
        """The next call is right, once a wrong one showed that the model is no longer what it was."""
        other = node_model(onnx.helper.make_node("Neg", ["x"], ["y"]), size=2)
        with Connection(address(start_enclave()), policy=policy) as one, Connection(one.address, policy=policy) as two:
            one.upload_model(adder, model_id="acme/m")
            one.predict("acme/m", ROW)
            two.delete_model("acme/m")
            two.upload_model(other, model_id="acme/m")
            with pytest.raises(InvalidInput) as caught:
                one.predict("acme/m", ROW)
            assert caught.value.code == "input.shape"
            assert one.predict("acme/m", ROW[:, :2]).output[0].as_flat() == [-1.0, -2.0]


class TestRefusals:
    @pytest.mark.parametrize(
        ("model_id", "code"),
        [
            ("adder", "model.id"),
            ("acme/adder/1", "model.id"),
            ("acme/..", "model.id"),
            ("../adder", "model.id"),
            ("acme/ADDER", "model.id"),
            ("acme/ad\x00der", "model.id"),
            ("acme/ad%2Fder", "model.id"),
            ("acme/аdder", "model.id"),  # noqa: RUF001 # a Cyrillic letter is the point
        ],
    )
    def test_model_ids(self, client: Connection, adder: bytes, model_id: str, code: str) -> None:
        for call in (
            lambda: client.predict(model_id, ROW),
            lambda: client.delete_model(model_id),
            lambda: client.upload_model(adder, model_id=model_id),
        ):
            with pytest.raises(InvalidInput) as caught:
                call()
            assert caught.value.code == code
        assert client.predict("acme/adder", ROW).output[0].shape == (1, 3)

    @pytest.mark.parametrize("version", ["", "0", "01", "x", "../1", "1/infer", "-1", "99999999999999999999"])
    def test_versions(self, client: Connection, version: str) -> None:
        with pytest.raises((InvalidInput, ModelNotFound)) as caught:
            client.predict("acme/adder", ROW, version=version)
        assert caught.value.code in {"model.version", "model.not_found"}

    @pytest.mark.parametrize(
        ("inputs", "code"),
        [
            ({"z": ROW}, "input.name"),
            (np.array([["a"]]), "input.datatype"),
            (ROW.astype(np.float64) * 1e300, "input.overflow"),
        ],
        ids=["name", "text", "overflow"],
    )
    def test_inputs(self, client: Connection, inputs: Any, code: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            client.predict("acme/adder", inputs)
        assert caught.value.code.startswith("input.")
        assert client.predict("acme/adder", ROW).output[0].shape == (1, 3)

    def test_not_a_number_in_json(self, client: Connection) -> None:
        with pytest.raises(InvalidInput) as caught:
            client.predict("acme/adder", ROW * np.nan, binary=False)
        assert caught.value.code == "input.nan_in_json"
        assert "binary" in str(caught.value)

    def test_a_model_that_is_none(self, client: Connection) -> None:
        with pytest.raises(InvalidModel):
            client.upload_model(b"PK\x03\x04 no model", model_id="acme/zip")
        assert all(model.name != "acme/zip" for model in client.models())

    @pytest.mark.parametrize("is_async", [False, True])
    def test_a_body_over_the_servers_limit(
        self, start_enclave: StartEnclave, policy: Policy, adder: bytes, is_async: bool
    ) -> None:
        server = start_enclave(EnclaveConfig(limits=Limits(max_body_bytes=1 << 20)))
        large = np.zeros((1, 8 << 20), np.float32)
        if is_async:

            async def main() -> None:
                async with AsyncConnection(address(server), policy=policy) as client:
                    await client.upload_model(adder, model_id="acme/adder")
                    with pytest.raises(QuotaExceeded) as caught:
                        await client.predict("acme/adder", large)
                    assert caught.value.code == "quota.body"
                    assert (await client.predict("acme/adder", ROW)).output[0].shape == (1, 3)

            asyncio.run(main())
            return
        with Connection(address(server), policy=policy) as client:
            client.upload_model(adder, model_id="acme/adder")
            with pytest.raises(QuotaExceeded) as caught:
                client.predict("acme/adder", large)
            assert caught.value.code == "quota.body"
            assert client.predict("acme/adder", ROW).output[0].shape == (1, 3)

    def test_an_upload_over_the_servers_limit(self, start_enclave: StartEnclave, policy: Policy, adder: bytes) -> None:
        server = start_enclave(EnclaveConfig(limits=Limits(max_model_bytes=64)))
        with Connection(address(server), policy=policy) as client:
            with pytest.raises(QuotaExceeded) as caught:
                client.upload_model(adder, model_id="acme/adder")
            assert caught.value.code == "quota.model_size"
            assert client.models() == ()

    def test_an_answer_over_the_clients_limit(self, client: Connection) -> None:
        with pytest.raises(Unavailable) as caught:
            client.predict("acme/adder", np.zeros((1, 10_000), np.float32), max_answer_bytes=1000)
        assert caught.value.code == "unavailable.protocol"
        assert client.predict("acme/adder", ROW).output[0].shape == (1, 3)

    def test_an_enclave_with_other_code(self, start_enclave: StartEnclave, policy: Policy) -> None:
        server = start_enclave(measurements={"mrtd": "ab" * 48})
        with pytest.raises(AttestationError) as caught:
            Connection(address(server), policy=policy)
        error = caught.value
        assert (error.code, error.step) == ("code.unknown", "code")
        assert error.hint == f"blindai verify {address(server)} --explain"
        assert "no prompt, tensor or API key was sent" in str(error)
        assert server.call(lambda: server.application.repository is not None)

    def test_an_enclave_with_other_code_on_asyncio(self, start_enclave: StartEnclave, policy: Policy) -> None:
        server = start_enclave(measurements={"mrtd": "ab" * 48})

        async def main() -> None:
            client = AsyncConnection(address(server), policy=policy)
            with pytest.raises(AttestationError) as caught:
                await client.predict("acme/adder", ROW)
            assert caught.value.code == "code.unknown"
            assert caught.value.hint
            await client.close()

        asyncio.run(main())

    def test_nothing_listens(self, policy: Policy) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(Unavailable) as caught:
            Connection(f"https://127.0.0.1:{port}", policy=policy)
        assert caught.value.code == "unavailable.connect"

    @pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "asyncio"])
    def test_a_peer_that_hangs_up(self, policy: Policy, is_async: bool) -> None:
        """Not a word about attestation: there was nobody to attest."""

        def ask(addr: str) -> None:
            if is_async:
                asyncio.run(AsyncConnection(addr, policy=policy).models())
            else:
                Connection(addr, policy=policy)

        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

            def hang_up() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)

            thread = threading.Thread(target=hang_up)
            thread.start()
            with pytest.raises(Unavailable) as caught:
                ask(f"https://127.0.0.1:{port}")
            thread.join()
        assert caught.value.code == "unavailable.handshake"

    def test_inputs_on_asyncio(self, enclave: RunningServer, policy: Policy) -> None:
        async def main() -> None:
            async with AsyncConnection(address(enclave), policy=policy) as client:
                await client.model("acme/adder")
                with pytest.raises(ModelNotFound):
                    await client.predict("acme/adder", ROW, version="77")
                with pytest.raises(InvalidInput):
                    await client.predict("acme/adder", ROW, outputs=["z"])
                assert (await client.predict("acme/adder", ROW)).output[0].shape == (1, 3)

        asyncio.run(main())


class TestSettings:
    @pytest.mark.parametrize("kind", [Connection, AsyncConnection])
    @pytest.mark.parametrize("timeout", [0, -1, 0.0, float("nan")])
    def test_a_timeout_that_leaves_no_time(self, policy: Policy, kind: Any, timeout: float) -> None:
        with pytest.raises(ConfigurationError) as caught:
            kind("https://127.0.0.1:1", policy=policy, timeout=timeout)
        assert caught.value.code == "configuration.timeout"

    @pytest.mark.usefixtures("no_settings")
    def test_no_address(self, policy: Policy) -> None:
        with pytest.raises(ConfigurationError) as caught:
            Connection(policy=policy)
        assert caught.value.code == "configuration.address_missing"
        assert "BLINDAI_ADDR" in caught.value.hint

    @pytest.mark.usefixtures("no_settings")
    def test_no_policy(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            Connection("https://127.0.0.1:1")
        assert caught.value.code == "configuration.policy_missing"

    def test_the_address_of_the_environment(
        self, enclave: RunningServer, policy: Policy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BLINDAI_ADDR", address(enclave))
        with Connection(policy=policy) as client:
            assert client.address == address(enclave)
            assert client.policy is policy

    @pytest.mark.usefixtures("manifest")
    def test_the_manifest_of_the_folder(self, enclave: RunningServer, policy: Policy) -> None:
        with Connection(address(enclave)) as client:
            assert client.policy.digest == policy.digest

    def test_a_manifest_by_its_path(self, enclave: RunningServer, manifest: Path) -> None:
        for path in (manifest, str(manifest)):
            with Connection(address(enclave), policy=path) as client:
                assert client.policy.source == str(manifest)

    def test_simulation_accepts_this_installation_only(self, enclave: RunningServer) -> None:
        """The enclave of these tests has a root of its own."""
        with pytest.raises(AttestationError) as caught:
            Connection(address(enclave), simulation=True)
        assert caught.value.code == "endorsements.anchor"

    def test_a_policy_goes_before_simulation(self, enclave: RunningServer, policy: Policy) -> None:
        with Connection(address(enclave), policy=policy, simulation=True) as client:
            assert client.policy is policy

    @pytest.mark.parametrize(
        "name",
        [
            "HTTPS_PROXY",
            "https_proxy",
            "ALL_PROXY",
            "all_proxy",
            "SSL_CERT_FILE",
            "REQUESTS_CA_BUNDLE",
            "SSLKEYLOGFILE",
        ],
    )
    def test_the_environment_moves_no_connection(
        self, enclave: RunningServer, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        target = tmp_path / "file"
        monkeypatch.setenv(name, "http://127.0.0.1:1" if "proxy" in name.lower() else str(target))
        with Connection(address(enclave), policy=policy) as client:
            client.predict("acme/adder", ROW)
        assert not target.exists()

    @pytest.mark.parametrize(
        ("host", "name"), [("localhost", "localhost"), ("127.0.0.1", None), ("::1", None), ("a.example", "a.example")]
    )
    def test_names_are_sent_and_addresses_are_not(self, host: str, name: str | None) -> None:
        assert server_name(host) == name

    def test_by_name(self, enclave: RunningServer, policy: Policy) -> None:
        with Connection(f"https://localhost:{enclave.port}", policy=policy) as client:
            client.predict("acme/adder", ROW)


class TestApiKey:
    KEY = "sk-never-shown-0123456789"

    def test_goes_out_behind_the_gate_only(
        self, enclave: RunningServer, policy: Policy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, after = bytearray(), bytearray()
        gate_feed = gate_reader.GateReader.feed

        def feed(self: Any, data: bytes) -> bytes | None:
            before.extend(data)
            return gate_feed(self, data)

        pump = AttestedProtocol._open

        def opened(self: AttestedProtocol) -> None:
            pump(self)
            inner = self._inner
            assert inner is not None
            received = inner.data_received
            inner.data_received = lambda data: (after.extend(data), received(data))[1]  # type: ignore[method-assign, func-returns-value] # listens in

        monkeypatch.setattr(gate_reader.GateReader, "feed", feed)
        monkeypatch.setattr(AttestedProtocol, "_open", opened)
        with Connection(address(enclave), policy=policy, api_key=self.KEY) as client:
            client.server()
        assert before.startswith(b"POST /.well-known/blindai/attestation")
        assert self.KEY.encode() not in before
        assert f"Authorization: Bearer {self.KEY}".encode() in after

    def test_is_not_for_impostors(self, policy: Policy) -> None:
        with (
            Impostor(lambda _: b"{}", PrivateKeyset(datetime.now(UTC))) as impostor,
            pytest.raises(AttestationError) as caught,
        ):
            Connection(impostor.address, policy=policy, api_key=self.KEY)
        assert impostor.application_bytes == 0
        assert self.KEY not in str(caught.value)
        assert self.KEY not in repr(caught.value.__dict__)

    def test_is_shown_nowhere(self, enclave: RunningServer, policy: Policy, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG), Connection(address(enclave), policy=policy, api_key=self.KEY) as client:
            assert self.KEY not in repr(client)
            with pytest.raises(ModelNotFound) as caught:
                client.predict("acme/none", ROW)
        assert self.KEY not in str(caught.value)
        assert self.KEY not in caplog.text


class TestWords:
    def test_simulation_is_said_once_and_in_repr(
        self, enclave: RunningServer, policy: Policy, caplog: pytest.LogCaptureFixture
    ) -> None:
        with Connection(address(enclave), policy=policy) as client:
            client.predict("acme/adder", ROW)
            assert repr(client) == f"<Connection {address(enclave)} (attested, fresh, SIMULATED)>"
            assert client.simulated
        assert caplog.text.count("SIMULATED") == 1

    def test_before_the_first_connection(self, enclave: RunningServer, policy: Policy) -> None:
        client = AsyncConnection(address(enclave), policy=policy)
        assert repr(client) == f"<AsyncConnection {address(enclave)} (not connected)>"
        with pytest.raises(AttestationError) as caught:
            _ = client.attestation
        assert caught.value.code == "channel.not_open"


class TestConnections:
    def test_one_is_used_again_and_again(self, enclave: RunningServer, client: Connection) -> None:
        opened = connections_opened(enclave, lambda: [client.predict("acme/adder", ROW) for _ in range(20)])
        assert opened == 0

    def test_threads_have_connections_of_their_own(self, enclave: RunningServer, policy: Policy) -> None:
        with Connection(address(enclave), policy=policy) as client, ThreadPoolExecutor(8) as threads:

            def predict(number: int) -> float:
                values = np.full((1, 3), number, np.float32)
                return float(client.predict("acme/adder", values).output[0].as_flat()[0])

            assert list(threads.map(predict, range(200))) == [number + 1.0 for number in range(200)]
            assert len(client._idle) <= 8
        assert not client._idle

    def test_gather(self, enclave: RunningServer, policy: Policy) -> None:
        async def main() -> None:
            async with AsyncConnection(address(enclave), policy=policy) as client:

                async def predict(number: int) -> float:
                    values = np.full((1, 3), number, np.float32)
                    return float((await client.predict("acme/adder", values)).output[0].as_flat()[0])

                assert await asyncio.gather(*map(predict, range(50))) == [number + 1.0 for number in range(50)]
                assert len(client._idle) <= MAX_CONNECTIONS

        asyncio.run(main())

    def test_the_second_one_is_resumed(self, enclave: RunningServer, policy: Policy) -> None:
        with Connection(address(enclave), policy=policy) as client:
            assert repr(client).endswith("(attested, fresh, SIMULATED)>")
            client._idle.pop().stream.close()
            client.predict("acme/adder", ROW)
            assert repr(client).endswith("(attested, resumed, SIMULATED)>")

    @pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "asyncio"])
    def test_a_restarted_enclave(
        self, start_enclave: StartEnclave, policy: Policy, adder: bytes, is_async: bool
    ) -> None:
        server = start_enclave()
        driver = Driver(address(server), policy, is_async=is_async)
        driver.call("upload_model", adder, model_id="acme/adder")
        before = driver.client.attestation
        server.stop()
        restarted = start_enclave(port=server.port)
        assert driver.call("models") == ()
        after = driver.client.attestation
        assert after.mode is Mode.FRESH
        assert after.keyset_digest != before.keyset_digest
        assert restarted.port == server.port
        driver.close()

    @pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "asyncio"])
    def test_a_server_that_ends_idle_connections(
        self, start_enclave: StartEnclave, policy: Policy, is_async: bool
    ) -> None:
        server = start_enclave(EnclaveConfig(timeouts=Timeouts(idle_ms=100)))
        driver = Driver(address(server), policy, is_async=is_async)
        for _ in range(3):
            driver.call("models")
            server.eventually(lambda: not connections(server))
            driver.idle()
        driver.close()

    @pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "asyncio"])
    def test_a_verdict_that_has_expired_is_renewed(
        self, enclave: RunningServer, policy: Policy, is_async: bool
    ) -> None:
        """An idle connection whose verdict is over is not used: another quote is asked for."""
        driver = Driver(address(enclave), policy, is_async=is_async)
        driver.call("models")
        first = driver.client.attestation
        link = driver.client._idle[0]
        assert link.fit(driver.client._party)
        clock = LateClock()
        driver.client._party.clock = clock
        assert first.expires_at is not None
        clock.offset = (first.expires_at - datetime.now(UTC)).total_seconds() + 1
        assert not link.fit(driver.client._party)
        with pytest.raises(AttestationError):  # to this late client, the enclave's keys have run out as well
            driver.call("models")
        driver.close()

    def test_a_request_of_which_nothing_left_is_sent_again(
        self, enclave: RunningServer, client: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client._idle[0].channel._usable = False
        monkeypatch.setattr(Link, "fit", lambda self, party: True)
        assert connections_opened(enclave, client.models) == 1

    def test_a_request_of_which_something_left_is_not(
        self, enclave: RunningServer, client: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = client._idle[0].stream
        monkeypatch.setattr(BlockingStream, "_read", lambda self: b"")
        with pytest.raises(Unavailable) as caught:
            client.models()
        assert caught.value.code == "unavailable.closed"
        assert stream._socket.fileno() == -1
        assert not client._idle
        monkeypatch.undo()
        client.models()

    def test_a_request_of_which_something_left_is_not_on_asyncio(
        self, enclave: RunningServer, policy: Policy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def nothing(self: AsyncStream, patience: float | None) -> bytes:
            return b""

        async def main() -> None:
            async with AsyncConnection(address(enclave), policy=policy) as client:
                with monkeypatch.context() as broken:
                    broken.setattr(AsyncStream, "_read", nothing)
                    with pytest.raises(Unavailable) as caught:
                        await client.models()
                assert caught.value.code == "unavailable.closed"
                await client.models()
                client._idle[0].channel._usable = False
                monkeypatch.setattr(Link, "fit", lambda self, party: True)
                await client.models()

        asyncio.run(main())

    @pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "asyncio"])
    def test_after_the_end(self, enclave: RunningServer, policy: Policy, is_async: bool) -> None:
        driver = Driver(address(enclave), policy, is_async=is_async)
        driver.call("models")
        driver.call("close")
        driver.call("close")
        with pytest.raises(Unavailable) as caught:
            driver.call("models")
        assert caught.value.code == "unavailable.closed"
        driver.close()

    @pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "asyncio"])
    def test_a_call_in_progress_outlives_the_end(self, enclave: RunningServer, policy: Policy, is_async: bool) -> None:
        """What was under way when somebody closed is answered; its connection is not kept."""
        driver = Driver(address(enclave), policy, is_async=is_async)
        driver.call("models")
        link = driver.client._idle.pop()
        driver.call("close")
        driver.give_back(link)
        assert not driver.client._idle
        driver.close()

    @pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "asyncio"])
    def test_the_end_does_not_wait_for_a_peer_that_is_gone(
        self, start_enclave: StartEnclave, policy: Policy, is_async: bool
    ) -> None:
        server = start_enclave()
        driver = Driver(address(server), policy, is_async=is_async)
        driver.call("models")
        server.stop()
        driver.call("close")
        driver.close()


class Silence:
    """An attested enclave that takes requests and answers none."""

    def __init__(self, root: SimulatedRoot) -> None:
        from blindai.attestation.attesters.simulated import SimulatedAttester
        from blindai.demo.enclaves import ThreadedEnclave

        self.enclave = ThreadedEnclave(SimulatedAttester(root=root))

    @property
    def address(self) -> str:
        return self.enclave.address


@pytest.fixture
def silence(root: SimulatedRoot) -> Iterator[Silence]:
    one = Silence(root)
    yield one
    one.enclave.close()


class TestTime:
    def test_runs_out(self, silence: Silence, policy: Policy) -> None:
        with Connection(silence.address, policy=policy, timeout=0.1) as client:
            with pytest.raises(Unavailable) as caught:
                client.models()
            assert caught.value.code == "unavailable.timeout"
            assert "timeout" in caught.value.hint
            assert not client._idle

    def test_runs_out_on_asyncio(self, silence: Silence, policy: Policy) -> None:
        async def main() -> None:
            async with AsyncConnection(silence.address, policy=policy, timeout=0.1) as client:
                results = await asyncio.gather(*(client.models() for _ in range(3)), return_exceptions=True)
                assert [getattr(result, "code", "") for result in results] == ["unavailable.timeout"] * 3
                assert not client._idle

        asyncio.run(main())

    def test_a_cancelled_call_leaves_nothing_behind(self, silence: Silence, policy: Policy) -> None:
        async def main() -> None:
            async with AsyncConnection(silence.address, policy=policy) as client:
                for _ in range(MAX_CONNECTIONS + 2):
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.02):
                            await client.models()
                    assert not client._idle
                assert client._places._value == MAX_CONNECTIONS

        asyncio.run(main())

    def test_a_cancelled_call_does_not_poison_the_next(self, enclave: RunningServer, policy: Policy) -> None:
        """Cancelled at any moment, from the connect to the answer: the next answer is the next call's own."""

        async def main() -> None:
            async with AsyncConnection(address(enclave), policy=policy) as client:
                for number in range(60):
                    values = np.full((1, 2000), number, np.float32)
                    task = asyncio.create_task(client.predict("acme/adder", values))
                    for _ in range(number % 12):
                        await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    prediction = await client.predict("acme/adder", -values)
                    assert prediction.output[0].as_flat()[0] == 1.0 - number
                assert len(client._idle) <= MAX_CONNECTIONS
                assert client._places._value == MAX_CONNECTIONS

        asyncio.run(main())


def test_clients_leave_no_socket_open(enclave: RunningServer, policy: Policy) -> None:
    async def main() -> None:
        async with AsyncConnection(address(enclave), policy=policy) as client:
            await asyncio.gather(*(client.predict("acme/adder", ROW) for _ in range(10)))
        with pytest.raises(AttestationError):
            await AsyncConnection(address(enclave), simulation=True).models()

    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = open_files()
        for _ in range(5):
            with Connection(address(enclave), policy=policy) as client:
                client.predict("acme/adder", ROW)
            with pytest.raises(AttestationError):
                Connection(address(enclave), simulation=True)
            asyncio.run(main())
        gc.collect()
        enclave.eventually(lambda: not connections(enclave))
        assert open_files() <= before


def test_a_program_ends_without_a_warning(enclave: RunningServer, policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "manifest.toml").write_text(policy.to_toml(), encoding="utf-8")
    program = (
        "import asyncio, blindai\n"
        f"with blindai.Connection({address(enclave)!r}) as client: client.models()\n"
        "async def main():\n"
        f"    async with blindai.AsyncConnection({address(enclave)!r}) as client:\n"
        "        await asyncio.gather(*(client.models() for _ in range(10)))\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout == ""
    # The library's own words, once for each client, and nothing else.
    assert [line.count("SIMULATED") for line in ended.stderr.splitlines()] == [1, 1]


class Driver:
    """One of the two clients behind the same blocking calls."""

    def __init__(self, addr: str, policy: Policy, *, is_async: bool) -> None:
        self._runner = asyncio.Runner() if is_async else None
        self.client: Any = (AsyncConnection if is_async else Connection)(addr, policy=policy)

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        result = getattr(self.client, name)(*arguments, **options)
        return result if self._runner is None else self._runner.run(result)

    def give_back(self, link: Any) -> None:
        async def give_back() -> None:
            self.client._give_back(link)
            await asyncio.sleep(0)

        asyncio.run(give_back()) if self._runner is None else self._runner.run(give_back())

    def idle(self) -> None:
        """Let the loop of a real caller go on between two calls."""
        if self._runner is not None:
            self._runner.run(asyncio.sleep(0.05))

    def close(self) -> None:
        self.call("close")
        if self._runner is not None:
            self._runner.run(asyncio.sleep(0))
            self._runner.close()


def connections(server: RunningServer) -> int:
    """How many connections the enclave's HTTP layer holds; called on its event loop."""
    return sum(
        not one.is_closing() and one.get_extra_info("sockname")[1] == server.port
        for one in gc.get_objects()
        if type(one) is PlaintextTransport
    )


def connections_opened(server: RunningServer, action: Callable[[], Any]) -> int:
    opened = []
    original = AttestedProtocol._open

    def counting(self: AttestedProtocol) -> None:
        opened.append(self)
        original(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(AttestedProtocol, "_open", counting)
        action()
    return len(opened)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
