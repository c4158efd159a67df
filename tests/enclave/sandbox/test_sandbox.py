"""Real models in processes of their own: honest ones, and those that would take a server down."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import psutil
import pytest

import blindai
from blindai.enclave.config import Runtime, Timeouts
from blindai.enclave.model_file.onnx_file import MAX_VALUES
from blindai.enclave.running.runner import Work
from blindai.enclave.sandbox.sandbox import Sandbox
from blindai.errors import BlindAIError, InvalidInput, InvalidModel, ModelNotFound, QuotaExceeded, Unavailable
from blindai.wire.tensor import Tensor
from enclave_server import looping_model, node_model
from sandboxes import CONFIG, Body, filling_model, in_sandbox, mistaken_model, repeating_model, wide_model, work

ENDLESS = np.full((1, 1), 1e12, np.float32)
ONE = np.ones((1, 1), np.float32)


def identity() -> Body:
    return Body(node_model(onnx.helper.make_node("Identity", ["x"], ["y"])))


def looping() -> Body:
    return Body(looping_model(1))


def test_a_model_answers() -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(identity())
        assert [spec.name for spec in runner.description.inputs] == ["x"]
        for rows in (1, 3, 0, 100_000):
            values = np.random.default_rng(rows).random((rows, 7), np.float32)
            ran = await runner.run(work(values), seconds=20)
            assert ran.engine_ns > 0
            (output,) = ran.answers[0]
            assert (output.name, output.datatype) == ("y", "FP32")
            assert np.array_equal(output.data, values)
        await runner.close()
        assert await runner.ended == "model.not_loaded"

    in_sandbox(scene)


def test_requests_of_a_batch_get_their_own_rows() -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(identity())
        sent = [np.full((rows, 3), rows, np.float32) for rows in (1, 2, 5)]
        ran = await runner.run([work(values)[0] for values in sent], seconds=20)
        for values, answer in zip(sent, ran.answers, strict=True):
            assert np.array_equal(answer[0].data, values)

    in_sandbox(scene)


def test_a_trial_is_not_repeated() -> None:
    async def scene(made: Sandbox) -> None:
        first = await made.load(identity())
        again = await made.load(identity(), trial=first.description.trial)
        assert again.description.trial == first.description.trial

    in_sandbox(scene)


def test_what_the_model_refuses_is_refused_as_it_is_in_the_server() -> None:
    async def scene(made: Sandbox) -> None:
        with pytest.raises(InvalidModel) as damaged:
            await made.load(Body(b"no model"))
        assert damaged.value.code.startswith("model.")
        runner = await made.load(looping())
        with pytest.raises(InvalidInput) as shape:
            await runner.run(work(np.ones((1, 5), np.float32)), seconds=20)
        assert shape.value.code == "input.shape"
        assert (await runner.run(work(ONE), seconds=20)).answers

    in_sandbox(scene)


def test_more_runs_than_lanes_wait() -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(identity())
        runs = [runner.run(work(np.full((1, 1), number, np.float32)), seconds=20) for number in range(20)]
        runs[7].cancel()
        for number, run in enumerate(runs):
            if number != 7:
                assert (await run).answers[0][0].data.item() == number

    in_sandbox(scene)


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_endless_loop_is_stopped_and_the_model_goes_on(cancelled: bool) -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(looping())
        run = runner.run(work(ENDLESS), seconds=20 if cancelled else 0.1)
        if cancelled:
            await asyncio.sleep(0.1)
            run.cancel()
        else:
            with pytest.raises(QuotaExceeded) as refused:
                await run
            assert refused.value.code == "quota.run_time"
        for _ in range(5):
            assert (await runner.run(work(ONE), seconds=20)).answers
        assert not runner.ended.done()

    in_sandbox(scene)


def test_a_model_that_crashes_fails_what_it_runs() -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(looping())
        other = await made.load(identity())
        runs = [runner.run(work(ENDLESS), seconds=20) for _ in range(3)]
        await asyncio.sleep(0.05)
        os.kill(runner.process, signal.SIGSEGV)
        for run in [*runs, runner.run(work(ONE), seconds=20)]:
            with pytest.raises(InvalidModel) as refused:
                await run
            assert refused.value.code == "model.crashed"
        assert await runner.ended == "model.crashed"
        assert (await other.run(work(ONE), seconds=20)).answers

    in_sandbox(scene)


def test_a_process_that_the_system_ends_has_taken_too_much_memory() -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(looping())
        run = runner.run(work(ENDLESS), seconds=20)
        os.kill(runner.process, signal.SIGKILL)
        with pytest.raises(QuotaExceeded) as refused:
            await run
        assert refused.value.code == "quota.run_memory"

    in_sandbox(scene)


def test_closing_fails_what_runs() -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(looping())
        run = runner.run(work(ENDLESS), seconds=20)
        await runner.close()
        await runner.close()
        for one in (run, runner.run(work(ONE), seconds=20)):
            with pytest.raises(ModelNotFound) as refused:
                await one
            assert refused.value.code == "model.not_loaded"

    in_sandbox(scene)


@pytest.mark.parametrize("known", [False, True])
def test_eight_gigabytes_are_refused(known: bool) -> None:
    async def scene(made: Sandbox) -> None:
        async def load_and_run() -> None:
            runner = await made.load(Body(filling_model(known=known)))
            await runner.run(work(np.array([2**31], np.int64), "count"), seconds=20)

        with pytest.raises(BlindAIError) as refused:
            await load_and_run()
        assert refused.value.code == "quota.run_memory"

    in_sandbox(scene)


def test_a_gigabyte_of_text_is_refused() -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(Body(repeating_model()))
        text = Tensor("text", "BYTES", np.array([b"x" * 1000], object))
        few = Work({"text": text, "times": Tensor.from_array("times", np.array([3], np.int64))})
        assert (await runner.run([few], seconds=20)).answers[0][0].data.tolist() == [b"x" * 1000] * 3
        many = Work({"text": text, "times": Tensor.from_array("times", np.array([10**6], np.int64))})
        with pytest.raises(QuotaExceeded) as refused:
            await runner.run([many], seconds=60)
        assert refused.value.code == "quota.run_memory"

    in_sandbox(scene)


def test_a_hundred_thousand_inputs_are_refused() -> None:
    async def scene(made: Sandbox) -> None:
        with pytest.raises(InvalidModel) as refused:
            await made.load(Body(wide_model(100_000)))
        assert refused.value.code == "model.too_complex"

    in_sandbox(scene)


def test_thousands_of_inputs_work() -> None:
    count = 3000
    assert count < MAX_VALUES

    async def scene(made: Sandbox) -> None:
        runner = await made.load(Body(wide_model(count)))
        one = np.ones(1, np.float32)
        inputs = {f"x{number}": Tensor.from_array(f"x{number}", one) for number in range(count)}
        ran = await runner.run([Work(inputs)], seconds=60)
        assert ran.answers[0][0].data.item() == count

    in_sandbox(scene, msgspec.structs.replace(CONFIG, timeouts=Timeouts(load_ms=90_000)))


def test_an_output_of_another_shape_than_declared_is_what_it_is() -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(Body(mistaken_model()))
        ran = await runner.run(work(np.ones(5, np.float32)), seconds=20)
        assert ran.answers[0][0].shape == (5,)

    in_sandbox(scene)


def test_a_load_that_takes_too_long_is_given_up() -> None:
    async def scene(made: Sandbox) -> None:
        with pytest.raises(QuotaExceeded) as refused:
            await made.load(Body(wide_model(20_000)))
        assert refused.value.code == "quota.load_time"

    in_sandbox(scene, msgspec.structs.replace(CONFIG, timeouts=Timeouts(load_ms=10)))


def test_a_load_that_nobody_waits_for_leaves_no_process() -> None:
    async def scene(made: Sandbox) -> None:
        loading = asyncio.create_task(made.load(Body(wide_model(20_000))))
        await asyncio.sleep(0.1)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        assert made.nursery is not None
        nursery = psutil.Process(made.nursery.process)
        while nursery.children():
            await asyncio.sleep(0.01)

    in_sandbox(scene)


def test_memory_is_what_the_kernel_says() -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(identity())
        before = runner.memory
        assert 0 < before < 100 << 20
        await runner.run(work(np.ones((1, 8 << 20), np.float32)), seconds=20)
        assert runner.memory > before

    in_sandbox(scene)


def test_a_run_that_stands_back_comes_forward_again() -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(looping())
        usual = os.getpriority(os.PRIO_PROCESS, runner.process)
        run = runner.run(work(ENDLESS), seconds=0.2)
        runner.renice()
        assert os.getpriority(os.PRIO_PROCESS, runner.process) > usual
        with pytest.raises(QuotaExceeded):
            await run
        # Only the administrator may raise a priority; for others the process is replaced.
        if os.getuid() == 0:
            assert os.getpriority(os.PRIO_PROCESS, runner.process) == usual
        else:
            assert await runner.ended == "model.not_loaded"

    in_sandbox(scene)


def test_when_the_nursery_ends_all_processes_do_and_the_next_load_starts_another() -> None:
    async def scene(made: Sandbox) -> None:
        assert made.nursery is not None
        runner = await made.load(looping())
        run = runner.run(work(ENDLESS), seconds=20)
        process = psutil.Process(runner.process)
        os.kill(made.nursery.process, signal.SIGKILL)
        with pytest.raises(InvalidModel) as refused:
            await run
        assert refused.value.code == "model.crashed"
        process.wait(20)
        again = await made.load(identity())
        assert (await again.run(work(ONE), seconds=20)).answers

    in_sandbox(scene)


def test_a_sandbox_that_was_closed_loads_nothing() -> None:
    async def scene(made: Sandbox) -> None:
        await made.close()
        with pytest.raises(Unavailable) as refused:
            await made.load(identity())
        assert refused.value.code == "stopping"

    in_sandbox(scene)


def test_lanes_are_as_many_as_workers() -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(looping())
        assert runner.lanes == 3
        runs = [runner.run(work(ENDLESS), seconds=0.3) for _ in range(3)]
        quick = runner.run(work(ONE), seconds=20)
        await asyncio.sleep(0.1)
        assert not quick.done()
        for run in runs:
            with pytest.raises(QuotaExceeded):
                await run
        assert (await quick).answers

    in_sandbox(scene, msgspec.structs.replace(CONFIG, runtime=Runtime(workers=3)))


PROGRAM = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from enclave_server import looping_model
from sandboxes import Body, sandbox, work

async def main():
    async with sandbox() as made:
        runner = await made.load(Body(looping_model(1)))
        run = runner.run(work(np.full((1, 1), 1e12, np.float32)), seconds=100)
        print(made.nursery.process, runner.process, flush=True)
        await run

asyncio.run(main())
"""


def test_when_the_server_is_killed_nothing_is_left() -> None:
    plugins = Path(__file__).parents[2] / "plugins"
    with subprocess.Popen([sys.executable, "-c", PROGRAM, plugins], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        left = [psutil.Process(int(number)) for number in server.stdout.readline().split()]
        server.kill()
        server.wait()
    end = time.monotonic() + 30
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in left):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_run_waits_for_a_lane_where_no_more_files_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(identity())
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socketpair", no_files)
            runs = [runner.run(work(np.full((1, 1), number, np.float32)), seconds=20) for number in range(3)]
            for number, ran in enumerate(await asyncio.gather(*runs)):
                assert ran.answers[0][0].data == number
            with pytest.raises(Unavailable) as refused:
                await made.load(identity())
        assert refused.value.code == "busy"
        assert (await made.load(identity())).lanes == 2

    config = msgspec.structs.replace(CONFIG, runtime=Runtime(workers=2))
    in_sandbox(scene, config)


def no_files(*_: object) -> None:
    raise OSError(errno.EMFILE, "too many open files")


def test_a_process_whose_descriptor_is_lost_is_refused_and_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system drops descriptors that are sent to a process which may open no more."""
    receive = socket.recv_fds

    def receive_without(*arguments: Any) -> Any:
        message, descriptors, flags, address = receive(*arguments)
        for descriptor in descriptors:
            os.close(descriptor)
        return message, [], flags, address

    async def scene(made: Sandbox) -> None:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        assert made.nursery is not None
        born = len(psutil.Process(made.nursery.process).children())
        with monkeypatch.context() as patched:
            patched.setattr(socket, "recv_fds", receive_without)
            with pytest.raises(Unavailable) as refused:
                await made.load(identity())
            assert refused.value.code == "busy"
            async with asyncio.timeout(20):
                while len(psutil.Process(made.nursery.process).children()) > born:
                    await asyncio.sleep(0.01)
        await (await made.load(identity())).close()
        assert not failures

    in_sandbox(scene)


def test_the_nursery_is_of_the_package_that_the_server_runs(tmp_path: Path) -> None:
    """Even where it was found through the environment, which is not handed on."""
    package = Path(blindai.__file__).parent
    shutil.copytree(package, tmp_path / "blindai", ignore=shutil.ignore_patterns("__pycache__"))
    copied = tmp_path / "blindai" / "enclave" / "sandbox" / "nursery.py"
    told = copied.read_text().replace("Ready(self._try_confinement())", 'Ready("this is the copy")')
    copied.write_text(told)
    program = """
import asyncio
from blindai.enclave.config import EnclaveConfig
from blindai.enclave.sandbox.sandbox import Sandbox
from blindai.errors import ConfigurationError

try:
    asyncio.run(Sandbox(EnclaveConfig()).start())
except ConfigurationError as error:
    print(error.message)
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "this is the copy" in ran.stdout
