"""Sliding windows: the units used in the last ``window_s`` seconds.

A window has 60 slices of equal length. A slice that lies partly outside still counts in full, so
usage is never reported too low, and a unit counts at most 1/60 of the window too long.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final, NamedTuple

from msgspec import Struct

from entitlements.core.model import Subject
from entitlements.core.reasons import SubjectType

SLICES: Final = 60
_KEPT: Final = SLICES + 1
COUNT_MAX: Final = 2**53 - 1
"""The upper bound of a count. Beyond it, the numbers of other languages are not exact."""


class WindowKind(NamedTuple):
    """All windows of one metric and length, for users or for orgs."""

    per: SubjectType
    metric: str
    window_s: int


class WindowKey(NamedTuple):
    """The identity of a window: subject, metric and length in seconds."""

    subject: Subject
    metric: str
    window_s: int

    @property
    def kind(self) -> WindowKind:
        return WindowKind(self.subject.type, self.metric, self.window_s)


class Cause(NamedTuple):
    """The request that caused an event."""

    correlation_id: str
    user_id: str | None
    org_id: str | None
    traceparent: str | None


class WarnLevel(NamedTuple):
    """The fewest units of a window that are near its limit, and the request to name then."""

    limit: int
    units: int
    cause: Cause


class Use(NamedTuple):
    """Units to count in a window; with ``warn`` the window's units afterwards are of interest."""

    window: WindowKey
    amount: int
    warn: WarnLevel | None = None


class LimitQuery(NamedTuple):
    """The question whether ``amount`` more units fit under ``limit``."""

    window: WindowKey
    limit: int
    amount: int


class WindowState(Struct, frozen=True, gc=False):
    """The state of a window for a requested amount.

    ``passes_in_ms``: milliseconds until the amount fits if nothing else is used; 0 if it fits now,
    None if the amount alone exceeds the limit.
    """

    used: int
    passes_in_ms: int | None

    @property
    def passes(self) -> bool:
        return self.passes_in_ms == 0


def uses_of(queries: Iterable[LimitQuery]) -> list[Use]:
    """Return the usage to count for accepted queries: each window once, whatever its limits."""
    return [Use(window, amount) for window, amount in {a.window: a.amount for a in queries}.items()]


def slice_at(now_ms: int, window_s: int) -> int:
    """Return the number of the slice that contains the instant."""
    return now_ms * SLICES // (window_s * 1000)


def first_at_ms(number: int, window_s: int) -> int:
    """Return the first instant of the slice with this number."""
    return -(-number * window_s * 1000 // SLICES)


def leaves_at_ms(number: int, window_s: int) -> int:
    """Return the first instant at which the slice with this number no longer counts."""
    return first_at_ms(number + _KEPT, window_s)


class Window:
    """The counts of one window, in constant memory.

    If the clock steps back by up to the window's length, the window keeps its newest slice. If it
    steps back further, the earlier time was wrong and the counts are dropped.
    """

    __slots__ = ("_counts", "_newest", "_sum", "_window_s")

    def __init__(self, window_s: int) -> None:
        self._window_s = window_s
        self._counts = array("q", bytes(8 * _KEPT))
        self._newest = 0
        self._sum = 0

    def add(self, now_ms: int, amount: int) -> None:
        self._advance(now_ms)
        at = self._newest % _KEPT
        grown = min(self._counts[at] + amount, COUNT_MAX)
        self._sum += grown - self._counts[at]
        self._counts[at] = grown

    def used(self, now_ms: int) -> int:
        self._advance(now_ms)
        return min(self._sum, COUNT_MAX)

    def state(self, now_ms: int, limit: int, amount: int) -> WindowState:
        """Return the window's state. ``used + amount == limit`` passes, and so does amount 0."""
        used = self.used(now_ms)
        if amount == 0 or used + amount <= limit:
            return WindowState(used, 0)
        return WindowState(used, self._passes_in_ms(now_ms, limit, amount))

    def is_idle(self, now_ms: int) -> bool:
        """Return whether no usage counts any more."""
        self._advance(now_ms)
        return not any(self._counts)

    def _passes_in_ms(self, now_ms: int, limit: int, amount: int) -> int | None:
        if amount > limit:
            return None
        excess = self._sum + amount - limit
        for number in range(self._newest - SLICES, self._newest + 1):
            excess -= self._counts[number % _KEPT]
            if excess <= 0:
                return max(1, leaves_at_ms(number, self._window_s) - now_ms)
        raise AssertionError(excess)

    def _advance(self, now_ms: int) -> None:
        """Drop the slices that left the window since the last call."""
        number = slice_at(now_ms, self._window_s)
        if self._newest - number > SLICES:
            self._newest = number - _KEPT
        if number <= self._newest:
            return
        for gone in range(max(self._newest + 1, number - SLICES), number + 1):
            at = gone % _KEPT
            self._sum -= self._counts[at]
            self._counts[at] = 0
        self._newest = number
