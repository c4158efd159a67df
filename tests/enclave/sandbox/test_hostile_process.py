"""Processes of models that speak the protocol wrongly: each is ended, and costs nobody but its owner anything."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest

from blindai.enclave.config import Timeouts
from blindai.enclave.sandbox.sandbox import Sandbox
from blindai.errors import InvalidModel, QuotaExceeded
from hostile_nursery import LOADS, RUNS
from sandboxes import CONFIG, Body, in_sandbox, work

VALUES = np.zeros((1, 2), np.float32)


@pytest.mark.parametrize("conduct", LOADS)
def test_a_load_fails(conduct: str) -> None:
    async def scene(made: Sandbox) -> None:
        with pytest.raises(InvalidModel) as refused:
            await made.load(Body(b"model"))
        assert refused.value.code == "model.crashed"

    in_sandbox(scene, conduct=f"load.{conduct}")


@pytest.mark.parametrize("conduct", sorted(RUNS.keys() - {"twice", "unasked"}))
def test_a_run_fails_and_the_process_is_ended(conduct: str) -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(Body(b"model"))
        asked = [one._replace(outputs=("z",)) for one in work(VALUES)] if conduct == "undescribed" else work(VALUES)
        with pytest.raises(InvalidModel) as refused:
            await runner.run(asked, seconds=20)
        assert refused.value.code == "model.crashed"
        assert await runner.ended == "model.crashed"

    in_sandbox(scene, conduct=f"run.{conduct}")


@pytest.mark.parametrize("conduct", ["twice", "unasked"])
def test_what_nobody_has_asked_for_ends_the_process(conduct: str) -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(Body(b"model"))
        if conduct == "twice":
            assert (await runner.run(work(VALUES), seconds=20)).answers
        assert await asyncio.wait_for(asyncio.shield(runner.ended), 20) == "model.crashed"

    in_sandbox(scene, conduct=f"run.{conduct}")


def test_silence_ends_a_load() -> None:
    async def scene(made: Sandbox) -> None:
        with pytest.raises(QuotaExceeded) as refused:
            await made.load(Body(b"model"))
        assert refused.value.code == "quota.load_time"

    in_sandbox(scene, msgspec.structs.replace(CONFIG, timeouts=Timeouts(load_ms=200)), conduct="silent")


def test_a_run_that_heeds_nothing_is_ended_with_its_process() -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(Body(b"model"))
        with pytest.raises(QuotaExceeded) as refused:
            await runner.run(work(VALUES), seconds=0.05)
        assert refused.value.code == "quota.run_time"
        assert await runner.ended == "quota.run_time"

    in_sandbox(scene, conduct="deaf")


def test_a_cancelled_run_that_heeds_nothing_is_ended_with_its_process() -> None:
    async def scene(made: Sandbox) -> None:
        runner = await made.load(Body(b"model"))
        run = runner.run(work(VALUES), seconds=20)
        await asyncio.sleep(0.05)
        run.cancel()
        assert await asyncio.wait_for(asyncio.shield(runner.ended), 20) == "model.crashed"

    in_sandbox(scene, conduct="deaf")
