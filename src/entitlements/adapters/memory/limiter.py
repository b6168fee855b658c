"""The in-memory limiter of a single process, and one that limits nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from entitlements.app.limits.limiter import Report
from entitlements.core.windows import LimitQuery, Use, Window, WindowKey, WindowKind, WindowState

SWEPT_WITH_EACH: Final = 2
"""Windows checked for idleness per added one, so that idle windows cannot outnumber busy ones."""


class Unlimited:
    """Implements `app.limits.Limiter` with limits switched off: all passes, nothing is counted."""

    is_available = True

    async def peek(self, queries: Sequence[LimitQuery]) -> list[WindowState]:
        return [WindowState(0, 0) for _ in queries]

    def count(self, uses: Sequence[Use], report: Report | None = None) -> None:
        pass

    async def reset(self, windows: Sequence[WindowKey]) -> None:
        pass


class MemoryLimiter:
    """Implements `app.limits.Limiter`; always available. ``now_ms`` returns ms since 1970."""

    is_available = True

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._windows: dict[WindowKey, Window] = {}
        self._to_sweep: list[WindowKey] = []

    def __len__(self) -> int:
        return len(self._windows)

    async def peek(self, queries: Sequence[LimitQuery]) -> list[WindowState]:
        return self._states(queries)

    def count(self, uses: Sequence[Use], report: Report | None = None) -> None:
        now_ms = self._now_ms()
        warned: list[tuple[Use, Window]] = []
        for use in uses:
            window = self._windows.get(use.window)
            if window is None:
                self._sweep()
                window = self._windows[use.window] = Window(use.window.window_s)
            window.add(now_ms, use.amount)
            if use.warn is not None:
                warned.append((use, window))
        if report is not None:
            for use, window in warned:
                report(use, window.used(now_ms))

    def take_over(self, kinds: Collection[WindowKind], windows: Mapping[WindowKey, Window]) -> None:
        """Replace the windows of these kinds, as in `app.limit_history.Recounting`."""
        for key in [key for key in self._windows if key.kind in kinds]:
            del self._windows[key]
        self._windows.update(windows)

    async def reset(self, windows: Sequence[WindowKey]) -> None:
        for window in windows:
            self._windows.pop(window, None)

    def _states(self, queries: Sequence[LimitQuery]) -> list[WindowState]:
        now_ms = self._now_ms()
        return [self._standing(query, now_ms) for query in queries]

    def _standing(self, query: LimitQuery, now_ms: int) -> WindowState:
        window = self._windows.get(query.window)
        if window is None:
            return WindowState(0, 0 if query.amount <= query.limit else None)
        return window.state(now_ms, query.limit, query.amount)

    def _sweep(self) -> None:
        """Drop some windows that have become empty."""
        now_ms = self._now_ms()
        for _ in range(min(SWEPT_WITH_EACH, len(self._windows))):
            if not self._to_sweep:
                self._to_sweep = list(self._windows)
            key = self._to_sweep.pop()
            window = self._windows.get(key)
            if window is not None and window.is_idle(now_ms):
                del self._windows[key]
