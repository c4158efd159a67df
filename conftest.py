"""Root of the tests' configuration: plugins that hold for every folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

pytest_plugins = ["custodian", "figures", "mutations", "postgresql", "skip_guard"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of single tests."""
    parser.addoption(
        "--watch",
        type=float,
        metavar="SECONDS",
        help="how long to look at the neighbour of an attacked enclave; by default too short to print how it fares",
    )
