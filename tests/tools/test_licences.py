from __future__ import annotations

import pytest

import licences


@pytest.mark.parametrize("expression", ["MIT", "Apache-2.0 OR GPL-3.0-only", "BSD-3-Clause AND 0BSD AND MIT"])
def test_permissive_licences_are_allowed(expression: str) -> None:
    assert licences.allowed(expression)


@pytest.mark.parametrize("expression", ["GPL-3.0-only", "MIT AND GPL-3.0-only", "none named", "", "(MIT)"])
def test_anything_else_is_not(expression: str) -> None:
    assert not licences.allowed(expression)


def test_dependencies_of_dependencies_are_looked_at() -> None:
    seen: dict[str, set[str]] = {}
    licences.installed("blindai", frozenset({"all"}), seen)
    assert {"blindai", "starlette", "anyio", "numpy"} <= seen.keys()
    assert "pytest" not in seen
