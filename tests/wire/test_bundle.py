from __future__ import annotations

import pytest

from blindai.wire.bundle import is_plain_name


@pytest.mark.parametrize("name", ["model.onnx.data", "weights/layer.0.bin", "a b", "é", "..a", "a..", "-"])
def test_plain_names(name: str) -> None:
    assert is_plain_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "/a", "a/", "a//b", ".", "..", "./a", "a/../b", "a\\b", "C:a", "a:b", "a\0", "a\n", "a\u202e", "\ud800"],
)
def test_names_that_lead_elsewhere_or_read_differently(name: str) -> None:
    assert not is_plain_name(name)
