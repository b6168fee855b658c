"""The windows that work counts in, and when they are near their limits."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlements.app.policy.document import parse
from entitlements.core.limits import uses, windows_of
from entitlements.core.model import Subject
from entitlements.core.policy import AMOUNT_MAX, Limit, Policy
from entitlements.core.windows import Cause

WARNINGS = Path(__file__).parents[2] / "conformance" / "limits" / "warnings.json"
EXAMPLES = json.loads(WARNINGS.read_text("utf-8"))
CAUSE = Cause("essay-1", "ada", "school", "00-span")


def a_policy(limits: str) -> Policy:
    return parse(f"costs: {{}}\nrate_limits: {{cj: {limits}}}", source="p.yaml")


@pytest.mark.parametrize("case", EXAMPLES["cases"], ids=lambda case: case["name"])
def test_example(case: dict[str, Any]) -> None:
    policy = a_policy(case["limits"])

    shown = [
        [window.subject.type, window.window_s, *found]
        for subject in (Subject("user", "ada"), Subject("org", "school"))
        for window, found in windows_of(policy, subject).items()
    ]
    warned = [
        [use.window.subject.type, use.window.window_s, use.warn.limit, use.warn.units]
        for use in uses(policy, "cj", 1, user_id="ada", org_id="school", cause=CAUSE)
        if use.warn is not None
    ]

    assert shown == case["windows"]
    assert warned == [window for window in case["windows"] if window[3] is not None]


@given(st.integers(1, AMOUNT_MAX), st.integers(1, 100))
def test_a_limit_is_near_at_the_first_unit_that_is_not_below_the_percentage(
    count: int, percent: int
) -> None:
    warn_at = Limit(count=count, window_s=60, warn=percent).warn_at

    assert warn_at is not None
    assert warn_at - 1 < Fraction(count * percent, 100) <= warn_at
    assert 1 <= warn_at <= count


def test_past_work_has_no_request_to_name_and_no_warning() -> None:
    policy = a_policy("{limit: 60/minute, warn: 80%}")

    (use,) = uses(policy, "cj", 3, user_id="ada", org_id=None)

    assert (use.amount, use.warn) == (3, None)
