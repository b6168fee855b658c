"""Backfills an in-memory limiter from the ledger with the usage before its start."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from time import monotonic
from typing import Final, Protocol

from entitlements.app.policy.active import Policies
from entitlements.app.ports import LimitStore, PastUse
from entitlements.app.process.clock import at_ms
from entitlements.app.process.log import EventLog
from entitlements.core.limits import uses
from entitlements.core.model import NEVER
from entitlements.core.policy import Policy
from entitlements.core.reasons import SubjectType
from entitlements.core.windows import (
    SLICES,
    Window,
    WindowKey,
    WindowKind,
    first_at_ms,
    slice_at,
)

log = EventLog(__name__)

PARTS_FIRST: Final = 256
"""The initial number of parts that a window's time is divided into."""
PARTS_MAX: Final = 4_096
PART_S: Final = 0.1
"""If reading and counting a part takes longer, the next part is smaller."""


class Recounting(Protocol):
    """A limiter whose windows can be replaced by those counted from the ledger."""

    def take_over(self, kinds: Collection[WindowKind], windows: Mapping[WindowKey, Window]) -> None:
        """Replace all windows of these kinds by ``windows``."""


class LimitBackfill:
    """Recounts the windows that the active policy adds to those counted so far."""

    def __init__(
        self,
        store: LimitStore,
        policies: Policies,
        limiter: Recounting,
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._policies = policies
        self._limiter = limiter
        self._now_ms = now_ms
        self._counted: set[WindowKind] = set()

    async def follow(self) -> None:
        """Recount new windows: at the start, and whenever the policy may have changed.

        Raises StoreUnavailable; it can be called again.
        """
        policy = self._policies.active
        kinds = _kinds(policy)
        by_length: defaultdict[int, set[WindowKind]] = defaultdict(set)
        for kind in kinds - self._counted:
            by_length[kind.window_s].add(kind)
        self._counted &= kinds
        for window_s, new in by_length.items():
            await self._recount(policy, window_s, new)
            self._counted |= new

    @property
    def is_complete(self) -> bool:
        """Whether every window of the active policy has been recounted."""
        return _kinds(self._policies.active) <= self._counted

    async def _recount(self, policy: Policy, window_s: int, new: set[WindowKind]) -> None:
        """Read the time span of the windows in parts that are short enough not to delay others.
        The limiter takes over the counts after the last part, which ends now.
        """
        metrics = sorted({kind.metric for kind in new})
        recount = _Recount(policy, new)
        now_ms = self._now_ms()
        since_ms = first_at_ms(slice_at(now_ms, window_s) - SLICES, window_s)
        span_ms = max(1, window_s * 1_000 // PARTS_FIRST)
        shortest_ms = max(1, window_s * 1_000 // PARTS_MAX)
        is_last = False
        while not is_last:
            started = monotonic()
            until_ms = since_ms + span_ms
            is_last = until_ms > now_ms
            past = await self._store.past_uses(
                metrics,
                window_s=window_s,
                since=at_ms(since_ms),
                # Uses with a time ahead of this clock count as used now.
                until=NEVER if is_last else at_ms(until_ms),
            )
            now_ms = self._now_ms()
            recount.count(past, window_s, now_ms)
            is_slow = monotonic() - started > PART_S
            span_ms = max(shortest_ms, span_ms // 2) if is_slow else span_ms * 2
            since_ms = until_ms
        self._limiter.take_over(new, recount.windows)
        log.info("limits.recounted", window_s=window_s, windows=len(recount.windows))


class _Recount:
    """Windows of these kinds, counted from the ledger."""

    def __init__(self, policy: Policy, kinds: Collection[WindowKind]) -> None:
        self._policy = policy
        self._kinds = kinds
        self._counting: dict[tuple[str, str, str | None], list[tuple[SubjectType, Window]]] = {}
        """The windows in which uses of a metric, user and org count; looked up once per key."""
        self.windows: dict[WindowKey, Window] = {}

    def count(self, past: Iterable[PastUse], window_s: int, now_ms: int) -> None:
        """Count each use at its time, or now if its time is in the future."""
        for used in past:
            key = (used.metric, used.user_id, used.org_id)
            counting = self._counting.get(key)
            if counting is None:
                counting = self._counting[key] = self._windows_of(used)
            used_at_ms = min(first_at_ms(used.slice, window_s), now_ms)
            for per, window in counting:
                if used.of_user if per == "user" else used.of_org:
                    window.add(used_at_ms, used.units)

    def _windows_of(self, used: PastUse) -> list[tuple[SubjectType, Window]]:
        of_policy = uses(
            self._policy, used.metric, used.units, user_id=used.user_id, org_id=used.org_id
        )
        keys = [use.window for use in of_policy if use.window.kind in self._kinds]
        return [
            (key.subject.type, self.windows.setdefault(key, Window(key.window_s))) for key in keys
        ]


def _kinds(policy: Policy) -> set[WindowKind]:
    return {
        WindowKind(limit.per, metric, limit.window_s)
        for metric, limits in policy.limits.items()
        for limit in limits
        if limit.count is not None
    }
