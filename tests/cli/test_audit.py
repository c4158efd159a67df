"""`blindai verify --save` and `blindai audit`: a verdict that can be repeated, by hand too."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from blindai.attestation.anchors import Vendor
from blindai.attestation.evidence import Evidence
from blindai.attestation.measure.local import local_policy
from blindai.attestation.policy import Policy
from blindai.cli.verdict import EXPLAIN_WIDTH
from blindai.crypto.digests import tagged_sha256

from .conftest import Run
from .test_serve import announced, started
from .test_verify import with_other_code

CHECKOUT = Path(__file__).parents[2]
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def saved(run: Run, folder: Path, address: str) -> Path:
    ended = run("verify", address, "--save", "evidence.json")
    assert (ended.code, "saved to evidence.json" in ended.err) == (0, True)
    return folder / "evidence.json"


def edited(path: Path, edit: Edit) -> Path:
    content = json.loads(path.read_text())
    edit(content)
    changed = path.with_name("edited.json")
    changed.write_text(json.dumps(content))
    return changed


def outcomes(ended: Any) -> dict[str, str]:
    return {check["step"]: check["outcome"] for check in ended.json["result"]["checks"]}


def test_an_accepted_enclave_is_accepted_again_without_it(program: Run, run: Run, saved: Path, address: str) -> None:
    ended = program("audit", saved.name)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert sum(line.startswith("PASS") for line in lines) >= 6
    assert sum(line.startswith("SKIP") for line in lines) == 1
    assert "bound to the recorded connection" in ended.out
    assert "ACCEPTED" in ended.out
    assert "the time of the file" in ended.out
    assert address in ended.out
    assert lines[-1].startswith("not known that nonce, exporter value and TLS key are those of a live connection")


def test_the_channel_is_skipped_and_never_counts_as_passed(run: Run, saved: Path) -> None:
    ended = run("audit", saved, "--json")
    found = outcomes(ended)
    assert (ended.code, found["channel"], found["binding"]) == (0, "SKIP", "PASS")
    passed = sum(outcome == "PASS" for outcome in found.values())
    assert f"{passed} of {passed} required checks" in run("audit", saved).out
    assert ended.json["not_known"]
    assert not ended.json["policy_changed"]
    assert ended.json["recorded_verdict"]["status"] == "affirming"


def test_the_statement_can_be_hashed_by_hand(run: Run, saved: Path) -> None:
    told = run("audit", saved, "--json").json
    statement = told["statement"]
    assert hashlib.sha512(statement["text"].encode()).hexdigest() == statement["report_data"]
    assert told["result"]["claims"]["report_data"] == statement["report_data"]
    content = json.loads(saved.read_text())
    domain, _, text = statement["text"].partition("\0")
    assert (domain, json.loads(text)) == ("blindai/statement/v1", content["gate"]["statement"])
    keyset, config = content["gate"]["keyset"], content["gate"]["config"]
    assert tagged_sha256("blindai/keyset/v1", keyset) == content["gate"]["statement"]["keyset_digest"]
    assert tagged_sha256("blindai/config/v1", config) == content["gate"]["statement"]["config_digest"]


def test_the_script_of_the_documentation_checks_a_file_by_hand(saved: Path) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", (CHECKOUT / "docs" / "verdict.md").read_text("utf-8"), re.DOTALL)
    ended = subprocess.run([sys.executable, "-I", "-c", script], cwd=saved.parent, capture_output=True, check=True)
    told = dict(line.split() for line in ended.stdout.decode().splitlines())
    policy = Policy.load(saved.parent / "manifest.toml")
    assert told["root"] == policy.simulated_roots[Vendor.INTEL]
    assert told["mrtd"] in {reference.measurements.get("mrtd") for reference in policy.code}


def test_the_file_holds_no_private_key(saved: Path) -> None:
    text = saved.read_text()
    assert "PRIVATE" not in text
    assert set(json.loads(text)) == {"kind", "v", "blindai", "address", "verdict", "gate"}


def test_a_refused_enclave_can_be_looked_at_later(run: Run, folder: Path, address: str) -> None:
    other = with_other_code(folder)
    assert run("verify", address, "--policy", other, "--save", "refused.json").code == 3
    ended = run("audit", "refused.json", "--policy", other)
    assert (ended.code, "code.unknown" in ended.err) == (3, True)
    assert "refused then: code.unknown" in ended.out
    assert "is not the one of that verdict" not in ended.out
    # By the policy that approves the code, the same evidence is good: the policy has changed, and that is said.
    ended = run("audit", "refused.json")
    assert ended.code == 0
    assert re.search(r"policy\s+manifest\.toml is not the one of that verdict", ended.out)
    assert run("audit", "refused.json", "--json").json["policy_changed"] is True


@pytest.mark.parametrize("at", ["2035-01-01T00:00:00Z", "2001-01-01T00:00:00+01:00"])
def test_at_another_time_the_same_evidence_is_refused(run: Run, saved: Path, at: str) -> None:
    ended = run("audit", saved, "--at", at)
    assert ended.code == 3
    assert re.search(r"endorsements\.\w+\.(expired|not_yet_valid)", ended.err)
    assert "leave out --at" in ended.err
    assert "check the clock" not in ended.err


def test_now_is_a_time(run: Run, saved: Path) -> None:
    ended = run("audit", saved, "--at", "now", "--json")
    assert ended.code == 0
    assert ended.json["at"] >= ended.json["recorded_at"]


@pytest.mark.parametrize("at", ["yesterday", "2026-01-01", "2026-01-01T00:00:00", ""])
def test_a_time_that_is_none(run: Run, saved: Path, at: str) -> None:
    ended = run("audit", saved, "--at", at)
    assert (ended.code, "configuration.time" in ended.err) == (2, True)


def flip(content: dict[str, Any], name: str) -> None:
    statement = content["gate"]["statement"]
    statement[name] = ("1" if statement[name][0] == "0" else "0") + statement[name][1:]


def unclaimed(content: dict[str, Any]) -> None:
    """Without the peer's own view, nothing says in which field the two differ."""
    del content["gate"]["claimed"]
    flip(content, "nonce")


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (lambda content: flip(content, "nonce"), "binding.nonce"),
        (lambda content: flip(content, "ekm"), "binding.exporter"),
        (lambda content: flip(content, "spki_sha256"), "binding.key"),
        (lambda content: flip(content, "keyset_digest"), "binding.record"),
        (lambda content: flip(content, "config_digest"), "binding.record"),
        (lambda content: content["gate"]["keyset"].update(not_after=1), "binding.record"),
        (lambda content: content["gate"]["config"].update(more=True), "binding.record"),
        (lambda content: content["gate"]["statement"].update(role="client"), "binding.role"),
        (unclaimed, "binding.report_data"),
    ],
)
def test_a_statement_that_was_edited_is_refused(run: Run, saved: Path, edit: Edit, code: str) -> None:
    ended = run("audit", edited(saved, edit), "--json")
    assert (ended.code, ended.json["error"]["code"], ended.json["error"]["step"]) == (3, code, "binding")


def test_evidence_that_was_edited_is_refused(run: Run, saved: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        quote = content["gate"]["evidence"]["quote"]
        content["gate"]["evidence"]["quote"] = quote[:100] + ("A" if quote[100] != "A" else "B") + quote[101:]

    ended = run("audit", edited(saved, edit), "--json")
    assert (ended.code, ended.json["error"]["step"]) == (3, "quote")


def test_evidence_that_cannot_be_parsed_is_refused_as_it_was_then(run: Run, saved: Path) -> None:
    path = edited(saved, lambda content: content["gate"].update(evidence={"tee": "abacus"}))
    ended = run("audit", path, "--explain")
    assert (ended.code, "evidence.malformed" in ended.err) == (3, True)
    assert "statement" in ended.out


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content.update(kind="record"),
        lambda content: content.update(v=2),
        lambda content: content.update(more=1),
        lambda content: content.pop("gate"),
        lambda content: content["gate"].update(at="2026-01-01T00:00:00"),
        lambda content: content["gate"]["keyset"].update(not_after=10**18),
        lambda content: content["gate"]["config"].update(limit=0.5),
    ],
)
def test_another_kind_of_file(run: Run, saved: Path, edit: Edit) -> None:
    ended = run("audit", edited(saved, edit))
    assert (ended.code, "input.saved_evidence" in ended.err) == (5, True)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"[" * 100_000, b'{"kind": "attestation", "v": 1'])
def test_a_file_that_is_no_evidence(run: Run, folder: Path, content: bytes) -> None:
    (folder / "other.json").write_bytes(content)
    ended = run("audit", "other.json")
    assert (ended.code, "input.saved_evidence" in ended.err) == (5, True)


def test_a_file_that_is_too_large_or_not_there(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("audit", "nowhere.json").code == 5
    monkeypatch.setattr("blindai.channel.saved_evidence.MAX_FILE_BYTES", 10)
    (folder / "large.json").write_bytes(b"{}" * 10)
    assert run("audit", "large.json").code == 5


def test_standard_input_is_read_for_a_dash(program: Run, saved: Path) -> None:
    assert program("audit", "-", stdin=saved.read_bytes()).code == 0


def test_a_file_is_never_written_over(run: Run, saved: Path, address: str) -> None:
    before = saved.read_bytes()
    ended = run("verify", address, "--save", saved)
    assert (ended.code, "configuration.save_exists" in ended.err) == (2, True)
    assert saved.read_bytes() == before
    assert sorted(path.name for path in saved.parent.iterdir()) == ["evidence.json", "manifest.toml"]


def test_a_folder_that_is_not_there(run: Run, folder: Path, address: str) -> None:
    ended = run("verify", address, "--save", "nowhere/evidence.json")
    assert (ended.code, "configuration.save" in ended.err) == (2, True)
    # A refusal stays a refusal, whatever becomes of the file.
    ended = run("verify", address, "--save", "nowhere/evidence.json", "--policy", with_other_code(folder))
    assert (ended.code, "configuration.save" in ended.err, "code.unknown" in ended.err) == (3, True, True)


def test_a_full_disk_leaves_nothing_behind(
    run: Run, folder: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    ended = run("verify", address, "--save", "evidence.json")
    assert (ended.code, "configuration.save" in ended.err) == (2, True)
    assert [path.name for path in folder.iterdir()] == ["manifest.toml"]


def test_nothing_is_saved_of_a_server_that_gives_no_evidence(run: Run, folder: Path) -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 404 \r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        ended = run("verify", f"https://127.0.0.1:{listener.getsockname()[1]}", "--save", "evidence.json")
        thread.join()
    assert (ended.code, "nothing was saved" in ended.err) == (3, True)
    assert not (folder / "evidence.json").exists()


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_explained_byte_ranges_fit_the_terminal(program: Run, run: Run, saved: Path, columns: int) -> None:
    ended = program("audit", saved.name, "--explain", COLUMNS=str(columns))
    assert ended.code == 0
    rows = [line for line in ended.out.splitlines() if line.startswith(" ")]
    assert max(map(len, rows)) <= min(columns, EXPLAIN_WIDTH)
    shown = re.sub(r"\s+", "", ended.out)
    told = run("audit", saved, "--json").json
    ranges = [part for check in told["result"]["checks"] for part in check["ranges"]]
    assert len(ranges) > 15
    for part in ranges:
        assert f"0x{part['start']:04x}-0x{part['end']:04x}" in shown
    assert {check["step"] for check in told["result"]["checks"] if check["ranges"]} >= {
        "endorsements",
        "quote",
        "binding",
        "code",
    }
    for name in ("report_data", "committed_by_tpm"):
        assert told["statement"][name][:16] in shown


class TestEndorsements:
    """Those that are missing in the file can be asked for; without the option nothing is."""

    @pytest.fixture
    def bare(self, saved: Path) -> Path:
        return edited(saved, lambda content: content["gate"]["evidence"].pop("intel_collateral"))

    def test_without_them_the_evidence_is_refused(self, run: Run, bare: Path) -> None:
        ended = run("audit", bare)
        assert (ended.code, "endorsements.missing" in ended.err) == (3, True)

    def test_they_are_put_beside_the_evidence(
        self, run: Run, bare: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        def complete(evidence: Evidence, library: object) -> Evidence:
            asked.append(evidence.tee)
            whole = msgspec.convert(json.loads(saved.read_text())["gate"]["evidence"], Evidence)
            return msgspec.structs.replace(evidence, intel_collateral=whole.intel_collateral)

        monkeypatch.setattr("blindai.attestation.collateral.library.complete", complete)
        assert run("audit", bare, "--collateral-url", "https://pccs.invalid").code == 0
        assert asked == ["intel-tdx"]

    def test_a_service_that_cannot_be_reached(self, run: Run, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("blindai.attestation.collateral.fetch.ATTEMPTS", 1)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        ended = run("audit", bare, "--collateral-url", f"http://127.0.0.1:{port}", XDG_CACHE_HOME=str(bare.parent))
        assert (ended.code, "collateral.missing" in ended.err) == (8, True)

    def test_evidence_that_cannot_be_parsed_is_not_asked_for(self, run: Run, saved: Path) -> None:
        path = edited(saved, lambda content: content["gate"].update(evidence={"tee": "abacus"}))
        ended = run("audit", path, "--collateral-url", "https://pccs.invalid")
        assert (ended.code, "evidence.malformed" in ended.err) == (3, True)


NVATTEST = """#!{python}
import json, sys
nonce = sys.argv[sys.argv.index("--nonce") + 1]
claim = {{"measres": "{said}", "eat_nonce": nonce}}
print(json.dumps({{"claims": [claim] * 2, "result_code": 0, "result_message": "Ok"}}))
"""


@pytest.mark.parametrize(("said", "code"), [("success", 0), ("fail", 3)])
def test_nvidia_is_asked_where_one_wants_it(program: Run, run: Run, folder: Path, said: str, code: int) -> None:
    (folder / "nvattest").write_text(NVATTEST.format(python=sys.executable, said=said))
    (folder / "nvattest").chmod(0o700)
    with started(folder, "--json", "--devices", "simulated:2") as process:
        address = announced(process)
        (folder / "manifest.toml").write_text(local_policy().to_toml(), encoding="utf-8")
        assert run("verify", address, "--save", "evidence.json").code == 0
        process.terminate()
        process.communicate(timeout=20)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    ended = program("audit", "evidence.json", "--nvattest", PATH=path)
    assert ended.code == code
    assert ("nvattest  accepts 2 devices: Ok" in ended.out) is (code == 0)
    assert ("devices.nvattest" in ended.err) is (code == 3)
    told = run("audit", "evidence.json", "--nvattest", "--json", PATH=path).json
    assert told.get("nvattest") == ("accepts 2 devices: Ok" if code == 0 else None)
    assert run("audit", "evidence.json", "--json").code == 0


def test_nvidia_cannot_be_asked_about_no_devices(run: Run, saved: Path) -> None:
    ended = run("audit", saved, "--nvattest")
    assert (ended.code, "devices.nvattest" in ended.err) == (3, True)
