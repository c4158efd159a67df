"""`blindai proxy`: what a user reads in the terminal, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import Run

TOKEN = "0123456789abcdefghij"


@contextmanager
def proxy(address: str, folder: Path, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "blindai", "proxy", address, "--simulation", *options],
        cwd=folder,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def text_until(process: subprocess.Popen[str], word: str) -> str:
    """What it says, up to the line with `word`."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if word in line:
            return said
    raise AssertionError(said)


def status(port: int, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/v2", headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its status, and what else it has printed and said, once it was told to end."""
    process.send_signal(signal.SIGTERM)
    printed, said = process.communicate(timeout=30)
    return process.returncode, printed, said


def port_in(text: str) -> int:
    found = re.search(r"http://127\.0\.0\.1:(\d+)", text)
    assert found, text
    return int(found[1])


def test_the_terminal_shows_the_checks_the_token_and_an_example(address: str, folder: Path) -> None:
    with proxy(address, folder, "--listen", "127.0.0.1:0") as process:
        said = text_until(process, "curl")
        assert "press Ctrl-C to stop" in said
        shown = re.search(r"^  token +(\S+)$", said, re.MULTILINE)
        assert shown, said
        port = port_in(said)
        example = said.splitlines()[-1]
        # The token goes in on standard input: arguments are public on a machine.
        assert example.startswith(f"  try         curl -H @- http://127.0.0.1:{port}/v2 <<< ")
        assert f"'Proxy-Authorization: Bearer {shown[1]}'" in example
        assert "\x1b" not in said
        assert status(port, Proxy_Authorization=f"Bearer {shown[1]}") == 200
        assert status(port) == 407
        assert status(port, Proxy_Authorization="Bearer wrong") == 407
        code, printed, rest = ended(process)
    assert code == 0
    assert "PASS" in printed
    assert "\x1b" not in printed
    refused = rest.splitlines()
    assert [line.startswith("refused 407 proxy.token  ") for line in refused] == [True, True]
    assert shown[1] not in rest
    assert "\x1b" not in rest


def test_without_a_token_it_says_what_that_means(address: str, folder: Path) -> None:
    with proxy(address, folder, "--listen", "127.0.0.1:0", "--no-token") as process:
        said = text_until(process, "NO TOKEN")
        port = port_in(said)
        assert f"  try         curl http://127.0.0.1:{port}/v2\n" in said
        assert "  token" not in said
        assert status(port, Host="evil.test") == 421
        code, _, rest = ended(process)
    assert code == 0
    assert rest.startswith("refused 421 proxy.host  ")


def test_a_token_of_a_file_is_never_shown(address: str, folder: Path) -> None:
    kept = folder / "token"
    kept.write_text(f"{TOKEN}\n")
    kept.chmod(0o600)
    with proxy(address, folder, "--listen", "127.0.0.1:0", "--token-file", str(kept)) as process:
        said = text_until(process, "curl")
        assert status(port_in(said), Proxy_Authorization=f"Bearer {TOKEN}") == 200
        code, _, rest = ended(process)
    assert (code, rest) == (0, "")
    assert f"  token in    {kept}\n" in said
    assert f"Bearer $(<{kept})" in said
    assert TOKEN not in said


def test_json_is_one_announcement_and_a_line_for_each_refusal(address: str, folder: Path) -> None:
    with proxy(address, folder, "--listen", "127.0.0.1:0", "--json") as process:
        assert process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            assert line, process.communicate()
            text += line
        announcement = json.loads(text)
        assert set(announcement) == {"address", "enclave", "token", "status", "simulated"}
        assert (announcement["enclave"], announcement["simulated"]) == (address, True)
        assert status(port_in(announcement["address"])) == 407
        code, _, said = ended(process)
    assert code == 0
    (refusal,) = [json.loads(line)["refused"] for line in said.splitlines()]
    assert (refusal["code"], refusal["status"]) == ("proxy.token", 407)
    assert refusal["peer"].startswith("127.0.0.1")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--listen", "0.0.0.0:0"), "proxy.address"),
        (("--listen", "127.0.0.1:0", "--unix", "socket"), "proxy.address"),
        (("--no-token", "--token-file", "token"), "proxy.token_file"),
        (("--allow-host", "a b"), "proxy.allowed"),
        (("--allow-origin", "*"), "proxy.allowed"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_listens(run: Run, options: tuple[str, ...], code: str) -> None:
    refused = run("proxy", "https://localhost:1", "--simulation", "--json", *options)
    assert refused.code != 0
    assert code in refused.out + refused.err
