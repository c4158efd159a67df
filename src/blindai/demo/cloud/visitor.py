"""A person with a browser, as far as the story needs one: it loads a page, fills in its form, and keeps cookies."""

from __future__ import annotations

import http.client
import re
from html import unescape
from typing import Final
from urllib.parse import urlencode

from blindai.client.control_plane import connect
from blindai.client.profile import parse_cloud, parse_fingerprint
from blindai.demo.story import StoryFailed

_TIMEOUT_SECONDS: Final = 20.0
_MAX_PAGE_BYTES: Final = 1 << 20

_SEE_OTHER: Final = 303
_CSRF: Final = re.compile(r'name="csrf" value="([^"]+)"')
_ALERT: Final = re.compile(r'role="alert"[^>]*>(.*?)</', re.DOTALL)
_TAG: Final = re.compile(r"<[^>]*>")


class Visitor:
    """Somebody who looks at the pages of a cloud.

    Args:
        url: where the cloud is.
        fingerprint: of its certificate, which this person has compared.
    """

    def __init__(self, url: str, fingerprint: str) -> None:
        self._address = parse_cloud(url)
        self._fingerprint = parse_fingerprint(fingerprint)
        self._cookies: dict[str, str] = {}

    def submit(self, page: str, to: str | None = None, **fields: str) -> None:
        """Load `page`, fill in its form, and send that.

        Args:
            page: its path.
            to: where the form goes, if not to the page's own path.
            fields: what is filled in.

        Raises:
            StoryFailed: the form was not taken.
        """
        status, form = self._request("GET", page)
        token = _CSRF.search(form)
        if status != http.client.OK or token is None:
            raise StoryFailed(f"{page} shows no form: HTTP status {status}")
        path = to or page.partition("?")[0]
        status, answer = self._request("POST", path, urlencode({**fields, "csrf": unescape(token[1])}))
        if status != _SEE_OTHER:
            alert = _ALERT.search(answer)
            why = unescape(_TAG.sub("", alert[1])).strip() if alert else "no reason"
            raise StoryFailed(f"{path} was answered with HTTP status {status}: {why}")

    def _request(self, method: str, path: str, form: str | None = None) -> tuple[int, str]:
        headers = {"Origin": self._address.origin, "Sec-Fetch-Site": "same-origin", "Accept": "text/html"}
        if self._cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection = connect(self._address, fingerprint=self._fingerprint, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request(method, path, form, headers)
            response = connection.getresponse()
            page = response.read(_MAX_PAGE_BYTES).decode()
        finally:
            connection.close()
        for cookie in response.headers.get_all("Set-Cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            if value.strip('"'):
                self._cookies[name] = value
            else:
                self._cookies.pop(name, None)
        return response.status, page
