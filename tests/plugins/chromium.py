"""Headless Chromium for tests of pages, and what every page must keep: its policy, its width, its contrast."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

# Both the desk and the narrowest phone that is sold.
WIDE, PHONE = 1280, 360

# Its own messages about refused requests, which some tests provoke.
STATUS = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")


@contextmanager
def started(certificate: Path | None = None) -> Iterator[Browser]:
    """A browser.

    Args:
        certificate: a PEM file. Servers that have its key are believed without any error, as passkeys ask for.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    # The sandbox needs a user other than root; the pages are our own.
    args = ["--no-sandbox"]
    if certificate is not None:
        args.append(f"--ignore-certificate-errors-spki-list={_key_digest(certificate)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=args)
        yield browser
        browser.close()


@contextmanager
def contexts(
    chromium: Browser, address: str, complaints: list[str], *, believed: bool = False
) -> Iterator[Callable[..., BrowserContext]]:
    """Makes browsers of their own: cookies, theme, width.

    Args:
        address: of the server.
        complaints: gets what they complain about: errors of scripts, and whatever the policy of the pages forbade.
        believed: the server's certificate is one that `started` was told of.
    """
    opened: list[BrowserContext] = []

    def complain(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not STATUS.match(message.text):
            complaints.append(f"{message.text} on {message.page.url if message.page else ''}")

    def context(*, theme: str = "light", width: int = WIDE, scripts: bool = True) -> BrowserContext:
        made = chromium.new_context(
            base_url=address,
            ignore_https_errors=not believed,
            color_scheme="dark" if theme == "dark" else "light",
            viewport={"width": width, "height": 800},
            java_script_enabled=scripts,
        )
        made.set_default_timeout(15_000)
        made.on("console", complain)
        made.on("weberror", lambda error: complaints.append(str(error.error)))
        opened.append(made)
        return made

    try:
        yield context
    finally:
        for one in opened:
            one.close()


def press_until(page: Page, name: str) -> None:
    """Tab until the element of this name has the focus, and see that the focus is visible."""
    for _ in range(40):
        page.keyboard.press("Tab")
        found = page.evaluate(
            "(() => { const e = document.activeElement; const s = getComputedStyle(e);"
            " return [(e.innerText || e.labels?.[0]?.innerText || '').trim(), s.outlineStyle, s.outlineWidth] })()"
        )
        if found[0].startswith(name):
            assert found[1] != "none"
            assert found[2] != "0px"
            return
    pytest.fail(f"{name} is not reached by Tab")


# The contrast of every visible text with what is behind it, by WCAG 2.2, section 1.4.3.
CONTRAST = """() => {
  const parse = (text) => {
    const found = text.match(/rgba?\\(([^)]+)\\)/);
    if (!found) return null;
    const [r, g, b, a = 1] = found[1].split(/[ ,/]+/).map(Number);
    return { r, g, b, a };
  };
  const part = (value) => (value <= 10.31475 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const light = (c) => 0.2126 * part(c.r) + 0.7152 * part(c.g) + 0.0722 * part(c.b);
  const over = (top, under) => ({
    r: top.r * top.a + under.r * (1 - top.a), g: top.g * top.a + under.g * (1 - top.a),
    b: top.b * top.a + under.b * (1 - top.a), a: 1,
  });
  const behind = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour && colour.a > 0) layers.push(colour);
    }
    return layers.reverse().reduce((under, top) => over(top, under), { r: 255, g: 255, b: 255, a: 1 });
  };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || element.closest("script, .unseen, .skip, option")) continue;
    if (!element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const text = parse(style.color);
    if (!text) continue;
    const ground = behind(element);
    const [high, low] = [light(over(text, ground)), light(ground)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    const words = walker.currentNode.textContent.trim().slice(0, 40);
    if (ratio < (large ? 3 : 4.5)) bad.push(`${ratio.toFixed(2)} ${style.color} ${words}`);
  }
  return bad;
}"""


def _key_digest(certificate: Path) -> str:
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(spki).digest()).decode()
