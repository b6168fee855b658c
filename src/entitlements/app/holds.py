"""Taking holds: the limits are asked first, and count the units once they are held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec.structs import replace

from entitlements.app.checks import Checked
from entitlements.app.committer import Committer
from entitlements.app.limit_events import LimitEvents
from entitlements.app.limits import Limits
from entitlements.app.policies import Policies
from entitlements.app.reader import Reader
from entitlements.core import check
from entitlements.core.commands import TakeHold
from entitlements.core.ledger.hold import HoldDenied, ask
from entitlements.core.model import Hold, WalletKey
from entitlements.core.outcomes import HoldTaken, RefusalCode, Refused
from entitlements.core.windows import Ask, Standing, WindowKey, uses_of

TAKEN_MAX = 4096
MEANWHILE_MS = 1000
"""When to come again if what is under way would use the limit up."""


class Holds:
    """Sets credits aside. Units under way count as if they were used, so that with the limiter in
    memory no limit is passed, whatever comes at once. Processes that share one may together
    pass it by what was under way.
    """

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
        self._under_way: Counter[WindowKey] = Counter()
        self._taken: dict[str, tuple[Hold, ...]] = {}

    async def take(self, command: TakeHold) -> HoldTaken | Refused | Checked:
        """The hold, once it is durable; a check's denial where the same would be denied to it.

        Raises AmountTooLarge, and as `Committer.submit`.
        """
        question = ask(self._policies.in_force, command)
        looked = await self._limits.look([self._with_under_way(ask) for ask in question.asks])
        standings = [_as_asked(*one) for one in zip(question.asks, looked.standings, strict=True)]
        is_over = not all(standing.passes for standing in standings)
        outcome = await self._submit(
            replace(command, is_over_limit=is_over), () if is_over else question.asks
        )
        if isinstance(outcome, HoldTaken):
            if not outcome.replayed:
                self._remember(command, outcome)
            return outcome
        limited = frozenset(asked.window.metric for asked in question.asks)
        if isinstance(outcome, HoldDenied):
            return Checked(outcome.decision, limited, looked.is_degraded)
        if outcome.code is not RefusalCode.RATE_LIMIT_EXCEEDED:
            return outcome
        decision = check.decide(question, await self._reader.wallets(question.wallets), standings)
        for asked, _ in decision.exceeded:
            self._limit_events.note(asked, command.origin.correlation_id)
        return Checked(decision, limited, looked.is_degraded)

    async def parts(self, hold_id: str) -> tuple[Hold, ...]:
        """The hold's parts for a command about it: what never changes is right, nothing else
        need be. Whoever takes a hold mostly ends it, so that no read is needed then.
        """
        return self._taken.get(hold_id) or tuple(await self._reader.hold(hold_id))

    def _remember(self, command: TakeHold, outcome: HoldTaken) -> None:
        if len(self._taken) >= TAKEN_MAX:
            del self._taken[next(iter(self._taken))]
        self._taken[outcome.hold_id] = tuple(
            Hold(
                id=outcome.hold_id,
                wallet=WalletKey(
                    outcome.source or "user",
                    command.org_id or "" if outcome.source == "org" else command.user_id,
                    credit_type,
                ),
                user_id=command.user_id,
                org_id=command.org_id,
                requirements=command.requirements,
                taken=credits,
                held=credits,
                expires_at=outcome.expires_at,
                correlation_id=command.origin.correlation_id,
                policy_version="",
                actor=command.origin.actor,
                client=command.origin.client,
                created_at=outcome.expires_at,
            )
            for credit_type, credits in outcome.by_credit_type.items()
        )

    async def _submit(self, command: TakeHold, asks: Sequence[Ask]) -> HoldTaken | Refused:
        """The committer counts the units before it answers."""
        uses = uses_of(asks)
        for window, units in uses:
            self._under_way[window] += units
        try:
            outcome = await self._committer.submit(command)
        finally:
            for window, units in uses:
                self._under_way[window] -= units
                if not self._under_way[window]:
                    del self._under_way[window]
        assert isinstance(outcome, HoldTaken | Refused), outcome
        return outcome

    def _with_under_way(self, ask: Ask) -> Ask:
        waiting = self._under_way[ask.window] if self._under_way else 0
        return ask._replace(amount=ask.amount + waiting)


def _as_asked(ask: Ask, standing: Standing) -> Standing:
    """Not as if the units under way had been asked for too: they alone never make it hopeless."""
    if standing.passes_in_ms is None and ask.amount <= ask.limit:
        return Standing(standing.used, MEANWHILE_MS)
    return standing
