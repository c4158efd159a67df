"""What the process of a model cannot do, tried from inside of one."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from blindai.enclave.config import EngineName, Runtime
from blindai.enclave.sandbox import confinement
from blindai.enclave.sandbox.confinement import MACHINES, assemble, require_confinement
from blindai.enclave.sandbox.sandbox import Sandbox
from blindai.errors import ConfigurationError, InvalidModel
from enclave_server import looping_model
from hostile_nursery import ATTACKS
from sandboxes import CONFIG, Body, in_sandbox


async def _attack(made: Sandbox) -> dict[str, str]:
    with pytest.raises(InvalidModel) as refused:
        await made.load(Body(b"model"))
    return dict(part.split("=") for part in f"{refused.value.message} {refused.value.hint}".split())


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    return in_sandbox(_attack, conduct="attacks")


@pytest.mark.parametrize("attack", sorted(ATTACKS.keys() - {"memory", "clone_with_flags_in_memory"}))
def test_the_process_of_a_model_may_not(outcomes: dict[str, str], attack: str) -> None:
    assert outcomes[attack] == "EPERM"


def test_clone_with_flags_that_no_filter_sees_is_not_there(outcomes: dict[str, str]) -> None:
    assert outcomes["clone_with_flags_in_memory"] == "ENOSYS"


def test_memory_ends_at_the_limit(outcomes: dict[str, str]) -> None:
    assert outcomes["memory"] == "MemoryError"


def test_what_the_kernel_says_of_the_process() -> None:
    def look_at(process: int) -> tuple[str, str, int, bool]:
        folder = Path(f"/proc/{process}")
        found = os.getpriority(os.PRIO_PROCESS, process), os.getpgid(process) == process
        return (folder / "status").read_text(), (folder / "oom_score_adj").read_text(), *found

    async def scene(made: Sandbox) -> tuple[str, str, int, bool]:
        return look_at((await made.load(Body(looping_model()))).process)

    status, score, niceness, alone = in_sandbox(scene)
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", "1")
    assert {fields[name] for name in ("CapEff", "CapPrm", "CapInh")} == {"0" * 16}
    assert (score.strip(), niceness, alone) == ("1000", confinement.NICE, True)


def test_only_an_engine_that_compiles_gets_executable_memory() -> None:
    async def bounds(made: Sandbox) -> bool:
        return made.bounds.executable

    assert not in_sandbox(bounds)
    both = Runtime(engines=(EngineName.ONNXRUNTIME, EngineName.OPENVINO))
    assert in_sandbox(bounds, CONFIG.__class__(runtime=both))


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_is_a_program_the_kernel_takes(machine: str) -> None:
    for executable in (False, True):
        code = assemble(MACHINES[machine], process=2**22, executable=executable)
        assert len(code) % 8 == 0
        assert len(code) // 8 < 4096


def test_another_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    _refused()


def test_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    _refused()


def test_a_kernel_without_seccomp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def syscall(self, *_: object) -> int:
            ctypes.set_errno(1)
            return -1

    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: Refusing())
    _refused()


def _refused() -> None:
    with pytest.raises(ConfigurationError) as refused:
        require_confinement()
    assert refused.value.code == "configuration.isolation"
    assert "thread" in refused.value.hint
