"""Draw the dashboard's page of a lease, in both themes, into docs/assets: the real pages in a real Chromium.

The lease and three hours of queries are made up here; enclaves are played, as in the tests.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "docs" / "assets"
sys.path.insert(0, str(ROOT / "tests" / "plugins"))

from custodian_scene import PASSWORD, AttestedInstance, Scene, prepare  # noqa: E402 - from the folder above

# Down to the plot: the rest of the page is for who has it before them.
VIEW = {"width": 1080, "height": 1560}

SPAN = timedelta(hours=3)
STEPS = 90
MEAN_QUERIES = {"radiology": 160, "emergency": 90, "research": 25}


def spend(scene: Scene, instances: list[AttestedInstance], dice: random.Random) -> None:
    """Three hours of queries, so many by each consumer in each step."""
    for step in range(STEPS):
        scene.clock.shift = SPAN * (step / STEPS - 1)
        for consumer, mean in MEAN_QUERIES.items():
            instance = dice.choice(instances)
            queries = max(1, int(dice.gauss(mean, mean / 2)))
            instance.renew({consumer: queries + 10})
            queries = min(queries, instance.held.get(consumer, 0))
            if queries:
                instance.spend(consumer, queries)
                instance.renew({})


def play(scene: Scene) -> str:
    """A lease with a past and a request that waits; its id."""
    scene.clock.shift = -SPAN
    lease = scene.lease(
        name="Chest X-ray triage",
        borrower="a hospital",
        model_id="acme/chest-xray",
        budget=50_000,
        consumers={"radiology": None, "emergency": 12_000, "research": 2_000},
        max_instances=4,
    )
    instances = [scene.instance(lease.id), scene.instance(lease.id)]
    spend(scene, instances, random.Random(3))
    scene.clock.shift = timedelta()
    instances[0].renew({"radiology": 200})
    instances[1].renew({"emergency": 50})
    instances[0].request("research", 5_000)
    return lease.id


def draw(browser: Browser, address: str, lease: str, theme: str) -> None:
    """One picture."""
    context = browser.new_context(
        base_url=address, ignore_https_errors=True, color_scheme="dark" if theme == "dark" else "light"
    )
    page = context.new_page()
    page.set_viewport_size({"width": VIEW["width"], "height": VIEW["height"]})
    page.goto("/")
    page.fill("#name", "root")
    page.fill("#password", PASSWORD)
    page.click("main button")
    page.wait_for_selector("#live")
    page.goto(f"/leases/{lease}")
    page.wait_for_selector(".uplot canvas")
    page.wait_for_timeout(800)  # for the first news, after which nothing moves
    page.screenshot(path=ASSETS / f"dashboard-{theme}.png")
    context.close()


def main() -> int:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise SystemExit("no Chromium on this machine")
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        scene = Scene(Path(folder))
        lease = play(scene)
        with scene.served() as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            for theme in ("light", "dark"):
                draw(browser, address, lease, theme)
            browser.close()
        scene.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
