"""`blindai proxy` as a process before a real enclave: what it carries arrives unchanged, by every kind of client."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import openai
import pytest

import blindai
from blindai import Connection
from blindai.attestation.measure.local import local_policy
from blindai.errors import BlindAIError
from enclave_server import Wire, binary_request, node_model
from proxy_process import ProxyProcess


def test_megabytes_arrive_unchanged_in_both_directions(connection: Connection, proxy: ProxyProcess) -> None:
    connection.upload_model(node_model(onnx.helper.make_node("Identity", ["x"], ["y"])), model_id="acme/echo")
    values = np.random.default_rng(0).random((1, 2_000_000), np.float32)
    with Wire(proxy.port) as wire:
        for _ in range(2):
            body, length = binary_request(values)
            wire.send(
                f"POST /v2/models/acme/echo/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
                f"Inference-Header-Content-Length: {length}\r\n\r\n".encode()
            )
            wire.send(body)
            response = wire.response()
            assert response.status == 200
            assert response.body[int(response.headers["inference-header-content-length"]) :] == values.tobytes()
    connection.delete_model("acme/echo")


def test_the_token_of_a_proxy_and_the_openai_package(address: str) -> None:
    """The package as it is, with one more header; the enclave's own refusals arrive as its errors."""
    with ProxyProcess(address, "--allow-host", "app.test") as proxy:
        url, token = f"{proxy.announcement['address']}/v1", proxy.announcement["token"]
        with openai.OpenAI(
            base_url=url, api_key="x", default_headers={"Proxy-Authorization": f"Bearer {token}"}
        ) as client:
            assert isinstance(client.models.list().data, list)
        with (
            openai.OpenAI(base_url=url, api_key=token, max_retries=0) as client,
            pytest.raises(openai.APIStatusError) as caught,
        ):
            client.models.list()
        assert caught.value.status_code == 407
        assert proxy.refusals == ["proxy.token"]


def test_the_openai_package_on_the_attested_transport(address: str) -> None:
    with blindai.openai_client(address, simulation=True) as client:
        assert isinstance(client.models.list().data, list)
        with pytest.raises(openai.APIStatusError) as caught:
            client.embeddings.create(model="acme/none", input="x")
    assert BlindAIError in type(caught.value).__mro__


def test_an_enclave_that_is_not_the_expected_one_ends_it(address: str, tmp_path: Path) -> None:
    text = local_policy().to_toml()
    start = text.index('mrtd = "') + len('mrtd = "')
    manifest = tmp_path / "other.toml"
    manifest.write_text(text[:start] + ("0" if text[start] != "0" else "1") + text[start + 1 :])
    command = [sys.executable, "-P", "-m", "blindai", "proxy", address, "--json", "--policy", str(manifest)]
    ended = subprocess.run([*command, "--listen", "127.0.0.1:0"], capture_output=True, timeout=60, check=False)
    assert ended.returncode == 3
    assert json.loads(ended.stdout)["error"]["code"] == "code.unknown"


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "example.com:80"])
def test_it_listens_on_this_machine_only(address: str, listen: str) -> None:
    command = [sys.executable, "-P", "-m", "blindai", "proxy", address, "--simulation", "--json", "--listen", listen]
    ended = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert json.loads(ended.stdout)["error"]["code"] == "proxy.address"
