"""`blindai cloud serve`, as a user starts it."""

from __future__ import annotations

import hashlib
import http.client
import signal
import socket
import ssl
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET
from typer.testing import CliRunner

from blindai.cli.app import app
from blindai.cloud.keys import SigningKey
from blindai.enclave.config import EnclaveConfig
from cloud_process import CloudProcess

DATABASE = "cloud.sqlite3"


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with CloudProcess(tmp_path_factory.mktemp("cloud") / "data", arguments=("--name", "Ours")) as one:
        yield one
    assert [event["event"] for event in one.events()][-1] == "stopped"


def test_it_says_where_it_is_and_who(process: CloudProcess) -> None:
    said = process.said
    assert said["url"] == process.people
    assert said["database"] == str(process.folder / DATABASE)
    assert said["outbox"] == str(process.folder / "outbox")
    assert process.public_key == SigningKey.kept_in(process.folder / "signing.key").public_key
    port = int(process.people.rpartition(":")[2])
    certificate = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))
    assert hashlib.sha256(certificate).digest().hex(":").upper() == said["certificate_sha256"]


def test_pages_and_interface_are_served_by_https(process: CloudProcess) -> None:
    context = ssl.create_default_context(cafile=str(process.certificate))
    for path, kind in (("/sign-in", "text/html"), ("/api/v1/directory", "application/json")):
        connection = http.client.HTTPSConnection(process.people.removeprefix("https://"), context=context)
        connection.request("GET", path)
        answer = connection.getresponse()
        connection.close()
        assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, kind)
        assert answer.headers["content-security-policy"]


def test_what_it_prints_is_the_configuration_of_an_enclave(process: CloudProcess) -> None:
    config = EnclaveConfig.parse(process.config("https://enclave.test:9443"), "printed")
    assert config.cloud is not UNSET
    assert (config.cloud.address, config.cloud.public_key) == (process.enclaves, process.public_key)
    assert set(tomllib.loads(process.said["enclave_config"])["cloud"]) == {"address", "public_key", "endpoint"}


def test_files_are_for_their_owner_alone(process: CloudProcess) -> None:
    for name in (DATABASE, "signing.key", "tls/pages.pem"):
        assert (process.folder / name).stat().st_mode & 0o077 == 0
    assert (process.folder / "outbox").stat().st_mode & 0o077 == 0


def test_people_read_words_and_a_signal_ends_it(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "blindai", "cloud", "serve", "--data", str(tmp_path), "--simulation"]
    with subprocess.Popen(
        [*command, "--enclave-port", "0", "--port", "0", "--url", "https://cloud.test", "--enclave-host", "::"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        words = ""
        while "endpoint = " not in words:
            line = process.stderr.readline()
            assert line, words
            words += line
        process.send_signal(signal.SIGTERM)
        out, rest = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, ""), rest
    for word in ("https://cloud.test", "SHA-256", "outbox", 'address = "cloud.test:', "public_key = "):
        assert word in words


def refused(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["cloud", "serve", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ((), "configuration.policy_missing"),
        (("--simulation", "--policy", "manifest.toml"), "configuration.policy_missing"),
        (("--policy", "/nowhere/manifest.toml"), "policy.missing"),
        (("--simulation", "--url", "http://cloud.test"), "configuration.site"),
        (("--simulation", "--name", ""), "configuration.site"),
        (("--simulation", "--tls-cert", "x.pem"), "configuration.tls"),
        (("--simulation", "--database", "mysql://x/y"), "configuration.database"),
        (("--simulation", "--database", "postgresql://u:p@h/d"), "configuration.database_password"),
        (("--simulation", "--mail-from", "cloud@example.com"), "configuration.smtp"),
        (("--simulation", "--smtp", "smtps://mail.test"), "configuration.smtp"),
        (("--simulation", "--smtp", "http://mail.test", "--mail-from", "a@example.com"), "configuration.smtp"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_served(
    tmp_path: Path, options: tuple[str, ...], code: str
) -> None:
    ended, output = refused("--data", tmp_path, "--port", "0", "--enclave-port", "0", *options)
    assert (ended != 0, code in output) == (True, True), output


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    SigningKey.kept_in(tmp_path / "signing.key")
    (tmp_path / "signing.key").chmod(0o644)
    _, output = refused("--data", tmp_path, "--port", "0", "--simulation")
    assert "configuration.signing_key" in output


@pytest.mark.parametrize("option", ["--enclave-port", "--port"])
def test_a_port_in_use_is_named(tmp_path: Path, option: str) -> None:
    other = {"--enclave-port": "--port", "--port": "--enclave-port"}[option]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        _, output = refused("--data", tmp_path, "--simulation", option, port, other, "0")
    assert "configuration.address" in output
