"""Sliding windows: how many units were used in the last so many seconds.

A window is counted in 60 slices of equal length. The slice that lies half outside counts whole,
so what is used is never said too low, and at most 1/60 of the window too long.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final, NamedTuple

from msgspec import Struct

from entitlements.core.model import Subject, SubjectType

SLICES: Final = 60
_KEPT: Final = SLICES + 1
COUNT_MAX: Final = 2**53 - 1
"""Counts stop growing here: beyond, another language's numbers would not be exact."""


class WindowKind(NamedTuple):
    """All windows of one metric and length, of users or of organisations."""

    per: SubjectType
    metric: str
    window_s: int


class WindowKey(NamedTuple):
    """Names a window: whose units of what, over how many seconds."""

    subject: Subject
    metric: str
    window_s: int

    @property
    def kind(self) -> WindowKind:
        return WindowKind(self.subject.type, self.metric, self.window_s)


class Use(NamedTuple):
    """Units that were used and count."""

    window: WindowKey
    amount: int


class Ask(NamedTuple):
    """May ``amount`` more units be used under ``limit``?"""

    window: WindowKey
    limit: int
    amount: int


class Standing(Struct, frozen=True, gc=False):
    """Where a window stands. ``passes_in_ms``: when the amount asked for would pass if nothing
    else is used, 0 now; none if the amount alone is above the limit.
    """

    used: int
    passes_in_ms: int | None

    @property
    def passes(self) -> bool:
        return self.passes_in_ms == 0


def uses_of(asks: Iterable[Ask]) -> list[Use]:
    """What counts once the asks have passed: each window once, however many limits it has."""
    return [Use(window, amount) for window, amount in {a.window: a.amount for a in asks}.items()]


def slice_at(now_ms: int, window_s: int) -> int:
    """The number of the slice that the instant lies in."""
    return now_ms * SLICES // (window_s * 1000)


def first_at_ms(number: int, window_s: int) -> int:
    """The first instant of the slice of that number."""
    return -(-number * window_s * 1000 // SLICES)


def leaves_at_ms(number: int, window_s: int) -> int:
    """The first instant at which a slice of that number counts no more."""
    return first_at_ms(number + _KEPT, window_s)


class Window:
    """One window's counts, in constant memory.

    A clock that steps back stands still here, by at most the window's length: counts from further
    ahead are of a clock that was wrong, and are dropped.
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

    def standing(self, now_ms: int, limit: int, amount: int) -> Standing:
        """Equality passes, and so does nothing."""
        used = self.used(now_ms)
        if amount == 0 or used + amount <= limit:
            return Standing(used, 0)
        return Standing(used, self._passes_in_ms(now_ms, limit, amount))

    def is_idle(self, now_ms: int) -> bool:
        """Whether nothing that was used counts any more."""
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
        """Forget the slices that left the window since the last look."""
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
