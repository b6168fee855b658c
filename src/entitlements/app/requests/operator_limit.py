"""How often an operator may adjust: `credit_adjustment` of the policy."""

from typing import Final

from msgspec.structs import replace

from entitlements.app.announce import Cause
from entitlements.app.requests.refusals import LimitExceeded
from entitlements.app.requests.request import Request, done
from entitlements.core.commands import Adjust, SetBalance
from entitlements.core.limits import asks
from entitlements.core.outcomes import Adjusted, RefusalCode, Refused
from entitlements.core.windows import uses_of

ADJUSTMENT: Final = "credit_adjustment"


async def adjusted(request: Request, command: Adjust | SetBalance) -> Adjusted:
    """The outcome once it is committed; counted, unless it was only answered again. Without
    credentials nobody is counted. Raises Refused.
    """
    desk, caller = request.desk, request.caller
    assert caller is not None, "only those who are known change anything"
    if not desk.counts_operators:
        return await request.submitted(command, Adjusted)

    wanted = asks(desk.policies.active, {ADJUSTMENT: 1}, user_id=caller.actor, org_id=None)
    asked = await desk.limits.ask(wanted)
    if asked.exceeded:
        command = replace(command, is_over_limit=True)
    with asked:
        outcome = await desk.committer.submit(command)
        if isinstance(outcome, Refused) and outcome.code is RefusalCode.RATE_LIMIT_EXCEEDED:
            cause = Cause(request.correlation_id, None, None, request.traceparent)
            for ask, _ in asked.exceeded:
                desk.limit_events.note(ask, cause)
            raise LimitExceeded(outcome, asked.exceeded)
        if not (isinstance(outcome, Refused) or outcome.replayed):
            desk.limits.record(uses_of(wanted))
        return done(outcome, Adjusted)
