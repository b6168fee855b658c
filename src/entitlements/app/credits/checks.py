"""Advisory checks: whether work would be allowed, decided on a fresh read of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import NamedTuple

from msgspec.structs import replace

from entitlements.app.credits.reader import Means, Reader
from entitlements.app.limits.events import LimitEvents
from entitlements.app.limits.limiter import Limits
from entitlements.app.policy.active import Policies
from entitlements.core import check
from entitlements.core.check import Decision, Question
from entitlements.core.explain import Explanation, explain, lapses_cover_at
from entitlements.core.ledger.book import Draft
from entitlements.core.ledger.due import wallet_in
from entitlements.core.ledger.members import standing, standing_in
from entitlements.core.model import Membership
from entitlements.core.policy import Memberships, Policy
from entitlements.core.reasons import DenialReason
from entitlements.core.windows import Cause, WindowState


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
    if not is_held and len(question.required) == 1 and not question.allowances:
        return None

    def wait_s(draft: Draft) -> int | None:
        at = lapses_cover_at(draft, question)
        return max(1, ceil((at - draft.now).total_seconds())) if at is not None else None

    return await reader.opened(question.to_read, wait_s, policy=policy, owing=question.gated)


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
        if policy.requires:
            lacking = await self._reader.lacking(policy, requirements, user_id, org_id)
            question = replace(question, lacking=lacking)
        explanation = None
        if explained:
            peeked = await self._limits.peek(question.queries)
            decision, explanation = await self._explained(policy, question, peeked.states)
        else:
            # Read while the limiter is queried.
            members = _members(policy, user_id, org_id)
            reading = self._reader.means(question.to_read, owing=question.gated, members=members)
            peeked = await self._limits.peek(question.queries)
            means = await reading
            if members:
                question = check.as_member(question, *_standing(policy, means, members))
            question = check.less_allowances(question, policy.costs, means.wallets)
            decision = check.decide(question, means.wallets, peeked.states, means.owing)
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
        def explained(draft: Draft) -> tuple[Decision, Explanation]:
            wallets = {key: wallet_in(draft, key) for key in question.to_read}
            owing = {key: draft.owing(key) for key in question.gated}
            standing = standing_in(draft, question.user_id, question.org_id)
            less = check.as_member(question, *standing)
            less = check.less_allowances(less, policy.costs, wallets)
            decision = check.decide(less, wallets, states, owing)
            return decision, explain(draft, less, states, decision)

        return await self._reader.opened(
            question.to_read,
            explained,
            policy=policy,
            owing=question.gated,
            members=_members(policy, question.user_id, question.org_id),
        )


def _members(policy: Policy, user_id: str, org_id: str | None) -> tuple[Membership, ...]:
    """Return the membership that decides whether the org pays, if the policy enforces it."""
    if org_id is None or policy.memberships is not Memberships.ENFORCE:
        return ()
    return (Membership(org_id, user_id),)


def _standing(
    policy: Policy, means: Means, members: tuple[Membership, ...]
) -> tuple[bool, int | None]:
    (key,) = members
    assert means.now is not None
    return standing(policy, means.members.get(key), key.org_id, means.now)
