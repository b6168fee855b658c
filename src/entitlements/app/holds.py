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
from entitlements.core.outcomes import HoldTaken, RefusalCode, Refused
from entitlements.core.windows import Ask, Standing, WindowKey, uses_of

MEANWHILE_MS = 1000
"""When to come again if what is under way would use the limit up."""


class Holds:
    """Sets credits aside. Within one process no limit is passed, whatever comes at once: units
    under way count as if they were used. Several processes together may pass it by what the
    others have under way.
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

    async def take(self, command: TakeHold) -> HoldTaken | Refused | Checked:
        """The hold, once it is durable; a check's denial where the same would be denied to it.

        Raises AmountTooLarge, and as `Committer.submit`.
        """
        question = ask(self._policies.in_force, command)
        looked = await self._limits.look(question.asks)
        standings = [
            self._with_under_way(*one) for one in zip(question.asks, looked.standings, strict=True)
        ]
        is_over = not all(standing.passes for standing in standings)
        outcome = await self._submit(
            replace(command, is_over_limit=is_over), () if is_over else question.asks
        )
        if isinstance(outcome, HoldTaken):
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

    def _with_under_way(self, ask: Ask, standing: Standing) -> Standing:
        waiting = self._under_way[ask.window] if self._under_way else 0
        if not waiting or standing.used + waiting + ask.amount <= ask.limit:
            return standing
        return Standing(standing.used + waiting, standing.passes_in_ms or MEANWHILE_MS)
