"""The reference pages and the code agree."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import msgspec
import pytest

import blindai
from blindai.attestation.attesters.platform import Platform
from blindai.attestation.claims import FLAGS
from blindai.attestation.evidence import TEE
from blindai.attestation.policy import Policy, amd, gpus, lint, reference_values, tcb, tpm
from blindai.attestation.policy.policy import _KEYS
from blindai.channel import gate, statement
from blindai.channel.keyset import Keyset
from blindai.enclave.config import Cloud, Custody, EnclaveConfig, Limits, Runtime, Timeouts
from blindai.wire.problems import PROBLEMS

ROOT = Path(__file__).parents[1]
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def first_cells(text: str) -> set[str]:
    """All words in code font in the first cells of tables."""
    cells = re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


def test_every_code_of_the_server_is_listed_with_its_status() -> None:
    listed: dict[str, int] = {}
    for cell, numbers in re.findall(r"^\| ([^|]*) \| ([0-9, ]+) \|", page("reference/http.md"), re.MULTILINE):
        codes = [code for code in re.findall(r"`([^`]+)`", cell) if not code.endswith("*")]
        # A row has one status for all of its codes, or one for each.
        statuses = [int(number) for number in numbers.split(",")]
        listed.update(zip(codes, statuses * len(codes) if len(statuses) == 1 else statuses, strict=False))
    statuses_of = {code: problem.status for code, problem in PROBLEMS.items()}
    assert listed.items() <= statuses_of.items()
    # What only a custodian answers, and only to enclaves, stands with the other codes.
    assert statuses_of.keys() - listed.keys() <= first_cells(page("reference/codes.md"))


@pytest.mark.parametrize("section", [Limits, Timeouts, Runtime], ids=lambda section: section.__name__)
def test_every_setting_is_listed_with_its_default(section: type[msgspec.Struct]) -> None:
    text = page("reference/configuration.md")
    for field in msgspec.structs.fields(section):
        row = re.search(rf"^\| `{field.name}` \| ([^|]+) \|", text, re.MULTILINE)
        assert row, field.name
        if quoted := re.fullmatch(r"`(.*)`", row[1]):
            assert json.loads(quoted[1]) == json.loads(msgspec.json.encode(field.default)), field.name
        else:
            number = re.fullmatch(r"([0-9 ]+?)( [KMG]iB)?", row[1])
            assert number, row[1]
            assert int(number[1].replace(" ", "")) * UNITS.get((number[2] or "").strip(), 1) == field.default


def test_no_setting_is_listed_that_does_not_exist() -> None:
    known = {
        field.name
        for part in (EnclaveConfig, Limits, Timeouts, Runtime, Custody, Cloud)
        for field in msgspec.structs.fields(part)
    }
    for part in (Custody, Cloud):
        listed = first_cells(page("reference/configuration.md"))
        assert {field.name for field in msgspec.structs.fields(part)} <= listed
    assert first_cells(page("reference/configuration.md")) <= known


def test_every_key_of_a_manifest_is_described() -> None:
    text = page("reference/manifest.md")
    registers = {register for names in reference_values.REGISTER_BYTES.values() for register in names}
    sections = (
        tcb.TcbPolicy,
        amd.AmdPolicy,
        tpm.TpmPolicy,
        gpus.GpuPolicy,
        gpus.GoldenMeasurements,
    )
    keys = {key for section in sections for key in section.__dataclass_fields__}
    for key in {*_KEYS, *registers, *reference_values.REFERENCE_NUMBERS, *keys, *amd.PRODUCT_PARTS}:
        assert re.search(rf"[`\[.]{key}[`\].]", text), key
    for status in tcb.TCB_STATUSES:
        assert f"`{status}`" in text or f'"{status}"' in text, status
    for flag in FLAGS:
        assert f"`{flag}`" in text or f'"{flag}"' in text, flag


def test_the_manifest_for_all_tees_is_one() -> None:
    examples = re.findall(r"^```toml\n(.*?)^```", page("reference/manifest.md"), re.MULTILINE | re.DOTALL)
    manifest = Policy.parse(examples[-1], "manifest.md")
    assert set(manifest.accepted_tees) == set(TEE)
    assert {reference.tee for reference in manifest.hardware} == set(reference_values.HARDWARE_FORMS)


def test_every_warning_about_a_manifest_is_described() -> None:
    source = Path(lint.__file__).read_text("utf-8")
    raised = {f"lint.{code}" for code in re.findall(r'_warning\(policy, "([a-z_]+)"', source)}
    described = {word for word in first_cells(page("reference/manifest.md")) if word.startswith("lint.")}
    assert raised == described


def test_the_specification_names_every_field_and_constant() -> None:
    text = page("protocol/attested-tls.md")
    fields = {
        *statement.Statement.__struct_fields__,
        *Keyset.__struct_fields__,
        *gate.GateRequest.__struct_fields__,
    }
    for name in fields | {*gate.FreshAnswer.__struct_fields__, *gate.ResumedAnswer.__struct_fields__}:
        assert re.search(rf'[`"]{name}[`"]', text), name
    domains = {value for name, value in vars(statement).items() if name.endswith("_DOMAIN")}
    assert domains >= {"blindai/statement/v1", "blindai/resume/v1"}
    for constant in {*domains, statement.EXPORTER_LABEL.decode(), gate.GATE_PATH}:
        assert constant in text, constant
    assert str(gate.MAX_REQUEST_HEAD_BYTES) in text
    assert str(gate.MAX_REQUEST_BODY_BYTES) in text


@pytest.mark.parametrize("name", ["platforms.md", "reference/cli.md"])
def test_every_platform_is_described(name: str) -> None:
    text = page(name)
    for platform in Platform:
        assert f"`{platform}`" in text or f"--platform {platform}`" in text, platform


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert blindai.__version__ == project["version"]
