"""Fixtures for your tests: `entitlements`, and what it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from entitlements.testing import Authority, Clock


@pytest.fixture
def entitlements_policy() -> str | Path | None:
    """The policy document of `entitlements`, or its path; none: the shipped one. Override it."""
    return None


@pytest.fixture
def entitlements_clock() -> Clock:
    """The clock of `entitlements`: at the beginning of 2026 until you advance it."""
    from entitlements.testing import Clock

    return Clock()


@pytest.fixture
def entitlements(
    tmp_path: Path, entitlements_policy: str | Path | None, entitlements_clock: Clock
) -> Iterator[Authority]:
    """An authority of this test's own, without balances until you give some."""
    from entitlements.testing import authority

    with authority(policy=entitlements_policy, clock=entitlements_clock, folder=tmp_path) as opened:
        yield opened
