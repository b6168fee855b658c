"""Taking holds: the limits are asked first, and count the units once they are held."""

from __future__ import annotations

from collections import OrderedDict

from msgspec.structs import replace

from entitlements.app.announce import Cause
from entitlements.app.checks import Checked, lapse_wait_s
from entitlements.app.committer import Committer
from entitlements.app.limit_events import LimitEvents
from entitlements.app.limits import Asked, Limits
from entitlements.app.policies import Policies
from entitlements.app.reader import Reader
from entitlements.core import check
from entitlements.core.commands import TakeHold
from entitlements.core.ledger.hold import HoldDenied, ask
from entitlements.core.limits import asks
from entitlements.core.model import HoldFacts, Subject, WalletKey, facts_of
from entitlements.core.outcomes import HoldTaken, RefusalCode, Refused

TAKEN_MAX = 4096


class Holds:
    """Sets credits aside, and finds holds again."""

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

    async def take(self, command: TakeHold) -> HoldTaken | Refused | Checked:
        """The hold, once it is durable; a check's denial where the same would be denied to it.

        Raises AmountTooLarge, and as `Committer.submit`.
        """
        wanted = command.requirements or {}
        policy = self._policies.in_force
        windows = asks(policy, wanted, user_id=command.user_id, org_id=command.org_id)
        asked = await self._limits.ask(windows)
        if asked.exceeded:
            command = replace(command, is_over_limit=True)
        with asked:  # the committer counts the units before it answers
            outcome = await self._committer.submit(command)
        if isinstance(outcome, HoldTaken):
            if not outcome.replayed:
                self._remember(command, outcome)
            return outcome
        assert isinstance(outcome, Refused), outcome
        limited = frozenset(asked.window.metric for asked in asked.asks)
        if isinstance(outcome, HoldDenied):
            question = ask(policy, command)
            wait_s = await lapse_wait_s(self._reader, policy, question, outcome.decision)
            return Checked(outcome.decision, limited, asked.is_degraded, retry_after_s=wait_s)
        if outcome.code is RefusalCode.RATE_LIMIT_EXCEEDED:
            return Checked(await self._limited(command, asked), limited, asked.is_degraded)
        return outcome

    async def _limited(self, command: TakeHold, asked: Asked) -> check.Decision:
        """What a check of the same would answer."""
        exceeded, standings = zip(*asked.exceeded, strict=True)
        question = replace(ask(self._policies.in_force, command), asks=exceeded)
        wallets = await self._reader.wallets(question.wallets)
        origin = command.origin
        cause = Cause(origin.correlation_id, command.user_id, command.org_id, origin.traceparent)
        for one in exceeded:
            self._limit_events.note(one, cause)
        return check.decide(question, wallets, standings, {})

    async def find(self, hold_id: str) -> HoldFacts | None:
        """What a command about the hold must know. Whoever takes a hold mostly ends it, so that
        no read is needed then.
        """
        known = self._taken.get(hold_id)
        if known is not None:
            return known
        parts = await self._reader.hold(hold_id)
        return facts_of(parts) if parts else None

    def _remember(self, command: TakeHold, outcome: HoldTaken) -> None:
        if len(self._taken) >= TAKEN_MAX:
            self._taken.popitem(last=False)
        payer = Subject("user", command.user_id)
        if outcome.source == "org" and command.org_id is not None:
            payer = Subject("org", command.org_id)
        self._taken[outcome.hold_id] = HoldFacts(
            id=outcome.hold_id,
            user_id=command.user_id,
            org_id=command.org_id,
            wallets=tuple(WalletKey(payer.type, payer.id, name) for name in outcome.by_credit_type),
            correlation_id=command.origin.correlation_id,
        )
