"""`blindai custodian serve`, as a user starts it."""

from __future__ import annotations

import hashlib
import re
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blindai.cli.app import app
from custodian_processes import CustodianProcess
from lent_models import opened


def test_it_says_where_it_is_and_who(tmp_path: Path) -> None:
    with CustodianProcess(tmp_path / "data") as process:
        assert re.fullmatch(r"127\.0\.0\.1:\d+", process.enclaves)
        assert re.fullmatch(r"https://127\.0\.0\.1:\d+", process.operators)
        with opened(tmp_path / "data") as custodian:
            assert process.public_key == custodian.keys.public_key
        assert process.said["database"] == str(tmp_path / "data" / "custodian.sqlite3")
        port = int(process.operators.rpartition(":")[2])
        certificate = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))
        assert hashlib.sha256(certificate).digest().hex(":").upper() == process.said["certificate_sha256"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_people_read_words_and_signals_end_it(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-P", "-m", "blindai", "custodian", "serve", "--data", str(tmp_path)]
    with subprocess.Popen(
        [*command, "--enclave-port", "0", "--dashboard-port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        words = ""
        while "nobody can sign in" not in words:
            line = process.stderr.readline()
            assert line, words
            words += line
        process.send_signal(number)
        out, rest = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert out == ""
    for word in ("unlock.key", "enclaves", "operators", "SHA-256", "operator add"):
        assert word in words


@pytest.mark.usefixtures("forked")
def test_a_given_certificate_is_shown(tmp_path: Path) -> None:
    with CustodianProcess(tmp_path / "one") as first:
        own = tmp_path / "one" / "tls" / "pages.pem"
        fingerprint = first.said["certificate_sha256"]
    options = ("--tls-cert", own, "--tls-key", own)
    with CustodianProcess(tmp_path / "two", arguments=options) as second:
        assert second.said["certificate_sha256"] == fingerprint
    assert not (tmp_path / "two" / "tls").exists()


def _serve(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["custodian", "serve", *map(str, arguments)])
    return result.exit_code, result.output


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    code, output = _serve("--data", tmp_path, "--tls-cert", tmp_path / "x.pem")
    assert (code, "configuration.tls" in output) == (2, True)


@pytest.mark.parametrize("content", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAA==\n"])
def test_a_certificate_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.pem"
    file.write_bytes(content)
    code, output = _serve("--data", tmp_path, "--tls-cert", file, "--tls-key", file)
    assert (code, "configuration.tls" in output) == (2, True)


@pytest.mark.usefixtures("forked")
def test_a_certificate_of_its_own_that_others_may_read_is_refused(tmp_path: Path) -> None:
    with CustodianProcess(tmp_path):
        pass
    (tmp_path / "tls" / "pages.pem").chmod(0o644)
    code, output = _serve("--data", tmp_path)
    assert (code, "configuration.tls" in output) == (2, True)


@pytest.mark.parametrize("option", ["--enclave-port", "--dashboard-port"])
def test_a_port_in_use_is_named(tmp_path: Path, option: str) -> None:
    other = {"--enclave-port": "--dashboard-port", "--dashboard-port": "--enclave-port"}[option]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, output = _serve("--data", tmp_path, option, port, other, "0")
    assert (code, "configuration.address" in output, port in output) == (2, True, True)
