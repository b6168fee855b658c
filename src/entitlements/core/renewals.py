"""Renewals: when the periods of a grant begin, and what a new period gives.

Periods are counted from the grant's start in a time zone, by the calendar of the IANA time zone
database.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from msgspec import Struct


class Interval(StrEnum):
    """The length of a grant's period."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


class Period(Struct, frozen=True, gc=False, kw_only=True):
    """When a grant is renewed.

    Without ``reset_day`` periods have the wall-clock time of the start, hours being exact; days
    that a month does not have become its last. With it, which months and years can have, they begin
    at midnight of that day of the month. ``rollover_cap`` is what an accumulative grant keeps of
    what was not used; None: all.
    """

    interval: Interval = Interval.MONTH
    reset_day: int | None = None
    timezone: str = "UTC"
    rollover_cap: int | None = None


_STEP: Final = {Interval.DAY: timedelta(days=1), Interval.WEEK: timedelta(weeks=1)}
_MONTHS: Final = {Interval.MONTH: 1, Interval.YEAR: 12}
_HOUR: Final = timedelta(hours=1)
_SHORTEST: Final = {
    Interval.HOUR: _HOUR,
    Interval.DAY: timedelta(hours=22),
    Interval.WEEK: timedelta(days=6),
    Interval.MONTH: timedelta(days=27),
    Interval.YEAR: timedelta(days=364),
}


def renewal(period: Period, start: datetime, number: int) -> datetime | None:
    """Return the start of the period ``number``, which is 1 for the first renewal.

    None: it is beyond the calendar. Renewals are later than ``start`` and than earlier ones.
    """
    try:
        if period.interval is Interval.HOUR:
            return start + number * _HOUR
        local = start.astimezone(_zone(period.timezone)).replace(tzinfo=None)
        if step := _STEP.get(period.interval):
            return instant(local + number * step, period.timezone)
        months = _MONTHS[period.interval]
        if period.reset_day is None:
            return instant(_in_months(local, number * months, local.day), period.timezone)
        midnight = datetime.combine(local, time())
        first = instant(_in_months(midnight, 0, period.reset_day), period.timezone)
        number -= first > start
        day = _in_months(midnight, number * months, period.reset_day)
        return instant(day, period.timezone)
    except (OverflowError, ValueError):
        return None


def renewals_until(period: Period, start: datetime, at: datetime) -> int:
    """Return how many renewals there are until ``at``, that instant included."""
    low, high = 0, max(0, int((at - start) / _SHORTEST[period.interval]) + 2)
    while low < high:
        middle = (low + high + 1) // 2
        found = renewal(period, start, middle)
        if found is not None and found <= at:
            low = middle
        else:
            high = middle - 1
    return low


def refilled(
    period: Period,
    quantity: int,
    left: int,
    periods: int,
    *,
    accumulates: bool,
    held: int,
    most: int,
) -> int:
    """Return what a grant has after ``periods`` renewals in which nothing is spent.

    A renewable grant starts again at its quantity. An accumulative one adds it to what is left, of
    which it keeps up to the cap, and never less than what is held. It never has more than ``most``.
    """
    if not accumulates:
        return quantity
    cap = max(held, most if period.rollover_cap is None else period.rollover_cap)
    kept = min(min(left, cap) + (periods - 1) * quantity, cap)
    return min(most, kept + quantity)


def instant(wall: datetime, timezone: str) -> datetime:
    """Return the first instant at which clocks in the zone show this time or a later one.

    A time that comes twice means the first; a skipped one the first instant after it.
    """
    zone = _zone(timezone)
    found = wall.replace(tzinfo=zone).astimezone(UTC)
    if found.astimezone(zone).replace(tzinfo=None) == wall:
        return found
    return _end_of_gap(wall, zone)


def _end_of_gap(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant at which clocks were set forward past ``wall``."""
    early = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    late = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    low, high = sorted((early, late))
    low -= timedelta(seconds=1)
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low).total_seconds() // 2)
        if middle.astimezone(zone).replace(tzinfo=None) < wall:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)


def _in_months(local: datetime, months: int, day: int) -> datetime:
    """Return the time on ``day`` of a later month; short months have their last day instead."""
    count = local.year * 12 + local.month - 1 + months
    year, month = divmod(count, 12)
    return local.replace(year=year, month=month + 1, day=min(day, monthrange(year, month + 1)[1]))


@lru_cache(maxsize=1)
def zones() -> frozenset[str]:
    """Return the names of all time zones."""
    return frozenset(available_timezones())


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
