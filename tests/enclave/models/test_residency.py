"""Room in memory is given in turn, what is used stays, and what is counted is what is held."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from blindai.enclave.models.residency import Claim, Residency
from blindai.errors import BlindAIError


class Model:
    """Holds what it has claimed until `gate` is open."""

    def __init__(self, residency: Residency, claim: Claim) -> None:
        self.runs = 0
        self.claim = claim
        self.gate = asyncio.Event()
        self.gate.set()
        self.left = False
        residency.order[self] = None

    def leave(self) -> tuple[Claim, Coroutine[None, None, None]]:
        self.left = True
        return self.claim, self._leave()

    async def _leave(self) -> None:
        await self.gate.wait()


async def resident(residency: Residency, amount: int) -> Model:
    return Model(residency, await residency.claim(amount))


async def refusal(residency: Residency, amount: int) -> str:
    with pytest.raises(BlindAIError) as caught:
        await residency.claim(amount, seconds=0.01)
    return caught.value.code


def test_those_used_longest_ago_leave_first_and_no_more_than_needed() -> None:
    async def main() -> None:
        residency = Residency(100)
        models = [await resident(residency, 25) for _ in range(4)]
        residency.order.move_to_end(models[0])
        claim = await residency.claim(40)
        assert [model.left for model in models] == [False, True, True, False]
        assert (residency.used, residency.claims, residency.pressed) == (90, 3, False)
        claim.release()
        claim.release()
        claim.resize(50)
        assert residency.used == 50

    asyncio.run(main())


def test_room_is_free_only_when_it_was_left() -> None:
    async def main() -> None:
        residency = Residency(100)
        model = await resident(residency, 80)
        model.gate.clear()
        claiming = asyncio.create_task(residency.claim(50))
        await asyncio.sleep(0.01)
        assert model.left
        assert not claiming.done()
        assert residency.used == 80
        model.gate.set()
        await claiming
        assert residency.used == 50

    asyncio.run(main())


def test_what_has_runs_stays_and_whoever_waits_too_long_is_told() -> None:
    async def main() -> None:
        residency = Residency(100)
        model = await resident(residency, 80)
        model.runs = 1
        assert await refusal(residency, 50) == "busy"
        assert (residency.pressed, residency.used, residency.claims) == (False, 80, 1)
        claiming = asyncio.create_task(residency.claim(50))
        await asyncio.sleep(0)
        assert residency.pressed
        model.runs = 0
        residency.settle()
        await claiming
        assert model.left

    asyncio.run(main())


def test_what_could_never_fit_is_refused_at_once() -> None:
    async def main() -> None:
        residency = Residency(100)
        model = await resident(residency, 80)
        assert await refusal(residency, 101) == "quota.memory"
        assert not model.left

    asyncio.run(main())


def test_the_first_who_waits_is_served_first() -> None:
    async def main() -> None:
        residency = Residency(100)
        model = await resident(residency, 60)
        model.runs = 1
        large = asyncio.create_task(residency.claim(90))
        await asyncio.sleep(0)
        small = asyncio.create_task(residency.claim(10))
        await asyncio.sleep(0.01)
        assert not small.done()
        large.cancel()
        await small
        assert residency.used == 70

    asyncio.run(main())


def test_a_claim_that_was_granted_to_somebody_who_has_left_is_given_back() -> None:
    async def main() -> None:
        residency = Residency(100)
        first = await residency.claim(100)
        waiting = asyncio.create_task(residency.claim(100))
        await asyncio.sleep(0)
        first.release()
        assert residency.used == 100
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (residency.used, residency.claims) == (0, 0)

    asyncio.run(main())


def test_a_model_that_has_grown_makes_others_leave() -> None:
    async def main() -> None:
        residency = Residency(100)
        other, growing = await resident(residency, 30), await resident(residency, 30)
        growing.runs = other.runs = 1
        growing.claim.resize(90)
        assert (residency.used, residency.pressed, other.left) == (120, True, False)
        other.runs = 0
        residency.settle()
        await residency.close()
        assert (residency.used, residency.pressed, other.left, growing.left) == (90, False, True, False)

    asyncio.run(main())


def test_there_are_only_so_many() -> None:
    async def main() -> None:
        residency = Residency(100, most=2)
        models = [await resident(residency, 1) for _ in range(3)]
        assert [model.left for model in models] == [True, False, False]
        for model in models:
            model.runs = 1
        assert await refusal(residency, 1) == "busy"

    asyncio.run(main())
