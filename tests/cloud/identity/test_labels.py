"""What people may call their things."""

from __future__ import annotations

import pytest

from blindai.cloud.identity.labels import require_label
from people_world import code_of


@pytest.mark.parametrize("name", ["phone", "Bücher & Co.", "x" * 64, "電話", "my phone (old)", "<b>", "'; --"])
def test_what_can_be_seen_is_a_name(name: str) -> None:
    require_label(name, code="identity.passkey_name")


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        " phone",
        "phone ",
        "x" * 65,
        "phone\n",
        "a\x00b",
        "\x1b[2J",
        "\u202eenohp",
        "a\u200bb",
        "a\u2028b",
        "\udcff",
    ],
)
def test_what_cannot_be_seen_or_moves_what_can_is_none(name: str) -> None:
    assert code_of(require_label, name, code="device.name") == "device.name"
