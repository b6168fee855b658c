"""When periods begin: worked examples, and an independent model over time zones and years."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlements.core.policy import AMOUNT_MAX
from entitlements.core.renewals import (
    Interval,
    Period,
    instant,
    refilled,
    renewal,
    renewals_until,
)

ZONES = sorted(available_timezones())
CHANGING = (
    "Europe/Stockholm",  # an hour, at 01:00 UTC
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour
    "Africa/Casablanca",  # back for Ramadan
    "America/St_Johns",  # at one minute past midnight until 2011
    "America/Havana",  # at midnight
    "Pacific/Apia",  # a whole day in 2011
    "Asia/Tehran",
    "Antarctica/Troll",  # two hours
)
ALL_LONG = st.sampled_from(ZONES) | st.sampled_from(CHANGING)
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2040, 12, 31))  # noqa: DTZ001 - wall times


def first_instant(wall: datetime, zone: str) -> datetime:
    """Return the first instant at which a clock shows ``wall`` or later, by looking at the clock.

    Quarters of an hour, then seconds, from before any zone can be there.
    """
    clock, now = ZoneInfo(zone), wall.replace(tzinfo=UTC) - timedelta(hours=27)
    for step in (timedelta(minutes=15), timedelta(seconds=1)):
        while (now + step).astimezone(clock).replace(tzinfo=None) < wall:
            now += step
    while now.astimezone(clock).replace(tzinfo=None) < wall:
        now += timedelta(seconds=1)
    return now


@given(ALL_LONG, TIMES)
def test_a_wall_time_is_the_first_instant_that_shows_it_or_a_later_one(
    zone: str, wall: datetime
) -> None:
    wall = wall.replace(microsecond=0)

    assert instant(wall, zone) == first_instant(wall, zone)


@given(st.sampled_from(CHANGING), st.integers(2000, 2040), st.integers(-90, 90))
def test_a_wall_time_near_a_change_of_the_clock_is_the_first_instant_too(
    zone: str, year: int, minutes: int
) -> None:
    clock = ZoneInfo(zone)
    start = datetime(year, 1, 1, tzinfo=UTC)
    hours = (start + timedelta(hours=hour) for hour in range(24 * 365))
    offset = start.astimezone(clock).utcoffset()
    changed = next((at for at in hours if at.astimezone(clock).utcoffset() != offset), start)
    wall = changed.astimezone(clock).replace(tzinfo=None) + timedelta(minutes=minutes)

    assert instant(wall, zone) == first_instant(wall, zone)


def days_of(period: Period, start: datetime, number: int) -> list[datetime]:
    """Return the wall times of the first renewals, day by day through the calendar."""
    local = start.astimezone(ZoneInfo(period.timezone)).replace(tzinfo=None)
    day = local if period.reset_day is None else datetime.combine(local, time())
    wanted = local.day if period.reset_day is None else period.reset_day
    found: list[datetime] = []
    while len(found) < number:
        day += timedelta(days=1)
        last = (day + timedelta(days=1)).month != day.month
        is_day = day.day == wanted or (last and day.day < wanted)
        if is_day and (period.interval is Interval.MONTH or day.month == local.month):
            found.append(day)
    return found


@given(
    st.sampled_from(CHANGING),
    TIMES,
    st.sampled_from((Interval.MONTH, Interval.YEAR)),
    st.none() | st.integers(1, 31),
)
def test_months_and_years_are_those_of_the_calendar(
    zone: str, local: datetime, interval: Interval, reset_day: int | None
) -> None:
    start = local.replace(microsecond=0, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    period = Period(interval=interval, reset_day=reset_day, timezone=zone)

    found = [renewal(period, start, number) for number in range(1, 5)]

    assert found == [instant(day, zone) for day in days_of(period, start, 4)]


@given(
    st.sampled_from(CHANGING),
    TIMES,
    st.sampled_from(list(Interval)),
    st.none() | st.integers(1, 31),
    st.integers(0, 400),
)
def test_each_renewal_is_counted_once(
    zone: str, local: datetime, interval: Interval, reset_day: int | None, number: int
) -> None:
    start = local.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    if interval not in (Interval.MONTH, Interval.YEAR):
        reset_day = None
    period = Period(interval=interval, reset_day=reset_day, timezone=zone)
    at = renewal(period, start, number) if number else start
    assert at is not None
    tick = timedelta(microseconds=1)

    assert renewals_until(period, start, at) == number
    assert renewals_until(period, start, at + tick) == number
    if number:
        assert at > start
        assert renewals_until(period, start, at - tick) == number - 1


@pytest.mark.parametrize(
    ("start", "period", "renewals"),
    [
        (
            "2027-01-31T10:00Z",
            Period(),
            ["2027-02-28T10:00Z", "2027-03-31T10:00Z", "2027-04-30T10:00Z"],
        ),
        ("2028-01-31T10:00Z", Period(), ["2028-02-29T10:00Z", "2028-03-31T10:00Z"]),
        ("2027-01-15T10:00Z", Period(reset_day=1), ["2027-02-01T00:00Z", "2027-03-01T00:00Z"]),
        ("2027-01-15T10:00Z", Period(reset_day=31), ["2027-01-31T00:00Z", "2027-02-28T00:00Z"]),
        ("2027-02-01T00:00Z", Period(reset_day=1), ["2027-03-01T00:00Z"]),
        (
            "2028-02-29T10:00Z",
            Period(interval=Interval.YEAR),
            ["2029-02-28T10:00Z", "2030-02-28T10:00Z", "2031-02-28T10:00Z", "2032-02-29T10:00Z"],
        ),
        (
            "2027-03-15T10:00Z",
            Period(interval=Interval.YEAR, reset_day=20),
            ["2027-03-20T00:00Z", "2028-03-20T00:00Z"],
        ),
        (
            "2027-03-27T01:30Z",
            Period(interval=Interval.DAY, timezone="Europe/Stockholm"),
            ["2027-03-28T01:00Z", "2027-03-29T00:30Z"],
        ),
        (
            "2027-10-30T00:30Z",
            Period(interval=Interval.DAY, timezone="Europe/Stockholm"),
            ["2027-10-31T00:30Z", "2027-11-01T01:30Z"],
        ),
        (
            "2027-03-28T00:30Z",
            Period(interval=Interval.HOUR, timezone="Europe/Stockholm"),
            ["2027-03-28T01:30Z", "2027-03-28T02:30Z"],
        ),
        (
            "2027-03-01T12:00Z",
            Period(interval=Interval.WEEK, timezone="America/New_York"),
            ["2027-03-08T12:00Z", "2027-03-15T11:00Z"],
        ),
        (
            "2011-12-28T20:00Z",
            Period(interval=Interval.DAY, timezone="Pacific/Apia"),
            ["2011-12-29T20:00Z", "2011-12-30T10:00Z", "2011-12-30T20:00Z"],
        ),
    ],
)
def test_examples(start: str, period: Period, renewals: list[str]) -> None:
    began = datetime.fromisoformat(start)

    found = [renewal(period, began, number) for number in range(1, len(renewals) + 1)]

    assert found == [datetime.fromisoformat(one) for one in renewals]


def test_beyond_the_calendar_there_is_no_renewal() -> None:
    start = datetime(9998, 6, 1, tzinfo=UTC)

    assert renewal(Period(interval=Interval.YEAR), start, 1) == datetime(9999, 6, 1, tzinfo=UTC)
    assert renewal(Period(interval=Interval.YEAR), start, 2) is None
    assert (
        renewals_until(Period(interval=Interval.YEAR), start, datetime.max.replace(tzinfo=UTC)) == 1
    )


@given(st.data())
def test_several_periods_at_once_are_as_many_one_after_the_other(data: st.DataObject) -> None:
    quantity, periods = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 9))
    cap = data.draw(st.none() | st.integers(0, 60))
    left = data.draw(st.integers(0, 110))
    held = data.draw(st.integers(0, left))
    accumulates = data.draw(st.booleans())
    one_by_one = left
    for _ in range(periods):
        kept = max(held, one_by_one if cap is None else min(one_by_one, cap))
        one_by_one = quantity + kept if accumulates else quantity

    at_once = refilled(
        Period(rollover_cap=cap),
        quantity,
        left,
        periods,
        accumulates=accumulates,
        held=held,
        most=AMOUNT_MAX,
    )

    assert at_once == one_by_one
