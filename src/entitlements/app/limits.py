"""Rate limits in use: what is asked, what is counted, and what holds while the limiter is away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, assert_never

from msgspec import Struct

from entitlements.app.policies import Policies
from entitlements.core.policy import LimiterDown
from entitlements.core.windows import Ask, Standing, Use, WindowKey, uses_of


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

    async def take(self, asks: Sequence[Ask]) -> list[Standing]:
        """As `look`; and if all pass, all are counted in the same instant."""

    def record(self, uses: Sequence[Use]) -> None:
        """Count what was used, at most once, without waiting."""

    async def reset(self, windows: Sequence[WindowKey]) -> None:
        """Forget what was used in them."""


class SharedLimiter(Limiter, Protocol):
    """One that may be away, and tells how it has fared since the start."""

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

    @property
    def is_degraded(self) -> bool:
        return self._shared is not None and not self._shared.is_available

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
            return await self._without_shared(asks, error, take=False)

    async def take(self, asks: Sequence[Ask]) -> Looked:
        if self._shared is None:
            return Looked(await self._local.take(asks))
        try:
            taken = await self._shared.take(asks)
        except LimiterUnavailable as error:
            return await self._without_shared(asks, error, take=True)
        if all(standing.passes for standing in taken):
            self._local.record(uses_of(asks))
        return Looked(taken)

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

    async def _without_shared(
        self, asks: Sequence[Ask], error: LimiterUnavailable, *, take: bool
    ) -> Looked:
        down = self._policies.active.limiter_down
        match down:
            case LimiterDown.LOCAL:
                alone = await (self._local.take(asks) if take else self._local.look(asks))
                return Looked(alone, is_degraded=True)
            case LimiterDown.OPEN:
                return Looked([Standing(0, 0) for _ in asks], is_degraded=True)
            case LimiterDown.CLOSED:
                denied = [Standing(ask.limit, error.retry_in_s * 1000) for ask in asks]
                return Looked(denied, is_degraded=True)
            case _:
                assert_never(down)
