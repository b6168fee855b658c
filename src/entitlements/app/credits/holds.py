"""Taking holds: limits are checked first; the units count once the hold is durable."""

from __future__ import annotations

from collections import OrderedDict

from msgspec.structs import replace

from entitlements.app.credits.checks import Checked, lapse_wait_s
from entitlements.app.credits.committer import Committer
from entitlements.app.credits.reader import Reader
from entitlements.app.limits.events import LimitEvents
from entitlements.app.limits.limiter import LimitReservation, Limits
from entitlements.app.policy.active import Policies
from entitlements.core import check
from entitlements.core.commands import TakeHold
from entitlements.core.ledger.holds import HoldDenied, ask
from entitlements.core.limits import limit_queries
from entitlements.core.model import HoldFacts, WalletKey, facts_of
from entitlements.core.outcomes import HoldTaken, Refusal
from entitlements.core.reasons import RefusalCode
from entitlements.core.windows import Cause

TAKEN_MAX = 4096


class Holds:
    """Takes holds and finds them again."""

    def __init__(
        self,
        policies: Policies,
        reader: Reader,
        committer: Committer,
        limits: Limits,
        limit_events: LimitEvents,
    ) -> None:
        self._policies = policies
        self._reader = reader
        self._committer = committer
        self._limits = limits
        self._limit_events = limit_events
        self._taken: OrderedDict[str, HoldFacts] = OrderedDict()

    async def take(self, command: TakeHold) -> HoldTaken | Refusal | Checked:
        """Return the hold, once it is durable, or the denial that a check would return.

        Raises AmountTooLarge, and as `Committer.submit`.
        """
        wanted = command.requirements or {}
        policy = self._policies.in_force
        lacking = await self._reader.lacking(policy, wanted, command.user_id, command.org_id)
        if lacking:
            command = replace(command, lacking=lacking)
        windows = limit_queries(policy, wanted, user_id=command.user_id, org_id=command.org_id)
        asked = await self._limits.reserve(windows)
        if asked.exceeded:
            command = replace(command, is_over_limit=True)
        with asked:  # the committer counts the units before it returns
            outcome = await self._committer.submit(command)
        if isinstance(outcome, HoldTaken):
            if not outcome.replayed:
                self._remember(command, outcome)
            return outcome
        assert isinstance(outcome, Refusal), outcome
        limited = frozenset(asked.window.metric for asked in asked.queries)
        if isinstance(outcome, HoldDenied):
            question = ask(policy, command)
            wait_s = await lapse_wait_s(self._reader, policy, question, outcome.decision)
            return Checked(outcome.decision, limited, asked.is_degraded, retry_after_s=wait_s)
        if outcome.code is RefusalCode.RATE_LIMIT_EXCEEDED:
            return Checked(await self._limited(command, asked), limited, asked.is_degraded)
        return outcome

    async def _limited(self, command: TakeHold, asked: LimitReservation) -> check.Decision:
        """Return the decision that a check of the same request would make."""
        exceeded, states = zip(*asked.exceeded, strict=True)
        policy = self._policies.in_force
        question = replace(ask(policy, command), queries=exceeded)
        means = await self._reader.means(question.to_read)
        question = check.less_allowances(question, policy.costs, means.wallets)
        origin = command.origin
        cause = Cause(origin.correlation_id, command.user_id, command.org_id, origin.traceparent)
        for one in exceeded:
            self._limit_events.note(one, cause)
        return check.decide(question, means.wallets, states, {})

    async def find(self, hold_id: str) -> HoldFacts | None:
        """Return the facts about the hold that a command needs, or None. Holds taken by this
        process are remembered, so that ending them mostly needs no read.
        """
        known = self._taken.get(hold_id)
        if known is not None:
            return known
        parts = await self._reader.hold(hold_id)
        return facts_of(parts) if parts else None

    def _remember(self, command: TakeHold, outcome: HoldTaken) -> None:
        if len(self._taken) >= TAKEN_MAX:
            self._taken.popitem(last=False)
        self._taken[outcome.hold_id] = HoldFacts(
            id=outcome.hold_id,
            user_id=command.user_id,
            org_id=command.org_id,
            wallets=tuple(WalletKey(*wallet) for wallet in outcome.wallets),
            correlation_id=command.origin.correlation_id,
        )
