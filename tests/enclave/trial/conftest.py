"""Budgets of trials."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from blindai.enclave.trial.budget import Budget


@pytest.fixture
def budget() -> Iterator[Budget]:
    """One that never ends."""
    with Budget(300, 300) as made:
        yield made


@pytest.fixture
def spent() -> Iterator[Budget]:
    """Nothing more may be measured."""
    with Budget(0, 300) as made:
        yield made
