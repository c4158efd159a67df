"""`blindai verify`: what it prints and how it ends."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path

import pytest

from .conftest import Run


def with_other_code(folder: Path) -> Path:
    """The manifest, with one digit of the measurement of TDX changed."""
    text = (folder / "manifest.toml").read_text()
    changed = re.sub(r'(mrtd = ")(.)', lambda found: found[1] + ("1" if found[2] == "0" else "0"), text)
    assert changed != text
    path = folder / "other.toml"
    path.write_text(changed)
    return path


def test_an_approved_enclave(program: Run, address: str) -> None:
    ended = program("verify", address)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("PASS") for line in lines) >= 6
    assert not any(line.startswith("FAIL") for line in lines)
    assert "ACCEPTED" in ended.out
    assert "SIMULATED intel-tdx" in ended.out
    assert address in ended.out


def test_code_that_is_not_approved(run: Run, folder: Path, address: str) -> None:
    ended = run("verify", address, "--policy", with_other_code(folder).name)
    assert ended.code == 3
    assert [line.split()[:3] for line in ended.out.splitlines() if line.startswith("FAIL")] == [
        ["FAIL", "code", "measurement"]
    ]
    assert "REFUSED" in ended.out
    # The error of the interface's description, part by part.
    head, *rows = ended.err.splitlines()
    assert head == "AttestationError: the simulated enclave runs code you have not approved"
    assert [row.split()[0] for row in rows] == ["check", "expected", "got", "likely", "safe", "next", "code"]
    told = {row.split()[0]: row.split(maxsplit=1)[1] for row in rows}
    counted = re.fullmatch(r"code measurement \(MRTD\)\s+(\d+) of (\d+) passed", told["check"])
    assert counted is not None
    assert int(counted[1]) == int(counted[2]) - 1
    assert re.fullmatch(r"[0-9a-f]{4}\.\.[0-9a-f]{2} \(policy other\.toml, line \d+\)", told["expected"])
    assert re.fullmatch(r"[0-9a-f]{4}\.\.[0-9a-f]{2}", told["got"])
    assert told["safe"] == "no prompt, tensor or API key was sent"
    assert told["next"] == f"blindai verify {address} --explain"
    assert told["code"] == "code.unknown"


def test_json_of_an_acceptance(run: Run, address: str) -> None:
    ended = run("verify", address, "--json")
    assert ended.code == 0
    result = ended.json["result"]
    assert (result["status"], result["mode"], result["simulated"]) == ("affirming", "fresh", True)
    assert ended.json["statement"]["report_data"] == result["claims"]["report_data"]
    assert [check["step"] for check in result["checks"]][:5] == [
        "channel",
        "evidence",
        "endorsements",
        "quote",
        "binding",
    ]


def test_json_of_a_refusal(run: Run, folder: Path, address: str) -> None:
    ended = run("verify", address, "--json", "--policy", with_other_code(folder))
    assert ended.code == 3
    assert ended.json["error"]["code"] == "code.unknown"
    assert ended.json["error"]["step"] == "code"
    assert ended.json["result"]["status"] == "contraindicated"
    assert [check["step"] for check in ended.json["result"]["checks"] if check["outcome"] == "FAIL"] == ["code"]


def test_explain_shows_every_value_whole(run: Run, folder: Path, address: str) -> None:
    ended = run("verify", address, "--explain", "--policy", with_other_code(folder))
    assert ended.code == 3
    shown = re.sub(r"\s+", "", ended.out)
    expected = re.findall(r'mrtd = "([0-9a-f]{96})"', (folder / "other.toml").read_text())
    assert all(value in shown for value in expected)
    for step in ("channel", "evidence", "endorsements", "quote", "binding", "platform", "debug", "tcb", "code.unknown"):
        assert step in ended.out


def test_simulation_without_a_manifest(run: Run, folder: Path, address: str) -> None:
    (folder / "manifest.toml").unlink()
    ended = run("verify", address)
    assert (ended.code, "configuration.policy_missing" in ended.err) == (2, True)
    assert run("verify", address, "--simulation").code == 0


def test_a_manifest_that_allows_no_simulation(run: Run, folder: Path, address: str) -> None:
    path = folder / "manifest.toml"
    text = path.read_text().replace("allow_simulated = true", "allow_simulated = false")
    path.write_text(re.sub(r"^\[simulated_roots\]\n(.+\n)*", "", text, flags=re.MULTILINE))
    ended = run("verify", address)
    assert ended.code == 3
    assert "endorsements.anchor" in ended.err


def test_an_unknown_key_in_the_manifest(run: Run, folder: Path, address: str) -> None:
    path = folder / "manifest.toml"
    path.write_text(path.read_text().replace("[tcb]\n", "[tcb]\nstatus = 1\n"))
    ended = run("verify", address)
    assert ended.code == 2
    assert re.search(r"manifest\.toml, line \d+: .*status", ended.err)


def test_nothing_listens(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ended = run("verify", f"https://127.0.0.1:{port}")
    assert (ended.code, "unavailable.connect" in ended.err) == (8, True)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9443", "https://user@host", "ftp://x", "https://host:0x1"])
def test_an_address_that_is_none(run: Run, address: str) -> None:
    ended = run("verify", address)
    assert ended.code == 2
    assert ended.err.startswith("ConfigurationError: ")


def test_the_address_comes_from_the_environment(run: Run, address: str) -> None:
    assert run("verify", BLINDAI_ADDR=address).code == 0


def test_ten_lines_even_where_everything_is_pinned(run: Run, folder: Path, address: str) -> None:
    found = run("verify", address, "--json").json["result"]
    path = folder / "manifest.toml"
    config = next(check["got"] for check in found["checks"] if check["step"] == "config").partition(":")[0]
    measured = found["claims"]["measurements"]
    registers = f'mrtd = "{measured["mrtd"]}"\nrtmr0 = "{measured["rtmr0"]}"\n'
    hardware = f'\n[[hardware]]\nname = "this"\ntee = "intel-tdx"\n{registers}'
    text = path.read_text().replace("digests = []", f'digests = ["{config}"]')
    path.write_text(text + hardware)
    ended = run("verify", address, COLUMNS="80")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert (len(lines), max(map(len, lines)) <= 80) == (10, True)
    counted = re.search(r"(\d+) of (\d+) required checks", ended.out)
    assert counted is not None
    assert int(counted[1]) == int(counted[2]) >= 11
    assert [line[:4] for line in lines[:7]] == ["PASS"] * 7
    assert lines[7][:4] in {"PASS", "SKIP"}


def test_a_port_that_is_no_enclave(run: Run) -> None:
    """What a stranger says cannot move the cursor, or change colours, of whoever asks."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 404 \x1b[2J\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        ended = run("verify", f"https://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert ended.code == 3
    assert "channel.not_tls" in ended.err
    assert "REFUSED" in ended.out
    assert "\x1b" not in ended.out + ended.err
