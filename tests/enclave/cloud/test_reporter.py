"""What the control plane is told: totals of keys and lists of models, once each, and nothing of any content."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec
import onnx
import pytest
from structlog.testing import capture_logs

from blindai.enclave.cloud import reporter as module
from blindai.enclave.cloud.reporter import Reporter
from blindai.enclave.cloud.usage import Count, Usage
from blindai.enclave.models.model_id import ModelId
from blindai.enclave.models.model_version import Times
from blindai.errors import BlindAIError, PermissionDenied, Unavailable
from blindai.wire.cloud import MAX_LISTINGS, MAX_TOTALS, ModelListing, ModelVisibility, UsageTotal, Visibility
from enclave_server import node_model
from fake_cloud import FakeControlPlane
from repositories import ThreadRepository, upload

IDENTITY = node_model(onnx.helper.make_node("Identity", ["x"], ["y"]), size=3)
SCORER = ModelId("acme", "scorer")
SECOND = 1_000_000_000


class Desk:
    """A reporter, what it reports about, and whom it reports to."""

    def __init__(self) -> None:
        self.plane = FakeControlPlane()
        self.usage = Usage(0)
        self.repository = ThreadRepository()
        self.reporter = Reporter(self.plane.connect, self.usage, self.repository)

    def count(self, namespace: str = "acme", key: str = "bai_sk_00000000", **counts: int) -> Count:
        """Count something."""
        found = self.usage.count(namespace, key)
        for name, number in counts.items():
            setattr(found, name, getattr(found, name) + number)
        self.usage.touched.add(found)
        return found

    async def all(self) -> None:
        """Report until there is nothing more to say."""
        while await self.reporter.report():
            pass


Scene = Callable[[Desk], Awaitable[None]]


@pytest.fixture
def play() -> Callable[[Scene], None]:
    """Runs a test on an event loop, with a desk."""

    def run(scene: Scene) -> None:
        async def main() -> None:
            desk = Desk()
            try:
                await scene(desk)
            finally:
                await desk.repository.close()

        asyncio.run(main())

    return run


Play = Callable[[Scene], None]


def test_the_first_report_comes_without_anything_to_say_and_the_second_does_not(play: Play) -> None:
    async def scene(desk: Desk) -> None:
        await desk.all()
        await desk.all()
        (report,) = desk.plane.reports
        assert (report.first, report.totals, report.models) == (True, (), ())

    play(scene)


def test_totals_are_totals(play: Play) -> None:
    async def scene(desk: Desk) -> None:
        await desk.all()
        desk.count(queries=3, failed=1)
        await desk.all()
        desk.count(queries=2, uploads=1)
        await desk.all()
        await desk.all()
        assert [report.totals for report in desk.plane.reports[1:]] == [
            (UsageTotal(namespace="acme", key_id="bai_sk_00000000", queries=3, failed=1),),
            (UsageTotal(namespace="acme", key_id="bai_sk_00000000", queries=5, failed=1, uploads=1),),
        ]

    play(scene)


def test_those_without_a_key_are_counted_together_and_nameless(play: Play) -> None:
    async def scene(desk: Desk) -> None:
        desk.usage.anonymous.queries += 4
        desk.usage.touched.add(desk.usage.anonymous)
        await desk.all()
        assert desk.plane.totals == {(None, None): UsageTotal(queries=4)}

    play(scene)


def test_a_report_that_was_not_taken_is_made_again_whole(play: Play) -> None:
    async def scene(desk: Desk) -> None:
        desk.count(queries=3)
        await upload(desk.repository, SCORER, IDENTITY)
        desk.plane.fault = Unavailable("gone", code="unavailable.connect")
        for _ in range(2):
            with pytest.raises(Unavailable):
                await desk.reporter.report()
        desk.plane.fault = None
        await desk.all()
        (report,) = desk.plane.reports
        assert report.first
        assert [total.queries for total in report.totals] == [3]
        assert [model.name for model in report.models] == ["scorer"]

    play(scene)


def test_what_was_counted_while_a_report_was_under_way_comes_with_the_next(play: Play) -> None:
    async def scene(desk: Desk) -> None:
        count = desk.count(queries=1)
        desk.plane.delay = 0.02
        under_way = asyncio.create_task(desk.reporter.report())
        while not desk.plane.reports:
            await asyncio.sleep(0.001)
        count.queries += 1
        await under_way
        await desk.all()
        assert [report.totals[0].queries for report in desk.plane.reports] == [1, 2]
        assert desk.usage.touched == set()

    play(scene)


def test_more_keys_than_fit_one_report_come_in_several(play: Play) -> None:
    async def scene(desk: Desk) -> None:
        for number in range(MAX_TOTALS + 5):
            desk.count(key=f"bai_sk_{number:08}", queries=number)
        await desk.all()
        assert [len(report.totals) for report in desk.plane.reports] == [MAX_TOTALS, 5]
        assert {total.queries for total in desk.plane.totals.values()} == set(range(MAX_TOTALS + 5))

    play(scene)


def test_an_enclave_that_the_control_plane_has_forgotten_tells_it_everything_anew(play: Play) -> None:
    async def scene(desk: Desk) -> None:
        await upload(desk.repository, SCORER, IDENTITY)
        await desk.all()
        desk.count(queries=1)
        desk.plane.fault = PermissionDenied("unknown", code="fleet.instance")
        with pytest.raises(PermissionDenied):
            await desk.reporter.report()
        desk.plane.fault = None
        await desk.all()
        assert desk.plane.connected == 2
        last = desk.plane.reports[-1]
        assert (last.first, len(last.models)) == (True, 1)

    play(scene)


def listed(desk: Desk) -> list[tuple[int, bool]]:
    """Versions of the models of the last report, and whether they are gone."""
    return [(model.version, model.deleted) for model in desk.plane.reports[-1].models]


def test_models_are_listed_when_they_come_change_and_go(play: Play) -> None:
    async def scene(desk: Desk) -> None:
        await upload(desk.repository, SCORER, IDENTITY)
        await upload(desk.repository, SCORER, IDENTITY)
        await desk.all()
        assert listed(desk) == [(1, False), (2, False)]
        first = desk.plane.models["acme", "scorer", 1]
        assert (first.bytes, first.state, first.visibility) == (len(IDENTITY), "READY", Visibility.PRIVATE)
        assert [(spec.name, spec.datatype, spec.shape) for spec in first.inputs] == [("x", "FP32", (-1, 3))]
        desk.repository.show(SCORER, ModelVisibility(Visibility.SHARED, ("partner",)))
        await desk.all()
        assert listed(desk) == [(1, False), (2, False)]
        assert desk.plane.models["acme", "scorer", 2].shared_with == ("partner",)
        await desk.repository.unload(SCORER, 1)
        await desk.all()
        assert listed(desk) == [(1, False)]
        assert desk.plane.models["acme", "scorer", 1].state == "UNAVAILABLE"
        await desk.repository.delete(SCORER, 2)
        await desk.all()
        assert listed(desk) == [(2, True)]
        assert await desk.reporter.report() is False

    play(scene)


def test_models_of_accounts_that_were_closed_are_deleted_and_no_others(play: Play) -> None:
    async def scene(desk: Desk) -> None:
        for namespace in ("acme", "gone"):
            await upload(desk.repository, ModelId(namespace, "scorer"), IDENTITY)
            await upload(desk.repository, ModelId(namespace, "scorer"), IDENTITY)
        desk.plane.closed = ("acme-2", "gone", "never-was")
        with capture_logs() as logs:
            await desk.all()
        assert sorted((found.id.namespace, found.version) for found in desk.repository) == [("acme", 1), ("acme", 2)]
        assert listed(desk) == [(1, True), (2, True)]
        assert [(line["event"], line["models"]) for line in logs] == [("closed_accounts", 1)]
        # To whom this is said again, there is nothing left to do.
        assert await desk.reporter.report() is False

    play(scene)


def test_a_version_that_was_replaced_between_two_reports_is_listed_anew(play: Play) -> None:
    async def scene(desk: Desk) -> None:
        await upload(desk.repository, SCORER, IDENTITY)
        await desk.all()
        await desk.repository.delete(SCORER)
        await upload(desk.repository, SCORER, IDENTITY)
        await desk.all()
        assert listed(desk) == [(1, False)]

    play(scene)


def test_the_time_since_the_last_query_is_the_enclave_s_own(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0
    monkeypatch.setattr(module, "elapsed_ns", lambda: now)

    async def scene(desk: Desk) -> None:
        nonlocal now
        version = await upload(desk.repository, SCORER, IDENTITY)
        unused = []
        for turn in range(4):
            if turn == 2:
                version.statistics.succeeded(Times(0, 0, 0, 0))
            desk.repository.show(SCORER, ModelVisibility(Visibility.SHARED, (f"partner-{turn}",)))  # so that it is told
            await desk.all()
            unused.append(desk.plane.models["acme", "scorer", 1].unused_ms)
            now += 5 * SECOND
        assert unused == [0, 5000, 0, 5000]
        # Time that passes is nothing to report.
        assert await desk.reporter.report() is False

    play(scene)


def test_many_models_come_in_several_reports(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(desk: Desk) -> None:
        version = await upload(desk.repository, SCORER, IDENTITY)
        await desk.repository.delete(SCORER)
        names = [f"model-{number}" for number in range(MAX_LISTINGS + 10)]
        told = module._Told(version, version.state, 0, ModelVisibility(Visibility.PRIVATE))

        async def changes() -> AsyncGenerator[tuple[tuple[str, str, int], ModelListing, module._Told]]:
            for name in names:
                if ("acme", name, 1) not in desk.reporter._told:
                    yield ("acme", name, 1), ModelListing(namespace="acme", name=name, version=1), told

        monkeypatch.setattr(desk.reporter, "_changes", changes)
        await desk.all()
        assert [len(report.models) for report in desk.plane.reports] == [MAX_LISTINGS, 10]
        assert {key[1] for key in desk.plane.models} == set(names)

    play(scene)


def test_a_model_with_long_names_is_listed_without_them(play: Play) -> None:
    async def scene(desk: Desk) -> None:
        name = "n" * 40_000
        graph = onnx.load_from_string(IDENTITY)
        graph.graph.input[0].name = graph.graph.node[0].input[0] = name
        await upload(desk.repository, SCORER, graph.SerializeToString())
        await desk.all()
        (report,) = desk.plane.reports
        assert (report.models[0].inputs, report.models[0].outputs) == ((), ())
        assert len(msgspec.json.encode(report)) < 1000

    play(scene)


def test_it_reports_by_itself_and_once_more_at_the_end(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.01)

    async def scene(desk: Desk) -> None:
        desk.reporter.start()
        desk.count(queries=1)
        async with asyncio.timeout(5):
            while not desk.plane.totals:
                await asyncio.sleep(0.002)
        monkeypatch.setattr(module, "_PAUSE_SECONDS", 60.0)
        await asyncio.sleep(0.03)
        desk.count(queries=1)
        await desk.reporter.close()
        assert desk.plane.totals["acme", "bai_sk_00000000"].queries == 2

    play(scene)


def test_a_control_plane_that_is_gone_does_not_keep_the_enclave_from_ending(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LAST_SECONDS", 0.05)

    async def scene(desk: Desk) -> None:
        desk.plane.delay = 60.0
        desk.reporter.start()
        await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            await desk.reporter.close()

    play(scene)


def test_errors_of_the_control_plane_s_own_are_borne(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(desk: Desk) -> None:
        desk.plane.fault = BlindAIError("broken", code="internal")
        desk.reporter.start()
        await asyncio.sleep(0.01)
        desk.plane.fault = None
        async with asyncio.timeout(5):
            while not desk.plane.reports:
                await asyncio.sleep(0.01)
        await desk.reporter.close()

    play(scene)
