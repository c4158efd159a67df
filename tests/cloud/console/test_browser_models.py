"""Journeys in a real browser: a key, models, plots, enclaves, and a digit that is drawn and goes to an enclave."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import onnx
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from blindai import Connection
from blindai.attestation.policy import Policy
from blindai.client.proxy.token import LocalToken
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import ModelListing, UsageTotal, Visibility
from blindai.wire.metadata import TensorMetadata
from chromium import CONTRAST, PHONE, WIDE, press_until
from cloud_scene import PASSWORD
from console_world import World
from enclave_server import RunningServer, node_model
from example_scripts import example
from joined_enclave import joined_enclave
from running_proxy import RunningProxy

DIGITS = "acme/digits"
ECHO = "acme/echo"

# What browsers say by themselves where there is no proxy, or one that does not let the page use it.
UNREACHABLE = re.compile(r"ERR_CONNECTION_REFUSED|ERR_FAILED|blocked by CORS policy")


@dataclass(frozen=True)
class Cloud:
    """A control plane at work, an enclave that has models of one account, and proxies of that account's user.

    Attributes:
        key: for everything.
        token: of the proxies.
        proxy: lets the console's pages use it.
        closed: does not.
    """

    world: World
    enclave: RunningServer
    user: str
    key: ApiKey
    token: LocalToken
    proxy: RunningProxy
    closed: RunningProxy


@pytest.fixture(scope="module")
def digits() -> bytes:
    """The classifier of the example."""
    with example("digits/export.py") as script:
        content: bytes = script.export(script.train()).SerializeToString()
    return content


@pytest.fixture(scope="module")
def cloud(world: World, digits: bytes) -> Iterator[Cloud]:
    scene = world.scene
    user, token = scene.join("acme"), LocalToken.random()
    key = scene.key(user, "acme")
    policy = Policy.parse(scene.platform.manifest, "the test")
    with joined_enclave(world.running) as enclave:
        address = f"https://127.0.0.1:{enclave.port}"

        def upload() -> None:
            with Connection(address, api_key=key.text, policy=policy, progress=False) as client:
                client.upload_model(digits, model_id=DIGITS)
                client.upload_model(node_model(onnx.helper.make_node("Identity", ["x"], ["y"]), size=3), model_id=ECHO)

        outside(upload)
        with (
            RunningProxy(address, policy, token=token, origins=[world.address]) as proxy,
            RunningProxy(address, policy, token=token) as closed,
        ):
            yield Cloud(world, enclave, user, key, token, proxy, closed)


def outside(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call what is not for the thread of the browser's own loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *args, **kwargs).result()


def enter(page: Page, name: str) -> Page:
    """Sign in."""
    page.goto("/sign-in")
    page.get_by_label("E-mail address").fill(f"{name}@example.com")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page).to_have_url(re.compile(f"/accounts/{name}$"))
    return page


@pytest.fixture
def signed_in(world: World, context: Callable[..., BrowserContext]) -> Callable[..., Page]:
    """The page of somebody who has signed up now, and is signed in."""

    def signed_in(name: str, **options: Any) -> Page:
        # Everybody here comes from one address; what it may do in an hour has come back.
        world.scene.clock.shift += 3600
        world.scene.join(name)
        return enter(context(**options).new_page(), name)

    return signed_in


@pytest.fixture
def playground(cloud: Cloud, context: Callable[..., BrowserContext]) -> Callable[..., Page]:
    """The playground, with what the proxy asks for filled in."""

    def playground(**options: Any) -> Page:
        page = enter(context(**options).new_page(), "acme")
        page.goto("/accounts/acme/playground")
        page.evaluate("document.getElementById('proxy').open = true")
        page.get_by_role("combobox", name="Model").fill(DIGITS)
        page.get_by_label("Port on 127.0.0.1").fill(str(cloud.proxy.port))
        page.get_by_label("Token that it printed").fill(cloud.token.reveal())
        page.get_by_label("API key").fill(cloud.key.text)
        return page

    return playground


def ask(page: Page) -> None:
    page.get_by_role("button", name="Ask the model").click()


def test_a_key_is_shown_once_and_revoked(world: World, signed_in: Callable[..., Page]) -> None:
    page = signed_in("kay")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("link", name="Make a key").click()
    page.get_by_label("Name").fill("laptop")
    page.get_by_label("upload models").check()
    page.get_by_role("button", name="Make the key").click()
    text = page.get_by_label("Key", exact=True).input_value()
    assert ApiKey.parse(text).id
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == text

    # Loading it again shows the list, and makes no second key; neither does the way back show it.
    page.reload()
    expect(page.get_by_role("heading", name="Keys")).to_be_visible()
    expect(page.get_by_role("row", name="laptop")).to_have_count(1)
    assert text not in page.content()
    page.go_back()
    page.go_forward()
    assert text not in page.content()

    page.goto("/accounts/kay/keys")
    page.get_by_role("button", name="Revoke laptop").click()
    page.get_by_role("button", name="Revoke the key").click()
    expect(page.get_by_role("status")).to_contain_text("The key is revoked.")
    expect(page.get_by_text("No key is in force.")).to_be_visible()
    page.get_by_text("1 not in force any more").click()
    expect(page.get_by_role("row", name="laptop")).to_contain_text("revoked")


def test_a_key_by_keyboard_alone_and_what_was_typed_stays(signed_in: Callable[..., Page]) -> None:
    page = signed_in("key-board")
    page.goto("/accounts/key-board/keys")
    press_until(page, "Name")
    page.keyboard.type("no mouse")
    press_until(page, "query models")
    page.keyboard.press("Space")
    press_until(page, "Make the key")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Choose what the key is good for.")
    expect(page.get_by_label("Name")).to_have_value("no mouse")
    press_until(page, "query models")
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    assert ApiKey.parse(page.get_by_label("Key", exact=True).input_value()).id
    press_until(page, "I have it: back to the keys")
    page.keyboard.press("Space")
    expect(page.get_by_role("row", name="no mouse")).to_have_count(1)


def test_keys_are_made_and_revoked_without_scripts(signed_in: Callable[..., Page]) -> None:
    page = signed_in("plain", scripts=False)
    page.goto("/accounts/plain/keys")
    page.get_by_label("Name").fill("lynx")
    page.get_by_role("button", name="Make the key").click()
    assert page.get_by_label("Key", exact=True).input_value().startswith("bai_sk_")
    page.get_by_role("button", name="I have it").click()
    page.get_by_role("button", name="Revoke lynx").click()
    page.get_by_role("button", name="Revoke the key").click()
    expect(page.get_by_text("No key is in force.")).to_be_visible()
    page.goto("/accounts/plain/playground")
    expect(page.get_by_text("Drawing takes scripts")).to_be_visible()


def test_plots_are_drawn(world: World, signed_in: Callable[..., Page]) -> None:
    page = signed_in("plotter")
    page.goto("/accounts/plotter/usage")
    expect(page.get_by_text("Nothing was asked yet")).to_be_visible()
    outside(use, world, "plotter")
    page.reload()
    for plot, points, unit in (("hours", "48", "hour"), ("days", "30", "day")):
        place = page.locator(f"#{plot}-plot")
        expect(place).to_have_attribute("data-points", points)
        words = f"By {unit}, in all: 1,200 queries, 34 failed, 5 limited"
        expect(place.locator("canvas")).to_have_attribute("aria-label", words)
        expect(place.locator(".u-legend")).to_contain_text("limited")
        drawn = f"""() => {{
          const canvas = document.querySelector("#{plot}-plot canvas");
          const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          return new Set(new Uint32Array(pixels.buffer)).size;
        }}"""
        assert page.evaluate(drawn) > 10
    expect(page.locator("#table tbody").first).to_contain_text("1,2003450")


def use(world: World, name: str) -> None:
    """Let an account have used something, and have models."""
    scene = world.scene
    key = scene.key(scene.plane.people.sign_in(f"{name}@example.com", PASSWORD, address="192.0.2.1").account, name)
    enclave = scene.played(f"https://enclave-of-{name}.test:9443")
    total = UsageTotal(namespace=name, key_id=key.id, queries=1200, failed=34, limited=5)
    tensor = TensorMetadata("x" * 60, "FP32", (-1, 3, 224, 224))
    models = tuple(
        ModelListing(
            namespace=name,
            name="m" * 60,
            version=version,
            bytes=10**9,
            state=state,
            inputs=(tensor,),
            outputs=(tensor,),
            visibility=Visibility.SHARED,
            shared_with=("partner", "p" * 39),
            queries=10**6,
            unused_ms=1000,
        )
        for version, state in ((1, "UNAVAILABLE"), (2, "READY"))
    )
    # The pages tell the time by the machine's clock.
    ahead, scene.clock.shift = scene.clock.shift, 0
    enclave.report(first=True, totals=(total,), models=models)
    scene.clock.shift = ahead


def test_every_example_is_recognised_through_the_proxy(playground: Callable[..., Page]) -> None:
    page = playground()
    for digit in range(10):
        page.get_by_role("button", name=f"Example of a {digit}").click()
        expect(page.get_by_role("img", name=f"Your drawing: an example of a {digit}")).to_be_visible()
        ask(page)
        expect(page.get_by_role("status")).to_contain_text(f"{digit} says {DIGITS}, in a SIMULATED enclave")
        expect(page.locator("#scores .best .digit")).to_have_text(str(digit))


# Lines by mouse or finger, in parts of the canvas's side.
DRAWN = {
    0: [(0.5, 0.2), (0.35, 0.3), (0.3, 0.5), (0.35, 0.7), (0.5, 0.8), (0.65, 0.7), (0.7, 0.5), (0.65, 0.3), (0.5, 0.2)],
    2: [(0.3, 0.3), (0.4, 0.18), (0.6, 0.2), (0.65, 0.35), (0.5, 0.55), (0.3, 0.8), (0.7, 0.8)],
    5: [(0.7, 0.15), (0.35, 0.15), (0.33, 0.45), (0.55, 0.42), (0.7, 0.58), (0.65, 0.78), (0.45, 0.85), (0.3, 0.75)],
}


def test_digits_that_are_drawn_are_recognised(playground: Callable[..., Page]) -> None:
    page = playground()
    canvas = page.locator("#drawing")
    for digit, points in DRAWN.items():
        page.get_by_role("button", name="Clear").click()
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box is not None
        for index, (x, y) in enumerate(points):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
            if index == 0:
                page.mouse.down()
        page.mouse.up()
        expect(page.get_by_role("img", name="Your drawing: a digit")).to_be_visible()
        ask(page)
        expect(page.get_by_role("status")).to_contain_text(f"{digit} says {DIGITS}")


def test_an_example_by_keyboard_alone(playground: Callable[..., Page]) -> None:
    page = playground(width=PHONE, theme="dark")
    page.evaluate("document.activeElement.blur()")
    press_until(page, "4")
    page.keyboard.press("Space")
    press_until(page, "Ask the model")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text(f"4 says {DIGITS}")


def test_why_there_is_no_answer(cloud: Cloud, playground: Callable[..., Page], complaints: list[str]) -> None:
    page = playground()
    why = page.get_by_role("alert")

    def refused(words: str, code: str = "") -> None:
        ask(page)
        expect(why).to_contain_text(words)
        assert not code or code in why.inner_text()
        expect(page.locator("#said")).to_have_text("There is no answer.")
        expect(page.locator("#scores .best")).to_have_count(0)

    refused("Nothing is drawn.")
    page.get_by_role("button", name="Example of a 3").click()
    expect(why).to_have_count(0)

    page.get_by_label("Token that it printed").fill("another")
    refused("The token is not the one of your proxy.", "proxy.token")
    page.get_by_label("Token that it printed").fill(cloud.token.reveal())

    page.get_by_label("API key").fill("")
    refused("The enclave has no such model, or your key may not see it.", "model.not_found")
    page.get_by_label("API key").fill(cloud.key.text[:-1] + ("a" if cloud.key.text[-1] != "a" else "b"))
    refused("The enclave does not take the API key", "authentication.key")
    page.get_by_label("API key").fill(cloud.key.text)

    model = page.get_by_role("combobox", name="Model")
    model.fill("acme/none")
    refused("The enclave has no such model, or your key may not see it.", "model.not_found")
    model.fill(ECHO)
    refused("The model takes another input than a drawing: x FP32 [any, 3].")
    model.fill("../../secret")
    refused("There is no model to ask.")
    model.fill(DIGITS)

    port = page.get_by_label("Port on 127.0.0.1")
    for wrong in ("", "0", "65536", "80@evil.example", "1e3"):
        port.fill(wrong)
        refused("The port of your proxy is a number from 1 to 65535.")
    assert complaints == []

    port.fill(str(cloud.closed.port))
    refused("does not let this page use it.", "proxy.origin")
    expect(why).to_contain_text(f"--allow-origin {cloud.world.address}")
    assert set(cloud.closed.refused_codes) == {"proxy.origin"}
    port.fill(str(nobody_there()))
    refused("No proxy answers at http://127.0.0.1:")
    # The browser tells of these two by itself.
    assert all(UNREACHABLE.search(line) for line in complaints)
    complaints.clear()

    port.fill(str(cloud.proxy.port))
    ask(page)
    expect(page.get_by_role("status")).to_contain_text(f"3 says {DIGITS}")


def nobody_there() -> int:
    """A port of this machine on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_what_is_drawn_goes_to_the_visitors_machine_alone(
    cloud: Cloud, playground: Callable[..., Page], complaints: list[str]
) -> None:
    page = playground()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("button", name="Example of a 2").click()
    ask(page)
    expect(page.get_by_role("status")).to_contain_text(f"2 says {DIGITS}")
    assert {url.split("/v2/")[0] for url in asked} == {f"http://127.0.0.1:{cloud.proxy.port}"}
    # Nor could the page's script, as it is served, send it anywhere else: not even to where it came from.
    for other in (cloud.world.address, "http://localhost:1", "https://evil.example"):
        assert page.evaluate("(url) => fetch(url).then(() => 'sent', () => 'kept')", f"{other}/x") == "kept"
    assert complaints
    assert all("Content Security Policy" in line or "violates" in line for line in complaints)
    complaints.clear()


@pytest.mark.parametrize(("theme", "width"), [("light", WIDE), ("dark", PHONE)])
def test_every_page_fits_and_can_be_read(world: World, signed_in: Callable[..., Page], theme: str, width: int) -> None:
    name = f"reader-{width}"
    page = signed_in(name, theme=theme, width=width)

    def look(path: str) -> None:
        page.goto(f"/accounts/{name}{path}")
        page.evaluate("document.querySelectorAll('main details').forEach((one) => { one.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.evaluate(CONTRAST) == [], path

    for path in ("", "/models"):
        look(path)
    outside(use, world, name)
    for path in ("", "/models", "/usage", "/enclaves", "/playground", "/keys"):
        look(path)
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("heading", name="Revoke test")).to_be_visible()
    assert page.evaluate(CONTRAST) == []
