"""Exponential backoff, and its state for a sink and single keys, with jitter."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from msgspec import Struct

FIRST_S: Final = 0.1
MOST_S: Final = 30.0
KEYS_MAX: Final = 1_000


def backoff_s(tries: int, *, first_s: float, most_s: float, factor: float = 2.0) -> float:
    """Return the delay after ``tries`` failures in a row: ``first_s`` after the first, then
    ``factor`` times as long each time, up to ``most_s``.
    """
    return min(most_s, first_s * factor ** min(tries - 1, 64))


class _Pause(Struct):
    tries: int
    until: float


class Backoff:
    """The backoff of a sink as a whole and of single keys. ``jitter`` returns values in [0, 1]."""

    def __init__(
        self, clock: Callable[[], float], jitter: Callable[[], float], *, most_s: float = MOST_S
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._most_s = most_s
        self._whole = _Pause(0, 0.0)
        self._keys: dict[str, _Pause] = {}

    def note(self, taken: Collection[str], failed: Collection[str]) -> None:
        """Record which keys succeeded and which failed. If several failed and none succeeded, or
        very many failed, back off as a whole, not by key.
        """
        if taken:
            self.clear()
        for key in set(taken).difference(failed):
            self._keys.pop(key, None)
        if (len(failed) > 1 and not taken) or len(self._keys) + len(failed) > KEYS_MAX:
            self._keys.clear()
            self.fail()
            return
        for key in failed:
            self._keys[key] = self._next(self._keys.get(key))

    def fail(self) -> None:
        """Back off as a whole, for longer with each call."""
        self._whole = self._next(self._whole)

    def clear(self) -> None:
        """End the backoff of the whole."""
        self._whole = _Pause(0, 0.0)

    @property
    def is_failing(self) -> bool:
        return self._whole.tries > 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing failed that has not passed since."""
        return not self._keys and not self.is_failing

    def tries(self, key: str) -> int:
        """Return how often in a row the key, or everything, has failed."""
        pause = self._keys.get(key)
        return (pause.tries if pause is not None else 0) + self._whole.tries

    def waiting_keys(self) -> list[str]:
        """Return the keys that are still backing off."""
        now = self._clock()
        return [key for key, pause in self._keys.items() if pause.until > now]

    def pause_s(self) -> float:
        """Return the seconds until anything may be tried again."""
        return max(0.0, self._whole.until - self._clock())

    def soonest_s(self, at_most: float) -> float:
        """Return the seconds until the first waiting key may be tried, at most ``at_most``."""
        now = self._clock()
        coming = (pause.until - now for pause in self._keys.values() if pause.until > now)
        return min(at_most, *coming, at_most)

    def _next(self, before: _Pause | None) -> _Pause:
        tries = 1 if before is None else before.tries + 1
        most = backoff_s(tries, first_s=FIRST_S, most_s=self._most_s)
        return _Pause(tries, self._clock() + most * (1 + self._jitter()) / 2)
