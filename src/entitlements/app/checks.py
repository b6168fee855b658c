"""May work run? The decision's inputs read afresh: prices, limits and wallets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from entitlements.app.limit_events import LimitEvents
from entitlements.app.limits import Limits
from entitlements.app.policies import Policies
from entitlements.app.reader import Reader
from entitlements.core import check
from entitlements.core.check import Decision


class Checked(NamedTuple):
    """``limited`` metrics had limits to keep; ``is_degraded``: decided without the limiter that
    all processes share.
    """

    decision: Decision
    limited: frozenset[str]
    is_degraded: bool


class Checks:
    """Answers what would be allowed now; reserves and records nothing."""

    def __init__(
        self, policies: Policies, reader: Reader, limits: Limits, limit_events: LimitEvents
    ) -> None:
        self._policies = policies
        self._reader = reader
        self._limits = limits
        self._limit_events = limit_events

    async def check(
        self,
        requirements: Mapping[str, int],
        *,
        user_id: str,
        org_id: str | None,
        correlation_id: str,
    ) -> Checked:
        """Decide on units by metric. Raises AmountTooLarge, Unavailable."""
        question = check.ask(self._policies.in_force, requirements, user_id=user_id, org_id=org_id)
        wallets = self._reader.wallets(question.wallets)  # read while the limiter is asked
        looked = await self._limits.look(question.asks)
        decision = check.decide(question, await wallets, looked.standings)
        for ask, _ in decision.exceeded:
            self._limit_events.note(ask, correlation_id)
        limited = frozenset(ask.window.metric for ask in question.asks)
        return Checked(decision, limited, looked.is_degraded)
