"""Rate limits in use: what is asked, what is counted, and what holds while the limiter is away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol, Self, assert_never

from msgspec import Struct

from entitlements.app.policies import Policies
from entitlements.core.policy import LimiterDown
from entitlements.core.windows import Ask, Standing, Use, WindowKey, uses_of

MEANWHILE_MS: Final = 1000
"""When to come again if what is under way would use the limit up."""


class LimiterUnavailable(Exception):
    """The limiter did not answer in its time. What was to be counted may have been."""

    def __init__(self, retry_in_s: int = 1) -> None:
        super().__init__("the limiter cannot be reached")
        self.retry_in_s = retry_in_s


class Limiter(Protocol):
    """Counts units in sliding windows, by its own clock.

    Calls keep their order: what was recorded before a look is seen by it. Nothing waits for
    longer than a fixed short time; then it raises LimiterUnavailable.
    """

    @property
    def is_available(self) -> bool:
        """Whether the next call is expected to be answered."""

    async def look(self, asks: Sequence[Ask]) -> list[Standing]:
        """Where each window stands; counts nothing."""

    def record(self, uses: Sequence[Use]) -> None:
        """Count what was used, at most once, without waiting."""

    async def reset(self, windows: Sequence[WindowKey]) -> None:
        """Forget what was used in them."""


class SharedLimiter(Limiter, Protocol):
    """One that may be away, and tells how it has fared since the start."""

    @property
    def problem(self) -> str | None:
        """What is wrong with it while it is not available, for anybody to read."""

    @property
    def failures(self) -> int:
        """How often it was lost."""

    @property
    def dropped_records(self) -> int:
        """Uses that are not known to have been counted."""


class Looked(Struct, frozen=True, gc=False):
    """Standings in the order of what was asked. ``is_degraded``: not by the shared limiter."""

    standings: list[Standing]
    is_degraded: bool = False


_NOTHING = Looked([])


class Asked:
    """What limits say of units that are used only once something was committed. Within the block
    they are under way: whoever asks meanwhile finds them used. So a limit in memory is never
    passed, whatever comes at once; processes that share one may together pass it by what was
    under way.
    """

    __slots__ = ("_under_way", "_uses", "asks", "exceeded", "is_degraded")

    def __init__(self, under_way: Counter[WindowKey], asks: Sequence[Ask], looked: Looked) -> None:
        self.asks = asks
        stands = zip(asks, looked.standings, strict=True)
        self.exceeded = [
            (ask, _as_asked(ask, standing)) for ask, standing in stands if not standing.passes
        ]
        self.is_degraded = looked.is_degraded
        self._under_way = under_way
        self._uses = [] if self.exceeded else uses_of(asks)

    def __enter__(self) -> Self:
        for window, units in self._uses:
            self._under_way[window] += units
        return self

    def __exit__(self, *_: object) -> None:
        for window, units in self._uses:
            self._under_way[window] -= units
            if not self._under_way[window]:
                del self._under_way[window]


def _as_asked(ask: Ask, standing: Standing) -> Standing:
    """Not as if the units under way had been asked for too: they alone never make it hopeless."""
    if standing.passes_in_ms is None and ask.amount <= ask.limit:
        return Standing(standing.used, MEANWHILE_MS)
    return standing


_NOTHING_ASKED = Asked(Counter(), (), _NOTHING)


class Limits:
    """The limiter in use, and what the policy says for when it cannot be reached.

    ``shared`` none: this process counts alone, and ``local`` is the limiter. Otherwise ``local``
    follows along, so that it knows this process's part when it has to step in.
    """

    def __init__(
        self, policies: Policies, local: Limiter, shared: SharedLimiter | None = None
    ) -> None:
        self._policies = policies
        self._local = local
        self._shared = shared
        self._under_way: Counter[WindowKey] = Counter()

    @property
    def is_shared(self) -> bool:
        """Whether processes count together."""
        return self._shared is not None

    @property
    def is_degraded(self) -> bool:
        return self._shared is not None and not self._shared.is_available

    @property
    def problem(self) -> str | None:
        """Why limits are degraded."""
        return self._shared.problem if self._shared is not None else None

    @property
    def failures(self) -> int:
        """How often the shared limiter was lost."""
        return self._shared.failures if self._shared is not None else 0

    @property
    def dropped_uses(self) -> int:
        """Uses that the shared limiter is not known to have counted."""
        return self._shared.dropped_records if self._shared is not None else 0

    async def look(self, asks: Sequence[Ask]) -> Looked:
        if not asks:
            return _NOTHING
        if self._shared is None:
            return Looked(await self._local.look(asks))
        try:
            return Looked(await self._shared.look(asks))
        except LimiterUnavailable as error:
            return await self._without_shared(asks, error)

    async def ask(self, asks: Sequence[Ask]) -> Asked:
        """As `look`, but what is under way counts as if it were used already."""
        if not asks:
            return _NOTHING_ASKED
        others = self._under_way
        waiting = [
            ask._replace(amount=ask.amount + others[ask.window]) if ask.window in others else ask
            for ask in asks
        ]
        return Asked(others, asks, await self.look(waiting))

    def record(self, uses: Sequence[Use]) -> None:
        """Count finished work, at most once, without waiting."""
        self._local.record(uses)
        if self._shared is not None:
            self._shared.record(uses)

    async def reset(self, windows: Sequence[WindowKey]) -> None:
        """Raises LimiterUnavailable: then only this process has forgotten."""
        await self._local.reset(windows)
        if self._shared is not None:
            await self._shared.reset(windows)

    async def _without_shared(self, asks: Sequence[Ask], error: LimiterUnavailable) -> Looked:
        down = self._policies.active.limiter_down
        match down:
            case LimiterDown.LOCAL:
                return Looked(await self._local.look(asks), is_degraded=True)
            case LimiterDown.OPEN:
                return Looked([Standing(0, 0) for _ in asks], is_degraded=True)
            case LimiterDown.CLOSED:
                denied = [Standing(ask.limit, error.retry_in_s * 1000) for ask in asks]
                return Looked(denied, is_degraded=True)
            case _:
                assert_never(down)
