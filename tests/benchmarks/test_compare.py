"""Verdicts from paired ratios."""

from random import Random

import pytest

from benchmarks.compare import (
    COVERAGE_MIN,
    ROUNDS_MAX,
    Interval,
    Verdict,
    judge,
    median_interval,
    needs_round,
)


def test_the_interval_of_five_rounds_reaches_from_the_lowest_to_the_highest() -> None:
    interval = median_interval([1.2, 0.9, 1.0, 1.1, 0.8])

    assert interval == Interval(0.8, 1.0, 1.2)


def test_the_interval_of_fifteen_rounds_reaches_from_the_fourth_to_the_twelfth() -> None:
    interval = median_interval([float(number) for number in range(1, 16)])

    assert interval == Interval(4.0, 8.0, 12.0)


def test_a_single_round_has_an_interval_of_one_value() -> None:
    assert median_interval([0.7]) == Interval(0.7, 0.7, 0.7)


@pytest.mark.parametrize("rounds", range(5, ROUNDS_MAX + 1))
def test_the_interval_covers_the_true_median_as_often_as_it_says(rounds: int) -> None:
    random = Random(rounds)
    drawn = 4_000

    covered = 0
    for _ in range(drawn):
        interval = median_interval([random.gauss(1, 0.1) for _ in range(rounds)])
        covered += interval.low <= 1 <= interval.high

    assert covered / drawn > COVERAGE_MIN - 0.02


def test_the_spread_is_half_the_width_in_percent_of_the_median() -> None:
    assert Interval(0.96, 1.0, 1.04).spread == pytest.approx(4)


def test_rounds_are_added_until_there_are_five() -> None:
    assert needs_round([1.0] * 4)
    assert not needs_round([1.0] * 5)


def test_rounds_are_added_while_the_interval_is_wide() -> None:
    narrow, wide = [0.98, 0.99, 1.0, 1.01, 1.02], [0.8, 0.9, 1.0, 1.1, 1.2]

    assert not needs_round(narrow)
    assert needs_round(wide)


def test_rounds_are_added_while_a_narrow_interval_gives_no_verdict() -> None:
    assert needs_round([0.99, 1.01, 1.02, 1.03, 1.04])
    assert not needs_round([1.05, 1.06, 1.07, 1.08, 1.09])


def test_rounds_are_added_to_a_wide_row_up_to_fifteen() -> None:
    alternating = [0.5, 1.5] * 8

    assert needs_round(alternating[: ROUNDS_MAX - 1])
    assert not needs_round(alternating[:ROUNDS_MAX])


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([0.98, 0.99, 1.0, 1.01, 1.02], Verdict.SAME),
        ([0.49, 0.5, 0.5, 0.5, 0.51], Verdict.LESS),
        ([1.08, 1.09, 1.1, 1.11, 1.12], Verdict.MORE),
        ([0.99, 1.01, 1.02, 1.03, 1.04], Verdict.NONE),
        ([0.3, 0.4, 0.5, 0.6, 0.7], Verdict.NONE),
        ([1.0, 1.0, 1.0, 1.0], Verdict.NONE),
    ],
    ids=[
        "within 3 % of 1",
        "narrow and below 1",
        "narrow and above 1",
        "narrow, but on both sides of 1",
        "wide, though below 1",
        "too few rounds",
    ],
)
def test_the_verdict_follows_from_the_interval(ratios: list[float], verdict: Verdict) -> None:
    assert judge(ratios) == verdict
