"""The signed log: its pages, its check, its export."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from asgi_browser import Browser
from blindai.custody import tables
from blindai.custody.audit import audit
from blindai.custody.dashboard import logs
from blindai.custody.dashboard.logs import PAGE_ENTRIES, Check, check
from blindai.custody.dashboard.visit import MAX_CHECKS
from blindai.custody.keys import CustodianKeys
from custodian_scene import Scene


@pytest.fixture
def lease(scene: Scene) -> str:
    """A lease with 70 and some entries."""
    made = scene.lease().id
    instance = scene.instance(made)
    for _ in range(35):
        instance.renew({"alice": 1})
        instance.spend("alice", 1)
    instance.renew({})
    return made


def tamper(scene: Scene, statement: sa.Executable) -> None:
    with scene.database.write() as connection:
        connection.execute(statement)


def verify(ada: Browser, lease: str) -> str:
    answer = ada.submit(f"/leases/{lease}/log", f"/leases/{lease}/log/verify")
    assert answer.status == 200
    return answer.words


def test_the_log_is_read_page_by_page_the_newest_first(scene: Scene, ada: Browser, lease: str) -> None:
    count = scene.ledger.entries()[lease]
    newest = ada.get(f"/leases/{lease}/log")
    assert newest.text.count('<li id="entry-') == PAGE_ENTRIES
    assert f'<li id="entry-{count}">' in newest.text
    assert f"entries {count - PAGE_ENTRIES + 1} to {count} of {count}" in newest.words
    oldest = ada.get(f"/leases/{lease}/log?to={count - PAGE_ENTRIES}")
    assert oldest.text.count('<li id="entry-') == count - PAGE_ENTRIES
    assert "Lease created" in oldest.words
    assert ">Newer<" in oldest.text
    assert ">Older<" not in oldest.text


@pytest.mark.parametrize("to", ["-1", "x", "1e3", "9" * 50, "<script>", "%00", "٣"])
def test_a_page_that_there_is_not(ada: Browser, lease: str, to: str) -> None:
    answer = ada.get(f"/leases/{lease}/log?to={to.encode().hex('%') if not to.isascii() else to}")
    assert answer.status == 404
    assert "<script>" not in answer.text


@pytest.mark.parametrize("to", ["0", "1", "99999999"])
def test_a_page_at_the_edge(ada: Browser, lease: str, to: str) -> None:
    assert ada.get(f"/leases/{lease}/log?to={to}").status == 200


def test_verify_checks_every_entry(scene: Scene, ada: Browser, lease: str) -> None:
    count = scene.ledger.entries()[lease]
    words = verify(ada, lease)
    assert f"{count} entries follow from one another" in words
    assert scene.ledger.events(lease)[-1].digest in words
    assert "blindai custodian audit" in words
    assert "the server's own word" in words


def test_a_crowd_that_verifies_does_not_keep_operators_from_a_stop(
    ada: Browser, signed_in: Callable[[str], Browser], lease: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Semaphore(0), threading.Event()

    def held(*_: object) -> Check:
        begun.release()
        assert go.wait(20)
        return Check(0, "", None)

    monkeypatch.setattr(logs, "check", held)
    pages = [signed_in("ada") for _ in range(MAX_CHECKS)]
    with ThreadPoolExecutor(MAX_CHECKS) as viewers:
        verifying = [viewers.submit(verify, page, lease) for page in pages]
        try:
            assert all(begun.acquire(timeout=20) for _ in pages)
            refused = ada.submit(f"/leases/{lease}/log", f"/leases/{lease}/log/verify")
            assert (refused.status, "busy" in refused.text) == (503, True)
            assert ada.submit(f"/leases/{lease}/stop", f"/leases/{lease}/stop").status == 303
        finally:
            go.set()
        assert all(one.result() for one in verifying)


def test_an_edited_entry_is_found(scene: Scene, ada: Browser, lease: str) -> None:
    table = tables.events
    edited = sa.update(table).where(table.c.seq == 20)
    tamper(scene, edited.values(detail=sa.func.replace(table.c.detail, "alice", "chloe")))
    words = verify(ada, lease)
    assert "The log is broken after entry 19" in words
    assert "audit.signature" in words


def test_a_removed_entry_is_found(scene: Scene, ada: Browser, lease: str) -> None:
    tamper(scene, sa.delete(tables.events).where(tables.events.c.seq == 20))
    assert "audit.chain" in verify(ada, lease)


def test_entries_that_were_cut_off_are_found_while_the_lease_knows_of_them(
    scene: Scene, ada: Browser, lease: str
) -> None:
    tamper(scene, sa.delete(tables.events).where(tables.events.c.seq > 20))
    words = verify(ada, lease)
    assert "follow from one another" not in words or "20 entries" in words


def test_a_log_of_another_custodian_is_not_ours(scene: Scene, lease: str) -> None:
    found = check(scene.ledger, lease, CustodianKeys.generate().public_key)
    assert found.broken is not None
    assert found.broken.code == "audit.signature"
    assert found.count == 0


def test_the_export_stands_up_to_the_offline_audit(scene: Scene, ada: Browser, lease: str) -> None:
    answer = ada.get(f"/leases/{lease}/log/export")
    assert answer.header("content-disposition") == f'attachment; filename="{lease}.jsonl"'
    assert answer.header("content-type").startswith("application/jsonl")
    result = audit((line for line in answer.body.splitlines(keepends=True)), custodian=scene.keys.public_key)
    assert not result.findings
    assert result.entries == scene.ledger.entries()[lease]


def test_long_details_are_cut_on_the_page_and_say_so(ada: Browser, lease: str) -> None:
    page = ada.get(f"/leases/{lease}/log?to=10").words
    assert "more characters: see the export" in page
