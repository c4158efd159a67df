"""Where a control plane is reached, and what it is called."""

from __future__ import annotations

import pytest

from blindai.cloud.site import Site
from blindai.errors import ConfigurationError


@pytest.mark.parametrize(
    ("url", "rp_id"),
    [
        ("https://cloud.example", "cloud.example"),
        ("https://localhost:9443", "localhost"),
        ("https://192.0.2.1:8443", "192.0.2.1"),
        ("https://xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_a_site_is_an_origin(url: str, rp_id: str) -> None:
    assert Site("A cloud", url).rp_id == rp_id


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cloud.example",
        "http://cloud.example",
        "https://cloud.example/",
        "https://cloud.example/pages",
        "https://cloud.example?x",
        "https://cloud.example#x",
        "https://Cloud.example",
        "https://user@cloud.example",
        "https://user:password@cloud.example",
        "https://cloud.example:443",
        "https://cloud.example:0",
        "https://cloud.example:",
        "https://cloud.example:99999",
        "https://cloud.example:x",
        "https://b\u00fccher.example",
        "https://cloud.example\n",
        " https://cloud.example",
        "https://-cloud.example",
        "https://",
        "https://[::1",
    ],
)
def test_what_no_browser_calls_an_origin_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Site("A cloud", url)
    assert caught.value.code == "configuration.site"


@pytest.mark.parametrize("name", ["", " ", "A\ncloud", "x" * 65, "\u202ecloud"])
def test_a_site_is_called_by_what_can_be_seen(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Site(name, "https://cloud.example")
    assert caught.value.code == "configuration.site"
