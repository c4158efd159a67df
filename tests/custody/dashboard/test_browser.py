"""The pages in a real browser: live, by keyboard, on a phone, light and dark, and never against their own policy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from blindai.wire.custody import LeaseState, RequestState
from chromium import CONTRAST, PHONE, WIDE, contexts, press_until, started
from custodian_scene import DATABASE, PASSWORD, AttestedInstance, Scene, prepare


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Scene, str]]:
    """A custodian at work, and the address of its pages. Each test has leases of its own."""
    folder = tmp_path_factory.mktemp("world")
    prepare(folder)
    assert (folder / DATABASE).is_file()
    made = Scene(folder)
    with made.served() as address:
        yield made, address
    made.close()


@pytest.fixture
def scene(world: tuple[Scene, str]) -> Scene:
    return world[0]


@pytest.fixture
def complaints() -> list[str]:
    """What browsers complained about: errors of scripts, and whatever the policy of the pages forbade."""
    return []


@pytest.fixture
def context(
    chromium: Browser, world: tuple[Scene, str], complaints: list[str]
) -> Iterator[Callable[..., BrowserContext]]:
    """Makes a browser of its own: cookies, theme, width. At the end none may have complained."""
    with contexts(chromium, world[1], complaints) as context:
        yield context
    assert complaints == []


@pytest.fixture
def sign_in(context: Callable[..., BrowserContext]) -> Callable[..., Page]:
    """Signs an operator in, in a browser of its own, and gives the page."""

    def sign_in(name: str = "ada", **options: Any) -> Page:
        page = context(**options).new_page()
        page.goto("/")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Leases")).to_be_visible()
        return page

    return sign_in


def serving(scene: Scene, **terms: Any) -> tuple[str, AttestedInstance]:
    """A lease, and an instance that has a grant."""
    lease = scene.lease(**terms).id
    instance = scene.instance(lease)
    instance.renew({"alice": 60})
    return lease, instance


def outside(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call the ledger from where an enclave is: not in the thread of the browser's own loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *args, **kwargs).result()


def live(page: Page) -> None:
    expect(page.locator("[data-live-state]")).to_have_text("live")


def test_sign_in_and_out(sign_in: Callable[..., Page]) -> None:
    page = sign_in()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto("/leases")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_another_amount_is_approved(scene: Scene, sign_in: Callable[..., Page]) -> None:
    lease, instance = serving(scene)
    instance.request("alice", 500)
    page = sign_in()
    page.goto(f"/leases/{lease}")
    page.get_by_label("Other amount for alice").fill("25")
    page.get_by_role("button", name="Approve other amount").click()
    expect(page.get_by_role("status").first).to_have_text("The request was approved.")
    assert scene.ledger.lease(lease).requests[0].granted == 25


def test_enter_in_the_other_amount_approves_that_amount(scene: Scene, sign_in: Callable[..., Page]) -> None:
    lease, instance = serving(scene)
    instance.request("alice", 500)
    page = sign_in()
    page.goto(f"/leases/{lease}")
    page.get_by_label("Other amount for alice").fill("7")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_have_text("The request was approved.")
    assert scene.ledger.lease(lease).requests[0].granted == 7


def test_a_request_is_denied_with_a_reason(scene: Scene, sign_in: Callable[..., Page]) -> None:
    lease, instance = serving(scene)
    instance.request("alice", 500)
    page = sign_in()
    page.goto(f"/leases/{lease}")
    page.get_by_role("button", name="Deny").click()
    # The browser itself asks for the reason.
    expect(page).to_have_url(re.compile(f"{lease}$"))
    page.get_by_label("Reason of the denial for alice").fill("not this month")
    page.get_by_role("button", name="Deny").click()
    expect(page.get_by_role("status").first).to_have_text("The request was denied.")
    request = scene.ledger.lease(lease).requests[0]
    assert (request.state, request.reason) == (RequestState.DENIED, "not this month")


def test_an_acknowledgement_appears_by_itself(scene: Scene, sign_in: Callable[..., Page]) -> None:
    lease, instance = serving(scene)
    page = sign_in()
    page.goto(f"/leases/{lease}")
    page.get_by_role("button", name="Stop").click()
    page.get_by_label("Reason").fill("a break-in")
    page.get_by_role("button", name="Stop the lease").click()
    expect(page.get_by_text("Not acknowledged.")).to_be_visible()
    live(page)
    page.evaluate("window.untouched = true")
    outside(instance.hear)
    expect(page.get_by_text(re.compile(r"Acknowledged \d+\.\d\d s after it was stopped"))).to_be_visible()
    expect(page.get_by_text("Not acknowledged.")).to_have_count(0)
    assert page.evaluate("window.untouched") is True


def test_a_request_appears_by_itself_on_both_pages(scene: Scene, sign_in: Callable[..., Page]) -> None:
    lease, instance = serving(scene, name="A lease of its own")
    leases = sign_in()
    one = leases.context.new_page()
    one.goto(f"/leases/{lease}")
    live(one)
    live(leases)
    outside(instance.request, "alice", 500)
    expect(one.get_by_role("button", name="Approve 500")).to_be_visible()
    leases.bring_to_front()
    expect(leases.locator(f"#row-{lease}").get_by_text("1 to decide")).to_be_visible()


def test_news_leave_alone_what_is_being_typed_and_what_is_open(scene: Scene, sign_in: Callable[..., Page]) -> None:
    lease, instance = serving(scene)
    instance.request("alice", 500)
    page = sign_in()
    page.goto(f"/leases/{lease}")
    live(page)
    page.locator("#raise > summary").click()
    page.locator("#raise-amount").fill("77")
    box = page.get_by_label("Other amount for alice")
    box.fill("12")
    outside(scene.ledger.pause, lease, by="grace", reason="in the meantime")
    expect(page.get_by_text("in the meantime")).to_be_visible()
    expect(box).to_have_value("12")
    expect(box).to_be_focused()
    expect(page.locator("#raise-amount")).to_have_value("77")
    expect(page.locator("#raise-amount")).to_be_visible()
    page.keyboard.type("3")
    expect(box).to_have_value("123")


def test_news_leave_alone_what_was_refused(scene: Scene, sign_in: Callable[..., Page]) -> None:
    lease, instance = serving(scene)
    instance.request("alice", 500)
    page = sign_in()
    page.goto(f"/leases/{lease}")
    page.locator("#raise > summary").click()
    page.locator("#raise-consumer").select_option("alice")
    page.locator("#raise-amount").fill("ten")
    page.get_by_role("button", name="Raise").click()
    expect(page.get_by_role("alert")).to_contain_text('"ten" is none')
    live(page)
    outside(scene.ledger.pause, lease, by="grace", reason="in the meantime")
    expect(page.get_by_text("in the meantime")).to_be_visible()
    expect(page.locator("#raise-amount")).to_have_value("ten")
    expect(page.locator("#raise-consumer")).to_have_value("alice")


def test_two_operators_resume(scene: Scene, sign_in: Callable[..., Page]) -> None:
    lease, _ = serving(scene, approvals=2)
    scene.ledger.stop(lease, by="root")
    ada, grace = sign_in("ada"), sign_in("grace")
    grace.goto(f"/leases/{lease}")
    live(grace)
    ada.goto(f"/leases/{lease}")
    ada.get_by_role("button", name="Resume").click()
    ada.get_by_role("button", name="Resume the lease").click()
    expect(ada.get_by_text("1 of 2 operators agree: ada")).to_be_visible()
    expect(ada.get_by_role("button", name="Agree")).to_have_count(0)
    live(ada)
    grace.get_by_role("button", name="Agree").click()
    expect(grace.get_by_role("status").first).to_have_text("The lease is active again.")
    expect(ada.locator("#state .badge")).to_have_text("active")
    assert scene.ledger.lease(lease).state is LeaseState.ACTIVE


def test_the_plot_has_points_and_takes_more(scene: Scene, sign_in: Callable[..., Page]) -> None:
    lease, instance = serving(scene, consumers={"alice": None, "bob": None})
    instance.spend("alice", 20)
    instance.renew({})
    page = sign_in()
    page.goto(f"/leases/{lease}")
    plot = page.locator("#plot")
    expect(plot).to_have_attribute("data-points", "3")
    expect(plot.locator("canvas")).to_have_attribute("aria-label", "Units spent over time: 20 of 100 queries")
    expect(plot.locator(".u-legend")).to_contain_text("alice")
    drawn = """() => {
      const canvas = document.querySelector("#plot canvas");
      const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      return new Set(new Uint32Array(pixels.buffer)).size;
    }"""
    assert page.evaluate(drawn) > 10
    live(page)
    instance.spend("alice", 5)
    outside(instance.renew, {})
    expect(plot).to_have_attribute("data-points", "4")
    expect(plot.locator("canvas")).to_have_attribute("aria-label", "Units spent over time: 25 of 100 queries")


def test_verify(scene: Scene, sign_in: Callable[..., Page]) -> None:
    lease, _ = serving(scene)
    page = sign_in("vera")
    page.goto(f"/leases/{lease}")
    page.get_by_role("button", name="Signed log").click()
    page.get_by_role("button", name="Verify").click()
    expect(page.locator("#checked")).to_contain_text("entries follow from one another")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the export").click()
    assert download.value.suggested_filename == f"{lease}.jsonl"
    assert Path(download.value.path()).read_text().count("\n") == scene.ledger.entries()[lease] + 2


def test_a_stop_by_keyboard_alone(scene: Scene, context: Callable[..., BrowserContext]) -> None:
    lease, _ = serving(scene, name="Stopped by keyboard")
    page = context().new_page()
    page.goto(f"/leases/{lease}")
    # The name has the focus already.
    page.keyboard.type("ada")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Stopped by keyboard")).to_be_visible()
    press_until(page, "Skip to the content")
    press_until(page, "Stop")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Stop the lease")).to_be_visible()
    press_until(page, "Cancel")
    page.keyboard.press("Space")
    expect(page.get_by_role("heading", name="Stopped by keyboard")).to_be_visible()
    press_until(page, "Stop")
    page.keyboard.press("Space")
    expect(page.get_by_role("heading", name="Stop the lease")).to_be_visible()
    press_until(page, "Reason")
    page.keyboard.type("no mouse")
    press_until(page, "Stop the lease")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("The lease is stopped.")
    assert scene.ledger.lease(lease).reason == "no mouse"


def test_without_scripts_everything_can_be_done(scene: Scene, sign_in: Callable[..., Page]) -> None:
    lease, instance = serving(scene)
    instance.request("alice", 500)
    page = sign_in(scripts=False)
    page.goto(f"/leases/{lease}")
    page.get_by_role("button", name="Approve 500").click()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop the lease").click()
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Resume the lease").click()
    found = scene.ledger.lease(lease)
    assert (found.state, found.budget, found.stop_epoch) == (LeaseState.ACTIVE, 600, 1)


def test_a_page_left_open_after_a_sign_out_shows_nothing_more(scene: Scene, sign_in: Callable[..., Page]) -> None:
    lease, instance = serving(scene)
    page = sign_in()
    page.goto(f"/leases/{lease}")
    live(page)
    other = page.context.new_page()
    other.goto("/account")
    other.get_by_role("button", name="Sign out").click()
    expect(other.get_by_role("heading", name="Sign in")).to_be_visible()
    outside(instance.request, "alice", 500)
    expect(page.locator("[data-live-state]")).to_have_text("not live")
    expect(page.get_by_role("button", name="Approve 500")).to_have_count(0)


@pytest.fixture
def every_page(scene: Scene) -> list[str]:
    """The addresses of all pages, with long words and with everything that a lease can show."""
    scene.clock.shift -= timedelta(hours=1)
    lease, instance = serving(
        scene,
        name="W" * 100,
        borrower="Donaudampfschifffahrtsgesellschaft" * 2,
        model_id=f"{'n' * 64}/{'m' * 64}",
        budget=10**12,
        consumers={"alice": None, "b" * 63: 10**11},
        approvals=2,
        max_instances=3,
    )
    instance.spend("alice", 60)
    scene.clock.shift += timedelta(hours=1)
    instance.renew({"alice": 10})
    instance.request("alice", 10**12)
    scene.instance(lease).renew({})
    scene.ledger.stop(lease, by="root", reason="y" * 500)
    scene.ledger.resume(lease, by="root", reason="z" * 500)
    instance.hear()
    there = f"/leases/{lease}"
    return [
        "/leases",
        there,
        f"{there}/stop",
        f"{there}/resume",
        f"{there}/consumers/{'b' * 63}/revoke",
        f"{there}/log",
        "/operators",
        "/account",
        "/leases/nothing",
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_every_page_fits_and_can_be_read(
    sign_in: Callable[..., Page], every_page: list[str], theme: str, width: int
) -> None:
    page = sign_in("root", theme=theme, width=width)
    for address in every_page:
        page.goto(address)
        if "lease-" in address and address.count("/") == 2:
            expect(page.locator("#plot")).to_have_attribute("data-points", re.compile(r"\d+"))
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
        assert page.evaluate(CONTRAST) == [], address
    page.goto("/account")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST) == []


def test_a_new_token_can_be_copied_and_is_gone_afterwards(scene: Scene, sign_in: Callable[..., Page]) -> None:
    lease, _ = serving(scene)
    page = sign_in()
    page.goto(f"/leases/{lease}")
    page.get_by_role("button", name="New token for alice").click()
    token = page.get_by_label("Token").input_value()
    assert token.startswith("bct_")
    assert token not in page.url
    page.get_by_role("button", name="I have it: back to the lease").click()
    expect(page.get_by_role("heading", name="Consumers")).to_be_visible()
    assert token not in page.content()


def test_the_policy_holds_against_a_script_that_got_in(
    scene: Scene, sign_in: Callable[..., Page], complaints: list[str]
) -> None:
    page = sign_in()
    refused = page.evaluate("""() => {
      const made = (name) => document.body.appendChild(document.createElement(name));
      const tries = [
        () => made("script").append("window.owned = 1"),
        () => made("script").setAttribute("src", "data:text/javascript,window.owned=2"),
        () => made("img").setAttribute("onerror", "window.owned = 3"),
        () => document.body.insertAdjacentHTML("beforeend", "<img src=x onerror=window.owned=4>"),
        () => { location.href = "javascript:window.owned=5" },
      ];
      return tries.filter((one) => { try { one(); return false } catch { return true } }).length;
    }""")
    page.wait_for_timeout(200)
    assert page.evaluate("window.owned") is None
    assert refused >= 3
    assert complaints
    complaints.clear()
