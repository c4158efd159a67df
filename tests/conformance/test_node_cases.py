"""The node tests of the onnx package, through a real enclave over attested TLS: equal to ONNX Runtime, or listed."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import onnx
import onnxruntime
import pytest
from tests.conformance.node_cases import (
    Case,
    Direct,
    Outputs,
    collect,
    difference,
    has_number_for_all,
    run_directly,
    run_in_enclave,
)

from blindai import BlindAIError, Connection
from blindai.demo.enclaves import served

# All of it is one fixture: some 10 s, of which onnx takes half to make its cases.
pytestmark = pytest.mark.timeout(300)

MODES: Final = ("binary", "json")

# Cases that must be equal, lest a change loses many and nobody sees it. ONNX Runtime's CPU kernels are not quite the
# same on every machine, hence some slack.
FEWEST_EQUAL: Final = {"binary": 1400, "json": 1365}

# How an enclave may refuse what ONNX Runtime refuses.
REFUSALS: Final = {
    "model.invalid",
    "model.op_domain",
    "model.unsupported_operator",
    "model.unsupported_type",
    "input.run",
}

CLIENTS: Final = 3


class Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of exceptions.toml."""

    modes: tuple[str, ...]
    code: str
    reason: str
    types: frozenset[str] = frozenset()
    cases: frozenset[str] = frozenset()
    values: str = ""

    def covers(self, run: Run) -> bool:
        if run.mode not in self.modes:
            return False
        if self.values:
            return not run.case.foreign and not has_number_for_all((*run.case.inputs.values(), *run.direct.outputs))
        return run.case.name in self.cases or not self.types.isdisjoint(run.case.foreign)


@dataclass(frozen=True)
class Run:
    """One case in one mode: what ONNX Runtime made of it, and what the enclave did."""

    case: Case
    mode: str
    direct: Direct
    ours: Outputs | BlindAIError

    @property
    def possible(self) -> bool:
        return not self.direct.refusal

    @property
    def refusal(self) -> str:
        """The code of the enclave's refusal; empty where it answered."""
        return self.ours.code if isinstance(self.ours, BlindAIError) else ""

    @property
    def equal(self) -> bool:
        return self.possible and not isinstance(self.ours, BlindAIError) and not self.difference

    @property
    def difference(self) -> str:
        return str(self.ours) if isinstance(self.ours, BlindAIError) else difference(self.ours, self.direct.outputs)

    def __str__(self) -> str:
        return f"{self.case.name}, {self.mode}: {self.difference}"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    # A process for each of 1,900 models would take minutes. That a process changes no answer is the sandbox's to test.
    config = tmp_path_factory.mktemp("node-cases") / "enclave.toml"
    config.write_text('[runtime]\nisolation = "thread"\n')
    with served(config=config) as address, Connection(address, simulation=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def runs(client: Connection) -> list[Run]:
    cases = collect()
    with ThreadPoolExecutor(CLIENTS) as pool:
        served_runs = pool.map(lambda case: run_in_enclave(client, case), cases)
        direct_runs = [run_directly(case) for case in cases]
        return [
            Run(case, mode, direct, ours)
            for case, direct, both in zip(cases, direct_runs, served_runs, strict=True)
            for mode, ours in zip(MODES, both, strict=True)
        ]


@pytest.fixture(scope="module")
def exceptions() -> tuple[Listed, ...]:
    text = Path(__file__).with_name("exceptions.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text)["exception"], tuple[Listed, ...])


def test_every_model_that_onnx_runtime_runs_gives_the_same_bits(
    runs: list[Run], exceptions: tuple[Listed, ...], figures: Callable[[str], None]
) -> None:
    excepted = [
        (run, listed)
        for run in runs
        if run.possible
        for listed in exceptions
        if listed.covers(run) and listed.code == run.refusal
    ]
    allowed = {(run.case.name, run.mode) for run, _ in excepted}
    wrong = [run for run in runs if run.possible and not run.equal and (run.case.name, run.mode) not in allowed]
    assert list(map(str, wrong)) == []

    figures(f"onnx {onnx.__version__}, ONNX Runtime {onnxruntime.__version__}: {len(runs) // 2} node tests")
    for mode in MODES:
        equal = sum(run.equal for run in runs if run.mode == mode)
        figures(f"{mode}: {equal} equal bit for bit, {sum(run.mode == mode for run, _ in excepted)} exceptions")
        assert equal >= FEWEST_EQUAL[mode]
    for listed in exceptions:
        count = len({run.case.name for run, used in excepted if used is listed})
        figures(f"exception: {count} in {' and '.join(listed.modes)}, {listed.code}: {listed.reason}")
    impossible = Counter(run.direct.refusal for run in runs[::2] if not run.possible)
    figures(f"ONNX Runtime itself cannot run {impossible.total()}:")
    for reason, count in impossible.most_common():
        figures(f"  {count:>4} {reason}")
    others = sum(run.equal and not run.direct.as_expected for run in runs[::2])
    figures(f"of those equal in binary, ONNX Runtime's own values are beyond onnx's tolerance in {others}")


def test_every_exception_is_needed(runs: list[Run], exceptions: tuple[Listed, ...]) -> None:
    for listed in exceptions:
        covered = [run for run in runs if run.possible and listed.covers(run)]
        assert {run.mode for run in covered} == {*listed.modes}, listed
        assert listed.types <= {kind for run in covered for kind in run.case.foreign}, listed
        assert listed.cases <= {run.case.name for run in covered}, listed
        assert [run.case.name for run in covered if run.refusal != listed.code] == [], listed


def test_what_onnx_runtime_refuses_is_refused_in_words(runs: list[Run]) -> None:
    answered_otherwise = [str(run) for run in runs if not run.possible and run.refusal not in REFUSALS]
    assert answered_otherwise == []


def test_nothing_is_left_to_chance(runs: list[Run]) -> None:
    """The random operators do not load in ONNX Runtime, and its dropout is seeded: every answer can be compared."""
    assert [run.case.name for run in runs if not run.direct.repeatable] == []


def test_nothing_of_a_case_stays_behind(runs: list[Run], client: Connection) -> None:
    assert client.models() == ()
