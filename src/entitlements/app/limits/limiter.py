"""Rate limits at run time: queries, counting, and behaviour while the limiter is unavailable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Protocol, Self, assert_never

from msgspec import Struct

from entitlements.app.policy.active import Policies
from entitlements.core.policy import LimiterDown
from entitlements.core.windows import LimitQuery, Use, WindowKey, WindowState, uses_of

Report = Callable[[Use, int], None]
"""Takes a use and the units of its window. Does not block, and does not raise."""

IN_PROGRESS_RETRY_MS: Final = 1000
"""The retry delay if uses in progress would exhaust the limit."""


class LimiterUnavailable(Exception):
    """The limiter did not respond in time. The uses may or may not have been counted."""

    def __init__(self, retry_in_s: int = 1) -> None:
        super().__init__("the limiter cannot be reached")
        self.retry_in_s = retry_in_s


class Limiter(Protocol):
    """Counts units in sliding windows, by its own clock.

    Calls keep their order: `peek` sees what was recorded before it. A call waits for a fixed short
    time at most, then raises LimiterUnavailable.
    """

    @property
    def is_available(self) -> bool:
        """Whether the next call is expected to succeed."""

    async def peek(self, queries: Sequence[LimitQuery]) -> list[WindowState]:
        """Return the state of each window; counts nothing."""

    def count(self, uses: Sequence[Use], report: Report | None = None) -> None:
        """Count the uses, at most once, without waiting. If they are counted, report each that has
        a warn level, now or later, with the units after all of them.
        """

    async def reset(self, windows: Sequence[WindowKey]) -> None:
        """Forget the uses in these windows."""


class SharedLimiter(Limiter, Protocol):
    """A limiter that several processes share and that can be unavailable."""

    @property
    def problem(self) -> str | None:
        """Why it is unavailable, in a text that is safe to publish; None while it is available."""

    @property
    def failures(self) -> int:
        """How often the limiter was lost since the start."""

    @property
    def dropped_uses(self) -> int:
        """Uses that may not have been counted."""


class PeekResult(Struct, frozen=True, gc=False):
    """The windows' states, in the order of the queries.

    ``is_degraded``: they do not come from the shared limiter.
    """

    states: list[WindowState]
    is_degraded: bool = False


_NOTHING = PeekResult([])


class LimitReservation:
    """The limits' verdict on units that are used only once something is committed.

    Within the block the units are in progress, and concurrent requests count them as used. So a
    limit in memory is never exceeded, however many requests run at once; processes that share a
    limiter can together exceed it by the units in progress.
    """

    __slots__ = ("_in_progress", "_uses", "exceeded", "is_degraded", "queries")

    def __init__(
        self, in_progress: Counter[WindowKey], queries: Sequence[LimitQuery], peeked: PeekResult
    ) -> None:
        self.queries = queries
        pairs = zip(queries, peeked.states, strict=True)
        self.exceeded = [
            (query, _as_retryable(query, state)) for query, state in pairs if not state.passes
        ]
        self.is_degraded = peeked.is_degraded
        self._in_progress = in_progress
        self._uses = [] if self.exceeded else uses_of(queries)

    def __enter__(self) -> Self:
        for use in self._uses:
            self._in_progress[use.window] += use.amount
        return self

    def __exit__(self, *_: object) -> None:
        for use in self._uses:
            self._in_progress[use.window] -= use.amount
            if not self._in_progress[use.window]:
                del self._in_progress[use.window]


def _as_retryable(query: LimitQuery, state: WindowState) -> WindowState:
    """Treat the query as retryable if only the units in progress make it exceed the limit."""
    if state.passes_in_ms is None and query.amount <= query.limit:
        return WindowState(state.used, IN_PROGRESS_RETRY_MS)
    return state


_NO_RESERVATION = LimitReservation(Counter(), (), _NOTHING)


class Limits:
    """The limiter in use, and the policy's fallback while it is unavailable.

    If ``shared`` is None, this process counts alone in ``local``. Otherwise ``local`` counts along,
    so that it knows this process's uses when it has to take over. Uses with a warn level go to
    ``report``.
    """

    def __init__(
        self,
        policies: Policies,
        local: Limiter,
        shared: SharedLimiter | None = None,
        report: Report | None = None,
    ) -> None:
        self._policies = policies
        self._report = report
        self._local = local
        self._shared = shared
        self._in_progress: Counter[WindowKey] = Counter()

    @property
    def is_shared(self) -> bool:
        """Whether processes count together."""
        return self._shared is not None

    @property
    def is_degraded(self) -> bool:
        return self._shared is not None and not self._shared.is_available

    @property
    def _decides_alone(self) -> bool:
        """Whether this process's own counts decide."""
        return self._shared is None or (
            self.is_degraded and self._policies.active.limiter_down is LimiterDown.LOCAL
        )

    @property
    def problem(self) -> str | None:
        """Why limits are degraded, or None."""
        return self._shared.problem if self._shared is not None else None

    @property
    def failures(self) -> int:
        """How often the shared limiter was lost."""
        return self._shared.failures if self._shared is not None else 0

    @property
    def dropped_uses(self) -> int:
        """Uses that the shared limiter may not have counted."""
        return self._shared.dropped_uses if self._shared is not None else 0

    async def peek(self, queries: Sequence[LimitQuery]) -> PeekResult:
        if not queries:
            return _NOTHING
        if self._shared is None:
            return PeekResult(await self._local.peek(queries))
        try:
            return PeekResult(await self._shared.peek(queries))
        except LimiterUnavailable as error:
            return await self._without_shared(queries, error)

    async def reserve(self, queries: Sequence[LimitQuery]) -> LimitReservation:
        """As `peek`, but units in progress count as used."""
        if not queries:
            return _NO_RESERVATION
        others = self._in_progress
        waiting = [
            query._replace(amount=query.amount + others[query.window])
            if query.window in others
            else query
            for query in queries
        ]
        return LimitReservation(others, queries, await self.peek(waiting))

    def count(self, uses: Sequence[Use]) -> None:
        """Count finished work, at most once, without waiting."""
        self._local.count(uses, self._report if self._decides_alone else None)
        if self._shared is not None:
            self._shared.count(uses, self._report)

    async def reset(self, windows: Sequence[WindowKey]) -> None:
        """Forget the uses. Raises LimiterUnavailable if only this process has forgotten them."""
        await self._local.reset(windows)
        if self._shared is not None:
            await self._shared.reset(windows)

    async def _without_shared(
        self, queries: Sequence[LimitQuery], error: LimiterUnavailable
    ) -> PeekResult:
        down = self._policies.active.limiter_down
        match down:
            case LimiterDown.LOCAL:
                return PeekResult(await self._local.peek(queries), is_degraded=True)
            case LimiterDown.OPEN:
                return PeekResult([WindowState(0, 0) for _ in queries], is_degraded=True)
            case LimiterDown.CLOSED:
                denied = [WindowState(query.limit, error.retry_in_s * 1000) for query in queries]
                return PeekResult(denied, is_degraded=True)
            case _:
                assert_never(down)
