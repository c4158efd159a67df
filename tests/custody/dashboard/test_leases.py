"""What the pages of leases say."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest

from asgi_browser import Browser
from blindai.custody.dashboard import changes
from blindai.errors import LeaseStopped
from custodian_scene import Scene


def test_without_leases_the_page_says_what_to_do_next(ada: Browser) -> None:
    words = ada.get("/leases").words
    assert "No model is lent yet." in words
    assert "blindai custodian lease create" in words


def test_the_list_shows_state_borrower_budget_and_what_waits(scene: Scene, ada: Browser) -> None:
    lease = scene.lease(name="Chest X-ray", borrower="St. Elsewhere", budget=12_345)
    instance = scene.instance(lease.id)
    instance.renew({"alice": 12_345})
    words = ada.get("/leases").words
    for text in ("Chest X-ray", "St. Elsewhere", "acme/model", "active", "0 of 12,345 queries", "1 of 1 at most"):
        assert text in words
    assert "SIMULATED" in words
    assert "10,000 held by instances" in words
    instance.request("alice", 5)
    assert "1 to decide" in ada.get("/leases").words


def test_leases_that_wait_for_a_decision_come_first(scene: Scene, ada: Browser) -> None:
    scene.lease(name="A first")
    later = scene.lease(name="Z later")
    scene.instance(later.id).request("alice", 5)
    words = ada.get("/leases").words
    assert words.index("Z later") < words.index("A first")


def test_a_lease_without_instances_says_how_one_is_started(scene: Scene, ada: Browser) -> None:
    lease = scene.lease()
    words = ada.get(f"/leases/{lease.id}").words
    assert f"blindai custodian lease show {lease.id}" in words
    assert "No request waits." in words
    assert "not enough data" in words
    assert "nothing runs" in words


def test_the_limits_of_attestation_are_on_the_page(scene: Scene, ada: Browser) -> None:
    words = ada.get(f"/leases/{scene.lease().id}").words
    for text in ("TEE.fail", "Battering RAM", "WireTap", "neutral party"):
        assert text in words


def test_the_verdict_is_shown_check_by_check(scene: Scene, ada: Browser) -> None:
    lease = scene.lease().id
    scene.instance(lease).renew({})
    (instance,) = scene.ledger.lease(lease).instances
    words = ada.get(f"/leases/{lease}").words
    assert "SIMULATED: protects nothing" in words
    assert instance.verdict["checks"]
    for check in instance.verdict["checks"]:
        assert f"{check['outcome']} {check['name']}" in words
        assert " ".join(check["got"].split()) in words


def test_a_stop_is_followed_instance_by_instance(scene: Scene, ada: Browser) -> None:
    lease = scene.lease(max_instances=3).id
    quick, silent, gone = (scene.instance(lease) for _ in range(3))
    for instance in (quick, silent, gone):
        instance.renew({})
    gone.close()
    scene.ledger.stop(lease, by="ada", reason="")
    scene.clock.shift += timedelta(seconds=0.25)
    quick.hear()
    words = ada.get(f"/leases/{lease}").words
    assert "s after it was stopped" in words
    assert words.count("Acknowledged 0.") == 1
    assert words.count("Not acknowledged. Its grant has run out for certain in") == 1
    assert words.count("Closed in good order") == 1
    scene.clock.shift += timedelta(minutes=5)
    words = ada.get(f"/leases/{lease}").words
    assert "Not acknowledged" not in words
    assert words.count("Run out") == 1
    scene.ledger.resume(lease, by="ada")
    assert "3 earlier" in ada.get(f"/leases/{lease}").words


def test_a_quarantined_instance_is_shown_with_the_reason(scene: Scene, ada: Browser) -> None:
    lease = scene.lease().id
    instance = scene.instance(lease)
    first = instance.renew({"alice": 1})
    fork = instance.next_renewal({"alice": 2})
    instance.renew({"alice": 1})
    with pytest.raises(LeaseStopped) as caught:
        scene.ledger.renew(fork)
    assert caught.value.code == "lease.forked"
    assert first.grant.seq == 1
    page = ada.get(f"/leases/{lease}")
    reason = scene.ledger.lease(lease).instances[0].reason
    assert "quarantined" in page.words
    assert reason
    assert reason in page.words
    assert "1 quarantined" in ada.get("/leases").words


def test_the_estimate_is_computed_as_the_page_says(scene: Scene, ada: Browser) -> None:
    scene.clock.shift = -timedelta(minutes=50)
    lease = scene.lease(budget=1000).id
    instance = scene.instance(lease)
    for _ in range(5):
        scene.clock.shift += timedelta(minutes=10)
        instance.renew({"alice": 100})
        instance.spend("alice", 100)
        instance.renew({})
    words = ada.get(f"/leases/{lease}").words
    # 400 units within 40 minutes, 500 left.
    assert "At 600 queries an hour the budget is used up in 50 min" in words
    assert "The mean rate of the last 40 min" in words


def test_a_used_up_budget_is_said_to_be(scene: Scene, ada: Browser) -> None:
    lease = scene.lease().id
    instance = scene.instance(lease)
    instance.renew({"alice": 100})
    instance.spend("alice", 100)
    instance.renew({})
    assert "The budget is used up." in ada.get(f"/leases/{lease}").words


def test_the_plot_has_its_data(scene: Scene, ada: Browser) -> None:
    lease = scene.lease(consumers={"alice": None, "bob": 50}).id
    instance = scene.instance(lease)
    instance.renew({"alice": 10, "bob": 5})
    instance.spend("alice", 10)
    instance.spend("bob", 5)
    instance.renew({})
    answer = ada.get(f"/leases/{lease}/usage")
    data = msgspec.json.decode(answer.body)
    assert answer.header("content-type") == "application/json"
    assert {one["name"]: one["values"][-1] for one in data["series"]} == {"alice": 10, "bob": 5}
    assert data["total"][-1] == 15
    assert (data["budget"], data["unit"]) == (100, "queries")


def test_a_viewer_sees_everything_and_no_form(scene: Scene, signed_in: Callable[[str], Browser]) -> None:
    lease = scene.lease(approvals=2).id
    instance = scene.instance(lease)
    instance.request("alice", 5)
    scene.ledger.stop(lease, by="ada")
    scene.ledger.resume(lease, by="ada")
    page = signed_in("vera").get(f"/leases/{lease}")
    assert "alice asks for" in page.words
    assert "1 of 2 operators agree" in page.words
    forms = [part.partition('"')[0] for part in page.text.split('action="')[1:]]
    assert forms == ["/sign-out"]
    assert "/stop" not in page.text
    assert "/resume" not in page.text


def test_a_lease_for_anyone_has_no_tokens(scene: Scene, ada: Browser) -> None:
    lease = scene.lease(open_to_anyone=True).id
    page = ada.get(f"/leases/{lease}")
    assert "Anyone" in page.words
    assert "/token" not in page.text
    assert "Add a consumer" not in page.words


def test_times_are_told_relative_with_the_exact_one_in_the_title(scene: Scene, ada: Browser) -> None:
    scene.clock.shift = -timedelta(hours=2, minutes=5)
    lease = scene.lease()
    scene.clock.shift = timedelta(0)
    text = ada.get(f"/leases/{lease.id}").text
    assert f'title="{lease.created_at:%Y-%m-%d %H:%M:%S} UTC" data-ago>2 h 5 min ago</time>' in text


def test_units_are_named_and_one_is_one(scene: Scene, ada: Browser) -> None:
    lease = scene.lease(budget=1)
    assert "0 of 1 query" in ada.get(f"/leases/{lease.id}").words


@pytest.mark.parametrize("page", ["", "/stop", "/log", "/usage", "/changes", "/log/export", "/consumers/alice/revoke"])
def test_a_lease_that_is_not_here(ada: Browser, page: str) -> None:
    answer = ada.get(f"/leases/lease-aaaaaaaaaaaaaaaa{page}")
    assert (answer.status, "lease.unknown" in answer.text) == (404, True)


def test_there_is_an_end_to_the_pages_that_are_open(
    scene: Scene, ada: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MAX_LISTENERS", 0)
    answer = ada.get(f"/leases/{scene.lease().id}/changes", accept="text/event-stream")
    assert (answer.status, "quota.listeners" in answer.text) == (429, True)


def test_words_of_an_address_choose_among_ours_and_are_not_shown(scene: Scene, ada: Browser) -> None:
    lease = scene.lease().id
    assert "The lease is stopped" in ada.get(f"/leases/{lease}?done=stopped").words
    assert "evil" not in ada.get(f"/leases/{lease}?done=evil").text
