from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace

import pytest

from blindai.attestation.collateral import fetch
from blindai.attestation.collateral.document import MAX_DOCUMENT_BYTES
from blindai.errors import Unavailable
from collateral_services import Reply, Service, serving
from collateral_world import World


def refused(world: World, url: str, *, patience: float = 0, timeout: float = 5.0) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        world.fetcher(timeout).get(url, patience=patience)
    return caught.value


@pytest.fixture
def service() -> Iterator[Service]:
    with serving(lambda path, query: Reply(body=b"here", headers={"X-Chain": "a%20b%0A"})) as service:
        yield service


def test_body_and_headers(world: World, service: Service) -> None:
    answer = world.fetcher().get(f"{service.url}/a?b=c")
    assert answer.body == b"here"
    assert answer.headers["x-chain"] == "a b\n"
    assert service.requests == ["/a?b=c"]


def test_a_service_that_says_when_to_come_back(world: World, service: Service) -> None:
    service.faults["/a"] = Reply(429, headers={"Retry-After": "20"})
    error = refused(world, f"{service.url}/a", patience=30)
    assert error.code == "collateral.rate_limited"
    assert world.slept == [20.0]
    assert len(service.requests) == 2


@pytest.mark.parametrize("zone", ["GMT", "-0000"])
def test_a_date_in_retry_after(world: World, service: Service, zone: str) -> None:
    service.faults["/a"] = Reply(429, headers={"Retry-After": f"Thu, 15 Jan 2026 12:00:25 {zone}"})
    refused(world, f"{service.url}/a", patience=30)
    assert world.slept == [25.0]


@pytest.mark.parametrize("value", ["soon", "", "-1", "Thu, 99 Foo 2026"])
def test_an_unreadable_retry_after_counts_as_none(world: World, service: Service, value: str) -> None:
    service.faults["/a"] = Reply(429, headers={"Retry-After": value})
    refused(world, f"{service.url}/a", patience=30)
    assert world.slept == [2.0, 4.0]


def test_who_was_told_to_wait_does_not_ask_the_whole_host_meanwhile(world: World, service: Service) -> None:
    service.faults["/a"] = Reply(429, headers={"Retry-After": "3600"})
    fetcher = world.fetcher()
    for path in ("/a", "/b", "/a"):
        with pytest.raises(Unavailable) as caught:
            fetcher.get(service.url + path)
        assert caught.value.code == "collateral.rate_limited"
    assert service.requests == ["/a"]
    assert world.slept == []
    world.now += timedelta(seconds=3600)
    assert fetcher.get(f"{service.url}/b").body == b"here"


def test_no_service_silences_us_for_longer_than_a_day(world: World, service: Service) -> None:
    service.faults["/a"] = Reply(429, headers={"Retry-After": "999999999"})
    fetcher = world.fetcher()
    with pytest.raises(Unavailable):
        fetcher.get(f"{service.url}/a")
    world.now += timedelta(seconds=fetch.MAX_HOLD_SECONDS)
    assert fetcher.get(f"{service.url}/b").body == b"here"


def test_an_error_of_the_server_is_tried_again(world: World, service: Service) -> None:
    service.faults["/a"] = Reply(500)
    error = refused(world, f"{service.url}/a", patience=30)
    assert error.code == "collateral.status"
    assert "500" in error.message
    assert len(service.requests) == fetch.ATTEMPTS
    assert world.slept == [2.0, 4.0]


def test_it_works_once_the_fault_is_gone(world: World, service: Service) -> None:
    service.faults["/a"] = Reply(503)
    fetcher = world.fetcher()
    with pytest.raises(Unavailable):
        fetcher.get(f"{service.url}/a", patience=0)
    service.faults.clear()
    assert fetcher.get(f"{service.url}/a").body == b"here"
    assert world.slept == [2.0]


def test_each_failure_doubles_the_wait_up_to_a_limit(world: World, service: Service) -> None:
    service.faults["/a"] = Reply(500)
    fetcher = world.fetcher()
    for _ in range(30):
        with pytest.raises(Unavailable):
            fetcher.get(f"{service.url}/a", patience=0)
        world.now += timedelta(seconds=fetch.MAX_BACKOFF_SECONDS)
    assert len(service.requests) == 30
    with pytest.raises(Unavailable):
        fetcher.get(f"{service.url}/a", patience=0)
    world.now += timedelta(seconds=fetch.MAX_BACKOFF_SECONDS - 1)
    with pytest.raises(Unavailable) as caught:
        fetcher.get(f"{service.url}/a", patience=0)
    assert caught.value.code == "collateral.rate_limited"


def test_the_same_address_is_left_alone_for_some_seconds(world: World, service: Service) -> None:
    fetcher = world.fetcher()
    fetcher.get(f"{service.url}/a")
    fetcher.get(f"{service.url}/b")
    assert world.slept == []
    fetcher.get(f"{service.url}/a")
    assert world.slept == [fetch.MIN_INTERVAL_SECONDS]


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_not_tried_again(world: World, service: Service, status: int) -> None:
    service.faults["/a"] = Reply(status)
    assert refused(world, f"{service.url}/a", patience=30).code == "collateral.status"
    assert len(service.requests) == 1


def test_a_redirection_is_not_followed(world: World, service: Service) -> None:
    service.faults["/a"] = Reply(302, headers={"Location": "file:///etc/passwd"})
    assert refused(world, f"{service.url}/a", patience=30).code == "collateral.status"
    assert service.requests == ["/a"]


def test_a_service_that_never_answers(world: World, service: Service) -> None:
    service.faults["/a"] = Reply(hang=True)
    assert refused(world, f"{service.url}/a", timeout=0.05).code == "collateral.unreachable"


def test_an_answer_that_breaks_off(world: World, service: Service) -> None:
    service.faults["/a"] = Reply(body=bytes(1000), cut=1)
    assert refused(world, f"{service.url}/a").code == "collateral.truncated"


def test_an_answer_that_takes_too_long(world: World, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 100.0])
    monkeypatch.setattr(fetch, "time", SimpleNamespace(monotonic=lambda: next(times)))  # the module's clock alone
    assert "too long" in refused(world, f"{service.url}/a").message


def test_an_answer_larger_than_any_endorsement(world: World, service: Service) -> None:
    service.faults["/a"] = Reply(body=bytes(MAX_DOCUMENT_BYTES + 1))
    assert refused(world, f"{service.url}/a", patience=30).code == "collateral.too_large"
    assert len(service.requests) == 1


def test_nobody_listens(world: World) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        error = refused(world, f"http://127.0.0.1:{unused.getsockname()[1]}/a")
    assert error.code == "collateral.unreachable"


def test_what_is_no_http(world: World) -> None:
    assert refused(world, "file:///etc/passwd").code == "collateral.unreachable"
