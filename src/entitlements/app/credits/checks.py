"""Advisory checks: whether work would be allowed, decided on a fresh read of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import NamedTuple

from entitlements.app.credits.reader import Reader
from entitlements.app.limits.events import LimitEvents
from entitlements.app.limits.limiter import Limits
from entitlements.app.outbox.announce import Cause
from entitlements.app.policy.active import Policies
from entitlements.core import check
from entitlements.core.check import Decision, Question
from entitlements.core.explain import Explanation, explain, lapses_cover_at, wallet_in
from entitlements.core.ledger.book import NeedMore
from entitlements.core.model import WalletKey
from entitlements.core.policy import Policy
from entitlements.core.reasons import DenialReason
from entitlements.core.windows import WindowState


class Checked(NamedTuple):
    """The result of a check. ``limited`` lists the metrics with limits. ``is_degraded`` is true if
    it was decided without the shared limiter. ``retry_after_s`` is that of `lapse_wait_s`.
    """

    decision: Decision
    limited: frozenset[str]
    is_degraded: bool
    explanation: Explanation | None = None
    retry_after_s: int | None = None


async def lapse_wait_s(
    reader: Reader, policy: Policy, question: Question, decision: Decision
) -> int | None:
    """Return after how many seconds a request that was denied for lack of credits passes, if
    lapsing holds alone free enough. Raises StoreUnavailable.
    """
    found = decision.candidates
    if decision.reason is not DenialReason.INSUFFICIENT_CREDITS or found is None:
        return None
    is_held = found.user.held > 0 or (found.org is not None and found.org.held > 0)
    if not is_held and len(question.required) == 1:
        return None
    owing = await reader.owing(question.gated)
    depth: dict[WalletKey, int] = {}
    while True:
        draft = await reader.opened(question.wallets, policy=policy, depth=depth)
        try:
            at = lapses_cover_at(draft, question, owing)
        except NeedMore as more:
            depth |= more.depth
        else:
            return max(1, ceil((at - draft.now).total_seconds())) if at is not None else None


class Checks:
    """Checks what would be allowed now; reserves and records nothing."""

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
        traceparent: str | None = None,
        explained: bool = False,
    ) -> Checked:
        """Decide on units by metric; with ``explained``, also explain the decision. Raises
        AmountTooLarge, PolicyUnusable, StoreUnavailable.
        """
        policy = self._policies.in_force
        question = check.ask(policy, requirements, user_id=user_id, org_id=org_id)
        limited = frozenset(ask.window.metric for ask in question.queries)
        explanation = None
        if explained:
            peeked = await self._limits.peek(question.queries)
            decision, explanation = await self._explained(policy, question, peeked.states)
        else:
            wallets = self._reader.wallets(question.wallets)  # read while the limiter is queried
            peeked = await self._limits.peek(question.queries)
            owing = await self._reader.owing(question.gated)
            decision = check.decide(question, await wallets, peeked.states, owing)
        for ask, _ in decision.exceeded:
            cause = Cause(correlation_id, user_id, org_id, traceparent)
            self._limit_events.note(ask, cause)
        wait_s = None
        if not decision.allowed:
            wait_s = await lapse_wait_s(self._reader, policy, question, decision)
        return Checked(decision, limited, peeked.is_degraded, explanation, wait_s)

    async def _explained(
        self, policy: Policy, question: Question, states: Sequence[WindowState]
    ) -> tuple[Decision, Explanation]:
        depth: dict[WalletKey, int] = {}
        while True:
            draft = await self._reader.opened(question.wallets, policy=policy, depth=depth)
            wallets = {key: wallet_in(draft, key) for key in question.wallets}
            owing = await self._reader.owing(question.gated)
            decision = check.decide(question, wallets, states, owing)
            try:
                return decision, explain(draft, question, states, decision, owing)
            except NeedMore as more:
                depth |= more.depth
