"""How often an operator may adjust: `credit_adjustment` of the policy."""

import asyncio
from typing import Final, Self, TypeVar
from weakref import WeakValueDictionary

from entitlements.app.requests.refusals import LimitExceeded, Stands, refused
from entitlements.app.requests.request import Request
from entitlements.core.commands import AnyCommand
from entitlements.core.limits import asks, uses
from entitlements.core.outcomes import Outcome, RefusalCode, Refused

ADJUSTMENT: Final = "credit_adjustment"
T = TypeVar("T", bound=Outcome)


class OperatorLimit:
    """Adjustments of one operator, one after the other, so that none slips past the limit while
    another is under way. Without credentials nobody is counted.
    """

    def __init__(self, request: Request) -> None:
        assert request.caller is not None
        self._desk = request.desk
        self._actor = request.caller.actor
        counts = request.desk.counts_operators
        self._turn = _turns.setdefault(self._actor, asyncio.Lock()) if counts else None
        self._exceeded: Stands = ()

    async def __aenter__(self) -> Self:
        if self._turn is None:
            return self
        await self._turn.acquire()
        try:
            await self._look()
        except BaseException:
            self._turn.release()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._turn is not None:
            self._turn.release()

    async def _look(self) -> None:
        policy = self._desk.policies.active
        asked = asks(policy, {ADJUSTMENT: 1}, user_id=self._actor, org_id=None)
        looked = await self._desk.limits.look(asked)
        stands = zip(asked, looked.standings, strict=True)
        self._exceeded = [(ask, standing) for ask, standing in stands if not standing.passes]

    @property
    def is_exceeded(self) -> bool:
        return bool(self._exceeded)

    async def submitted(self, command: AnyCommand, expected: type[T]) -> T:
        """The outcome once it is committed; counted, unless it was only answered again. Raises
        Refused.
        """
        outcome = await self._desk.committer.submit(command)
        if isinstance(outcome, Refused):
            if outcome.code is RefusalCode.RATE_LIMIT_EXCEEDED:
                raise LimitExceeded(outcome, self._exceeded)
            raise refused(outcome)
        assert isinstance(outcome, expected), outcome
        if not outcome.replayed and self._turn is not None:
            policy = self._desk.policies.active
            self._desk.limits.record(uses(policy, ADJUSTMENT, 1, user_id=self._actor, org_id=None))
        return outcome


_turns: Final[WeakValueDictionary[str, asyncio.Lock]] = WeakValueDictionary()
