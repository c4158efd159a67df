"""`blindai manifest`: what it remarks on, and what it says in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest

from blindai.attestation.policy import Policy

from .conftest import Run

STRICT = f"""\
version = 1
accepted_tees = ["amd-sev-snp"]

[[code]]
name = "guest [red]"
tee = "amd-sev-snp"
launch_digest = "{"11" * 48}"

[amd]
products = ["Milan"]
minimum_tcb.Milan = {{ microcode = 209 }}

[chips]
allowed = ["{"5a" * 64}"]

[config]
digests = ["{"66" * 32}"]
"""


@pytest.fixture
def manifest(folder: Path) -> Path:
    path = folder / "manifest.toml"
    path.write_text(STRICT)
    return path


def weaken(manifest: Path) -> None:
    manifest.write_text(STRICT.replace("[amd]", "[amd]\nrequire_crl = false"))


@pytest.mark.usefixtures("manifest")
def test_a_manifest_with_nothing_to_remark(run: Run) -> None:
    ended = run("manifest", "check", "--strict")
    assert (ended.code, ended.out, ended.err) == (0, "manifest.toml: nothing to remark\n", "")


def test_a_warning_passes_unless_it_is_asked_about(run: Run, manifest: Path) -> None:
    weaken(manifest)
    ended = run("manifest", "check", "manifest.toml")
    assert ended.code == 0
    assert ended.out.split("\n")[0].startswith("manifest.toml:10: warning: AMD's revocation list may be left out")
    assert ended.out.endswith("[lint.crl_optional]\nmanifest.toml: 1 warning\n")
    assert run("manifest", "check", "--strict").code == 1


def test_every_error_has_its_line(run: Run, manifest: Path) -> None:
    manifest.write_text(STRICT.replace("_tcb.Milan", "_tcb.Rome"))
    ended = run("manifest", "check", manifest)
    assert ended.code == 2
    lines = ended.out.split("\n")
    assert lines[0].startswith(f"{manifest}:11: error: unknown key 'Rome' in [amd.minimum_tcb]; ")
    assert lines[1:] == [f"{manifest}: 1 error", ""]
    manifest.write_text(STRICT.replace("66", "6").replace("11", "1"))
    assert run("manifest", "check").out.endswith("manifest.toml: 2 errors\n")


def test_no_manifest(run: Run) -> None:
    ended = run("manifest", "check", "none.toml")
    assert (ended.code, ended.out) == (2, "")
    assert "blindai measure" in ended.err
    assert run("manifest", "show", "none.toml").code == 2
    assert run("manifest", "check", "none.toml", "--json").json["error"]["code"] == "policy.missing"


def test_remarks_for_machines(run: Run, manifest: Path) -> None:
    weaken(manifest)
    told = run("manifest", "check", "--json").json
    assert (told["file"], told["valid"]) == ("manifest.toml", True)
    (finding,) = told["findings"]
    assert (finding["level"], finding["code"], finding["line"]) == ("warning", "lint.crl_optional", 10)
    manifest.write_text("version = 1")
    ended = run("manifest", "check", "--json")
    assert (ended.code, ended.json["valid"]) == (2, False)
    assert {finding["level"] for finding in ended.json["findings"]} == {"error"}


@pytest.mark.usefixtures("manifest")
def test_a_manifest_in_plain_words(run: Run) -> None:
    ended = run("manifest", "show")
    assert ended.code == 0
    lines = ended.out.split("\n")
    assert lines[:2] == ["policy manifest.toml", f"digest {Policy.parse(STRICT, 'm').digest}"]
    assert "AMD SEV-SNP guests (amd-sev-snp)" in lines
    assert "  line 4    runs guest [red]: launch_digest 1111..11" in lines
    assert "            simulated platforms" in lines


@pytest.mark.usefixtures("manifest")
def test_plain_words_for_machines(run: Run) -> None:
    told = run("manifest", "show", "--json").json
    assert told["digest"] == Policy.parse(STRICT, "m").digest
    guests = told["sections"][0]
    assert {"text": f"runs guest [red]: launch_digest {'11' * 48}", "line": 4} in guests["statements"]
