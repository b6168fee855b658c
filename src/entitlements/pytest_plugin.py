"""Pytest fixtures: `entitlements`, and its policy and clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from entitlements.testing import Authority, Clock


@pytest.fixture
def entitlements_policy() -> str | Path | None:
    """Return the policy document of `entitlements` or its path; None means the default policy.

    Override this fixture to change the policy.
    """
    return None


@pytest.fixture
def entitlements_clock() -> Clock:
    """Return the clock of `entitlements`; it starts at the beginning of 2026."""
    from entitlements.testing import Clock

    return Clock()


@pytest.fixture
def entitlements(
    tmp_path: Path, entitlements_policy: str | Path | None, entitlements_clock: Clock
) -> Iterator[Authority]:
    """Return a new engine for the test, without any balances."""
    from entitlements.testing import authority

    with authority(policy=entitlements_policy, clock=entitlements_clock, folder=tmp_path) as opened:
        yield opened
