"""docs/reference/codes.md and the code agree: each code that can be raised is on the page, and nothing else is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import blindai
from blindai.attestation.result import STEPS
from blindai.wire.problems import PROBLEMS

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "codes.md"
PACKAGE = Path(blindai.__file__).parent

_CODE = re.compile(
    r"(attester|audit|channel|custodian|evidence|endorsements|quote|binding|platform|chip|tcb|code|hardware|config"
    r"|devices|result|measure|lease|amount|operator|password|csrf|model(?=\.sealed_))"
    r"(\.[a-z_]+)+"
)
_WITHOUT_STEP = (
    "policy.",
    "attester.",
    "audit.",
    "measure.",
    "custodian.",
    "lease.",
    "amount.",
    "model.",
    "operator.",
    "password.",
    "csrf.",
    "configuration.",
    "proxy.",
)
_SETTING = re.compile(r"(configuration|proxy)\.[a-z_]+")
# Functions that put the first part of the code before their argument.
_PREFIXES = {"refusal": "endorsements", "_attributes": "platform"}


def on_page() -> dict[str, str]:
    """Code to step; those that no appraisal raises have none."""
    rows = re.findall(r"^\| `([a-z_.]+)` \| ([^|]+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(rows) == len({code for code, _ in rows}), "a code is listed twice"
    return {code: "" if code.startswith(_WITHOUT_STEP) else step.strip() for code, step in rows}


def raised_in(path: Path) -> Iterator[str]:
    """The codes in a module, as patterns: parts that are only known at run time match any word."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _CODE.fullmatch(node.value):
            yield re.escape(node.value)
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in _PREFIXES and path.parent.name == "verifiers" and (part := pattern(node.args[0])):
            yield re.escape(f"{_PREFIXES[name]}.") + part
        # Origin.error and Table.error: (path or key, code, message).
        if name == "error" and path.parent.name == "policy" and len(node.args) > 1 and (part := pattern(node.args[1])):
            yield re.escape("policy.") + part


def pattern(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            re.escape(str(part.value)) if isinstance(part, ast.Constant) else "[a-z_]+" for part in node.values
        )
    return ""


@pytest.fixture(scope="module")
def raised() -> dict[str, str]:
    """Pattern to the module that raises it."""
    return raised_below(
        "attestation", "channel", "custody/audit", "custody/audit", "custody/ledger", "enclave/lease", "web"
    )


def raised_below(*folders: str) -> dict[str, str]:
    modules = [path for folder in folders for path in (PACKAGE / folder).rglob("*.py")]
    return {code: path.name for path in modules for code in raised_in(path)}


def test_every_code_that_is_raised_is_on_the_page(raised: dict[str, str]) -> None:
    page = on_page()
    missing = {
        code: module for code, module in raised.items() if not any(re.fullmatch(code, listed) for listed in page)
    }
    assert missing == {}


def test_every_code_on_the_page_is_raised(raised: dict[str, str]) -> None:
    everything = raised | raised_below("enclave", "custody", "wire", "cli")
    others = [code for code in on_page() if not _SETTING.fullmatch(code)]
    assert [code for code in others if not any(re.fullmatch(known, code) for known in everything)] == []


def settings_refused() -> set[str]:
    """Codes of settings that a client, a server or a command refuses, wherever they stand in the code."""
    trees = [ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")]
    constants = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return {value for value in constants if isinstance(value, str) and _SETTING.fullmatch(value)}


def test_every_code_of_a_setting_is_listed_and_no_other() -> None:
    found = settings_refused()
    assert {"configuration.policy_missing", "configuration.isolation", "proxy.address"} <= found
    # What a proxy answers to requests stands with its status, as `test_docs` checks.
    assert {code for code in on_page() if _SETTING.fullmatch(code)} == found - PROBLEMS.keys()


def test_the_scan_sees_codes_of_every_kind(raised: dict[str, str]) -> None:
    for code in (
        r"code\.unknown",
        r"endorsements\.anchor",
        r"endorsements\.[a-z_]+\.expired",
        r"platform\.service_td",
        r"policy\.grace",
        r"channel\.tls",
    ):
        assert code in raised


def test_every_step_on_the_page_is_a_step() -> None:
    steps = {step for code, step in on_page().items() if step and code != "result.refused"}
    assert steps == set(STEPS)


@pytest.mark.parametrize(
    ("code", "step"), [item for item in on_page().items() if item[1] and item[0] != "result.refused"]
)
def test_a_code_belongs_to_the_step_of_its_name(code: str, step: str) -> None:
    """But for those that users look for under another step than the module that finds them."""
    exceptions = {
        "platform.debug": "debug",
        "platform.attributes": "debug",
        "platform.sept_ve_disable": "debug",
        "platform.service_td": "debug",
        "platform.guest_policy": "debug",
        "platform.migratable": "debug",
        "platform.smt": "debug",
        "chip.unknown": "platform",
        "chip.masked": "platform",
        "result.expired": "binding",
    }
    assert step == exceptions.get(code, code.partition(".")[0])
