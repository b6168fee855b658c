"""A limiter in memory learns from the ledger what was used before it started."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from entitlements.app.log import EventLog
from entitlements.app.policies import Policies
from entitlements.app.ports import Records
from entitlements.core.limits import uses
from entitlements.core.policy import Policy
from entitlements.core.windows import SLICES, Use, WindowKind, first_at_ms, slice_at

log = EventLog(__name__)


class Recounting(Protocol):
    """A limiter that takes over what the ledger says."""

    def recount(
        self, kinds: Collection[WindowKind], past: Iterable[tuple[Use, int]], now_ms: int
    ) -> None:
        """Forget all windows of these kinds, then count each use at its time, oldest first."""


class LimitHistory:
    """Recounts the windows that the policy in force has and the one before it had not."""

    def __init__(
        self, records: Records, policies: Policies, limiter: Recounting, now_ms: Callable[[], int]
    ) -> None:
        self._records = records
        self._policies = policies
        self._limiter = limiter
        self._now_ms = now_ms
        self._counted: set[WindowKind] = set()

    async def follow(self) -> None:
        """At the start, and again when the policy may have changed.

        Raises Unavailable; then it may be called again.
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

    async def _recount(self, policy: Policy, window_s: int, new: set[WindowKind]) -> None:
        now_ms = self._now_ms()
        past = await self._records.past_uses(
            sorted({kind.metric for kind in new}),
            window_s=window_s,
            first_slice=slice_at(now_ms, window_s) - SLICES,
        )
        found = (
            (use, first_at_ms(used.slice, window_s))
            for used in past
            for use in uses(
                policy, used.metric, used.units, user_id=used.user_id, org_id=used.org_id
            )
            if use.window.kind in new
            and (used.of_user if use.window.subject.type == "user" else used.of_org)
        )
        self._limiter.recount(new, found, now_ms)
        log.info("limits.recounted", window_s=window_s, slices=len(past))


def _kinds(policy: Policy) -> set[WindowKind]:
    return {
        WindowKind(limit.per, metric, limit.window_s)
        for metric, limits in policy.limits.items()
        for limit in limits
        if limit.count is not None
    }
