"""Several consumptions in one request: each for itself, or all of them or none."""

import asyncio
from time import perf_counter
from typing import Final

from entitlements.app.access import Role
from entitlements.contracts.http import (
    BulkConsumeRequest,
    BulkConsumeResponse,
    ConsumeItem,
    ConsumeResult,
)
from entitlements.core.commands import Consume, ConsumeTogether
from entitlements.core.outcomes import Consumed, ConsumedTogether, Refused
from entitlements.transports.http.consumption import consume_command, count
from entitlements.transports.http.idempotency import CONSUME_PATH, header_key, visible_key
from entitlements.transports.http.request import Reply, Request
from entitlements.transports.http.routes import Route, roles
from entitlements.transports.http.strict_json import BODY_MAX
from entitlements.transports.http.submit import REPLAYED, submitted


async def consume_bulk(request: Request, body: BulkConsumeRequest) -> Reply:
    started = perf_counter()
    commands = _commands(request, body.items)
    outcomes = await (_together if body.atomic else _each)(request, commands)

    for command, outcome in zip(commands, outcomes, strict=True):
        if isinstance(outcome, Consumed):
            count(request, command, outcome, started)
    results = [
        _result(outcome, command.origin.correlation_id)
        for command, outcome in zip(commands, outcomes, strict=True)
    ]
    return Reply(
        BulkConsumeResponse(
            success=all(result.success for result in results),
            results=results,
            correlation_id=request.correlation_id,
        ),
        headers=REPLAYED if all(result.replayed for result in results) else (),
    )


def _commands(request: Request, items: list[ConsumeItem]) -> list[Consume]:
    """Each item under its own key, else under the header's with its place in the list."""
    whole = header_key(request)
    commands = []
    for number, item in enumerate(items):
        where = f"items[{number}]."
        key = f"{whole}#{number}" if whole is not None else None
        if item.idempotency_key is not None:
            key = visible_key(f"{where}idempotency_key", item.idempotency_key)
        commands.append(consume_command(request, item, key=key, where=where))

    users, orgs = {one.user_id for one in commands}, {one.org_id for one in commands}
    request.ids = (
        users.pop() if len(users) == 1 else None,
        orgs.pop() if len(orgs) == 1 else None,
    )
    return commands


async def _each(request: Request, commands: list[Consume]) -> list[Consumed | Refused]:
    """What came of each. If one of them was not decided the request fails, and may be sent again:
    by then nothing of it is under way.
    """
    submit = request.service.committer.submit
    outcomes = await asyncio.gather(*map(submit, commands), return_exceptions=True)
    settled: list[Consumed | Refused] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        assert isinstance(outcome, Consumed | Refused), outcome
        settled.append(outcome)
    return settled


async def _together(request: Request, commands: list[Consume]) -> list[Consumed | Refused]:
    """What came of all of them. Raises Rejected if one is refused: then nothing was written."""
    command = ConsumeTogether(
        id=request.service.new_id(), origin=commands[0].origin, items=tuple(commands)
    )
    outcome = await submitted(request, command, ConsumedTogether)
    return list(outcome.results)


def _result(outcome: Consumed | Refused, correlation_id: str) -> ConsumeResult:
    if isinstance(outcome, Refused):
        return ConsumeResult(
            success=False,
            new_balance=None,
            consumed_from="none",
            operation_id=None,
            credits=0,
            status="refused",
            owed=0,
            reason=outcome.code,
            correlation_id=correlation_id,
            replayed=False,
            code=outcome.code,
            detail=outcome.detail,
            data=outcome.data,
        )
    return ConsumeResult(
        success=outcome.success,
        new_balance=outcome.new_balance,
        consumed_from=outcome.consumed_from,
        operation_id=outcome.operation_id,
        credits=outcome.credits,
        status=outcome.status,
        owed=outcome.owed,
        reason=outcome.reason,
        correlation_id=correlation_id,
        replayed=outcome.replayed,
    )


ROUTES: Final = (
    Route(
        method="POST",
        path=f"{CONSUME_PATH}/bulk",
        handler=consume_bulk,
        rule=roles(Role.SERVICE),
        tag="consumption",
        summary="Charge up to 1,000 pieces of finished work, each once; atomic: all or none.",
        request=BulkConsumeRequest,
        responses={200: BulkConsumeResponse},
        problems=(409, 422),
        body_max=4 * BODY_MAX,
        example={
            "items": [
                {
                    "user_id": "teacher-7",
                    "org_id": "school-1",
                    "metric": f"llm.small-1.{kind}",
                    "amount": tokens,
                    "correlation_id": "call-99",
                }
                for kind, tokens in (("input", 4_808), ("output", 310))
            ],
            "atomic": True,
        },
    ),
)
