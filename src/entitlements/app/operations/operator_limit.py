"""The rate limit of an operator's adjustments: `credit_adjustment` of the policy."""

from collections.abc import Sequence
from typing import Final, TypeGuard

from msgspec.structs import replace

from entitlements.app.operations import bulk
from entitlements.app.operations.refusals import LimitRefused
from entitlements.app.operations.request import Request
from entitlements.core.commands import Adjust, SetBalance
from entitlements.core.limits import limit_queries, uses
from entitlements.core.outcomes import Adjusted, Refusal
from entitlements.core.reasons import RefusalCode
from entitlements.core.windows import Cause

ADJUSTMENT: Final = "credit_adjustment"


async def submit(
    request: Request, commands: Sequence[Adjust | SetBalance], *, atomic: bool = False
) -> list[Adjusted | Refusal] | Refusal:
    """Return the outcomes as `bulk.submit` does. A request counts as one use, unless all of it is
    a replay or refused. Without credentials nothing is counted.

    Raises LimitExceeded if the limit refuses the whole request.
    """
    engine, caller = request.engine, request.caller
    assert caller is not None, "changes need an authenticated caller"
    if not engine.counts_operators:
        return await bulk.submit(request, commands, Adjusted, atomic=atomic)

    policy, operator = engine.policies.active, caller.actor
    wanted = limit_queries(policy, {ADJUSTMENT: 1}, user_id=operator, org_id=None)
    asked = await engine.limits.reserve(wanted)
    if asked.exceeded:
        commands = [replace(command, is_over_limit=True) for command in commands]
    with asked:
        outcomes = await bulk.submit(request, commands, Adjusted, atomic=atomic)
        each = [outcomes] if isinstance(outcomes, Refusal) else outcomes
        refused = [one for one in each if _is_over_limit(one)]
        cause = Cause(request.correlation_id, None, None, request.traceparent)
        if refused:
            for ask, _ in asked.exceeded:
                engine.limit_events.note(ask, cause)
        if len(refused) == len(each):
            raise LimitRefused(refused[0], asked.exceeded)
        if any(isinstance(one, Adjusted) and not one.replayed for one in each):
            engine.limits.count(
                uses(policy, ADJUSTMENT, 1, user_id=operator, org_id=None, cause=cause)
            )
        return outcomes


def _is_over_limit(outcome: Adjusted | Refusal) -> TypeGuard[Refusal]:
    return isinstance(outcome, Refusal) and outcome.code is RefusalCode.RATE_LIMIT_EXCEEDED
