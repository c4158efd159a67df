"""What operators decide: done, refused in words, and never by accident."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from asgi_browser import Browser
from blindai.custody.dashboard.decisions import amount
from blindai.errors import InvalidInput
from blindai.wire.custody import MAX_AMOUNT, LeaseState, RequestState
from custodian_scene import Scene

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onfocus='alert(1)",
    "{{ 7 * 7 }}",
    "</textarea></form><form action=//evil.example>",
    "مرحبا بالعالم",
    "naïve \u2764 \U0001f512",
    "a" * 500,
]


@pytest.fixture
def lease(scene: Scene) -> str:
    return scene.lease().id


def test_a_stop_asks_first_and_wakes_those_who_wait(scene: Scene, ada: Browser, lease: str) -> None:
    question = ada.get(f"/leases/{lease}/stop")
    assert "wipes key and weights" in question.words
    assert scene.ledger.lease(lease).state is LeaseState.ACTIVE
    answer = ada.submit(f"/leases/{lease}/stop", f"/leases/{lease}/stop", reason="a break-in")
    assert answer.header("location") == f"/leases/{lease}?done=stopped"
    stopped = scene.ledger.lease(lease)
    assert (stopped.state, stopped.reason) == (LeaseState.STOPPED, "a break-in")
    assert scene.woken == 1
    shown = ada.get(answer.header("location")).words
    assert "The lease is stopped." in shown
    assert "a break-in" in shown


def test_pause_and_resume(scene: Scene, ada: Browser, lease: str) -> None:
    ada.submit(f"/leases/{lease}/pause", f"/leases/{lease}/pause", reason="")
    assert scene.ledger.lease(lease).state is LeaseState.PAUSED
    answer = ada.submit(f"/leases/{lease}/resume", f"/leases/{lease}/resume", reason="fine again")
    assert answer.header("location").endswith("?done=resumed")
    assert scene.ledger.lease(lease).state is LeaseState.ACTIVE


def test_a_resume_of_what_is_active_is_refused_in_words(scene: Scene, ada: Browser, lease: str) -> None:
    answer = ada.submit(f"/leases/{lease}/resume", f"/leases/{lease}/resume", reason="typed already")
    assert answer.status == 409
    assert "lease.state" in answer.text
    assert 'value="typed already"' in answer.text


def test_a_resume_that_two_must_agree_to(scene: Scene, signed_in: Callable[[str], Browser]) -> None:
    lease = scene.lease(approvals=2).id
    ada, grace = signed_in("ada"), signed_in("grace")
    ada.submit(f"/leases/{lease}/stop", f"/leases/{lease}/stop")
    assert "2 operators must agree" in ada.get(f"/leases/{lease}/resume").words
    proposed = ada.submit(f"/leases/{lease}/resume", f"/leases/{lease}/resume", reason="checked")
    assert proposed.header("location").endswith("?done=proposed")
    assert scene.ledger.lease(lease).state is LeaseState.STOPPED
    (proposal,) = scene.ledger.lease(lease).proposals
    page = ada.get(f"/leases/{lease}")
    assert "1 of 2 operators agree: ada" in page.words
    assert "/agree" not in page.text
    there = f"/leases/{lease}/proposals/{proposal.id}"
    again = ada.submit(f"/leases/{lease}", f"{there}/agree")
    assert again.status in {303, 400, 409}
    assert scene.ledger.lease(lease).state is LeaseState.STOPPED
    agreed = grace.submit(f"/leases/{lease}", f"{there}/agree")
    assert agreed.header("location").endswith("?done=resumed")
    assert scene.ledger.lease(lease).state is LeaseState.ACTIVE
    late = grace.submit(f"/leases/{lease}", f"{there}/agree")
    assert (late.status, "lease.proposal_state" in late.text) == (409, True)


def test_a_proposal_is_withdrawn(scene: Scene, signed_in: Callable[[str], Browser]) -> None:
    lease = scene.lease(approvals=2).id
    ada = signed_in("ada")
    raised = ada.submit(f"/leases/{lease}", f"/leases/{lease}/raise", consumer="", amount="50", reason="more")
    assert raised.header("location").endswith("?done=proposed")
    (proposal,) = scene.ledger.lease(lease).proposals
    assert "Raise the budget of the lease by 50 queries" in ada.get(f"/leases/{lease}").words
    answer = ada.submit(f"/leases/{lease}", f"/leases/{lease}/proposals/{proposal.id}/withdraw")
    assert answer.header("location").endswith("?done=withdrawn")
    assert scene.ledger.lease(lease).budget == 100


def file(scene: Scene, lease: str, wanted: int = 40) -> str:
    """Use the whole budget, and ask for more. The id of the request."""
    instance = scene.instance(lease)
    instance.renew({"alice": 100})
    instance.spend("alice", 100)
    instance.renew({})
    return instance.request("alice", wanted).id


def test_a_request_is_approved_as_it_is(scene: Scene, ada: Browser, lease: str) -> None:
    there = f"/leases/{lease}/requests/{file(scene, lease)}"
    assert "alice asks for 40 queries more" in ada.get(f"/leases/{lease}").words
    assert ada.submit(f"/leases/{lease}", f"{there}/approve").header("location").endswith("?done=approved")
    assert scene.ledger.lease(lease).budget == 140
    again = ada.submit(f"/leases/{lease}", f"{there}/approve")
    assert (again.status, "lease.request_state" in again.text) == (409, True)
    assert scene.ledger.lease(lease).budget == 140
    assert "40 approved by ada" in ada.get(f"/leases/{lease}").words


def test_another_amount_is_approved(scene: Scene, ada: Browser, lease: str) -> None:
    there = f"/leases/{lease}/requests/{file(scene, lease)}"
    ada.submit(f"/leases/{lease}", f"{there}/approve", amount=" 1,000 ")
    assert scene.ledger.lease(lease).budget == 1100


def test_a_denial_needs_a_reason_and_shows_it(scene: Scene, ada: Browser, lease: str) -> None:
    there = f"/leases/{lease}/requests/{file(scene, lease)}"
    empty = ada.submit(f"/leases/{lease}", f"{there}/deny", reason="  ")
    assert (empty.status, "lease.reason" in empty.text) == (400, True)
    assert scene.ledger.lease(lease).requests[0].state is RequestState.PENDING
    ada.submit(f"/leases/{lease}", f"{there}/deny", reason="not this month")
    (request,) = scene.ledger.lease(lease).requests
    assert (request.state, request.reason, request.decided_by) == (RequestState.DENIED, "not this month", "ada")


BAD_AMOUNTS = [
    ("", "amount.type"),
    ("-5", "amount.negative"),
    ("-0", "amount.zero"),
    ("0", "amount.zero"),
    (str(MAX_AMOUNT + 1), "amount.too_large"),
    ("9" * 40, "amount.too_large"),
    ("9" * 4000, "amount.type"),
    ("1e3", "amount.type"),
    ("1.5", "amount.type"),
    ("1,5", "amount.type"),
    ("10,00", "amount.type"),
    ("1,000,00", "amount.type"),
    ("0x10", "amount.type"),
    ("ten", "amount.type"),
    ("٣", "amount.type"),
    ("\uff11\uff10", "amount.type"),
    ("10; DROP TABLE leases", "amount.type"),
    ("<script>alert(1)</script>", "amount.type"),
    ("NaN", "amount.type"),
    ("Infinity", "amount.type"),
    ("--5", "amount.type"),
    ("True", "amount.type"),
]


@pytest.mark.parametrize(("typed", "code"), BAD_AMOUNTS)
def test_what_is_no_amount_changes_nothing_and_is_said_in_words(
    scene: Scene, ada: Browser, lease: str, typed: str, code: str
) -> None:
    request = file(scene, lease)
    entries = scene.ledger.entries()
    for path, form in (
        (f"/leases/{lease}/requests/{request}/approve", {"amount": typed}),
        (f"/leases/{lease}/raise", {"amount": typed, "consumer": "", "reason": ""}),
        (f"/leases/{lease}/raise", {"amount": typed, "consumer": "alice", "reason": ""}),
        (f"/leases/{lease}/consumers", {"budget": typed or "x", "name": "bob"}),
    ):
        answer = ada.submit(f"/leases/{lease}", path, **form)
        assert answer.status == 400, path
        assert code in answer.text or "lease.account_budget" in answer.text or not typed
        assert "<script>alert" not in answer.text
    assert scene.ledger.entries() == entries


@pytest.mark.parametrize(
    ("typed", "value"),
    [("1", 1), ("1000", 1000), ("1,000,000", 10**6), ("1 000", 1000), ("+5", 5), ("1\u00a0000", 1000)],
)
def test_amounts_are_read_as_people_write_them(typed: str, value: int) -> None:
    assert amount(typed) == value


def test_a_long_text_that_is_no_amount_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidInput) as caught:
        amount("x" * 10_000)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("text", HOSTILE)
def test_words_of_people_are_shown_and_not_obeyed(scene: Scene, ada: Browser, text: str) -> None:
    lease = scene.lease(name=text[:100], borrower=text[:100]).id
    there = f"/leases/{lease}/requests/{file(scene, lease)}"
    ada.submit(f"/leases/{lease}", f"{there}/deny", reason=text)
    ada.submit(f"/leases/{lease}/stop", f"/leases/{lease}/stop", reason=text)
    assert scene.ledger.lease(lease).reason == text
    for path in ("/leases", f"/leases/{lease}", f"/leases/{lease}/stop", f"/leases/{lease}/log"):
        answer = ada.get(path)
        assert answer.status == 200
        assert "<script>alert" not in answer.text
        assert "<img" not in answer.text
        assert "' onfocus='" not in answer.text
        assert "//evil.example>" not in answer.text
        assert re.search(r"\b49\b", answer.text) is None or "7 * 7" not in text
    assert text[:100] in re.sub(r"\s+", " ", ada.get("/leases").words) or "<" in text


@pytest.mark.parametrize("text", ["\u202ereversed", "two\nlines", "nul\x00", "a" * 501, "\x1b[31m"])
def test_a_reason_that_cannot_be_read_is_refused(scene: Scene, ada: Browser, lease: str, text: str) -> None:
    answer = ada.submit(f"/leases/{lease}/stop", f"/leases/{lease}/stop", reason=text)
    assert (answer.status, "lease.reason" in answer.text) == (400, True)
    assert scene.ledger.lease(lease).state is LeaseState.ACTIVE


def test_a_new_token_is_shown_once_and_is_nowhere_else(scene: Scene, ada: Browser, lease: str) -> None:
    answer = ada.submit(f"/leases/{lease}", f"/leases/{lease}/consumers", name="bob", budget="")
    found = re.search(r"<textarea[^>]*>(bct_[^<]+)</textarea>", answer.text)
    assert found is not None
    assert answer.status == 200
    assert answer.header("cache-control") == "no-store"
    assert not any(found[1] in value for _, value in answer.headers)
    for path in (f"/leases/{lease}", f"/leases/{lease}/log", f"/leases/{lease}/log/export"):
        assert found[1] not in ada.get(path).text
    other = ada.submit(f"/leases/{lease}", f"/leases/{lease}/consumers/bob/token")
    assert "bct_" in other.text


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("alice", "lease.consumer_exists"),
        ("Bob", "lease.consumers"),
        ("", "lease.consumers"),
        ("<script>", "lease.consumers"),
        ("b" * 64, "lease.consumers"),
    ],
)
def test_a_consumer_that_cannot_be_added(scene: Scene, ada: Browser, lease: str, name: str, code: str) -> None:
    entries = scene.ledger.entries()
    answer = ada.submit(f"/leases/{lease}", f"/leases/{lease}/consumers", name=name, budget="10")
    assert (answer.status, code in answer.text) == (400, True)
    assert "<script>" not in answer.text.replace("<script src", "")
    assert 'value="10"' in answer.text
    assert scene.ledger.entries() == entries


def test_tokens_are_revoked_after_a_question(scene: Scene, ada: Browser, lease: str) -> None:
    assert "Revoke all tokens of alice" in ada.get(f"/leases/{lease}/consumers/alice/revoke").words
    answer = ada.submit(f"/leases/{lease}", f"/leases/{lease}/consumers/alice/revoke")
    assert answer.header("location").endswith("?done=revoked")
    assert scene.ledger.lease(lease).accounts[0].token_epoch == 1
    assert "lease.consumer" in ada.get(f"/leases/{lease}/consumers/eve/revoke").text
    assert "lease.consumer" in ada.submit(f"/leases/{lease}", f"/leases/{lease}/consumers/eve/revoke").text


def test_a_budget_is_raised(scene: Scene, ada: Browser, lease: str) -> None:
    answer = ada.submit(f"/leases/{lease}", f"/leases/{lease}/raise", consumer="", amount="11", reason="more")
    assert answer.header("location").endswith("?done=raised")
    assert scene.ledger.lease(lease).budget == 111


def test_a_request_of_another_lease_is_not_decided_here(scene: Scene, ada: Browser, lease: str) -> None:
    request = file(scene, lease)
    other = scene.lease().id
    for path in (f"requests/{request}/approve", f"requests/{request}/deny", "proposals/proposal-a/agree"):
        answer = ada.submit(f"/leases/{other}", f"/leases/{other}/{path}", reason="no")
        assert answer.status == 404
    assert scene.ledger.lease(lease).requests[0].state is RequestState.PENDING


def test_a_form_that_was_refused_keeps_what_was_typed(scene: Scene, ada: Browser, lease: str) -> None:
    answer = ada.submit(f"/leases/{lease}", f"/leases/{lease}/raise", consumer="alice", amount="ten", reason="why not")
    assert 'value="ten"' in answer.text
    assert 'value="why not"' in answer.text
    assert '<option value="alice" selected>' in answer.text


def test_a_decision_about_a_lease_that_is_not_here(ada: Browser) -> None:
    answer = ada.submit("/account", "/leases/lease-aaaaaaaaaaaaaaaa/raise", amount="5")
    assert (answer.status, "lease.unknown" in answer.text) == (404, True)
