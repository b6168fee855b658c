"""One command to the ledger, and its answer or refusal."""

from typing import Final, TypeVar

from entitlements.core.commands import AnyCommand
from entitlements.core.outcomes import Outcome, Refused
from entitlements.transports.http.problems import refused
from entitlements.transports.http.request import Headers, Request

T = TypeVar("T", bound=Outcome)

REPLAYED: Final = ((b"idempotency-replayed", b"true"),)


async def submitted(
    request: Request, command: AnyCommand, expected: type[T], *, refusal_headers: Headers = ()
) -> T:
    """The outcome once it is committed. Raises Rejected for a refusal."""
    outcome = await request.service.committer.submit(command)
    if isinstance(outcome, Refused):
        raise refused(outcome, refusal_headers)
    assert isinstance(outcome, expected), outcome
    return outcome


def replay_headers(outcome: Outcome) -> Headers:
    return REPLAYED if outcome.replayed else ()
