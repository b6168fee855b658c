"""Consumption of finished work, charged or filed as a debt, and its reversal."""

from collections import Counter
from typing import Final, TypeVar

from msgspec import UNSET

from entitlements.app.operations import bulk
from entitlements.app.operations.checks import candidates_item
from entitlements.app.operations.ledger import found_operation
from entitlements.app.operations.naming import Words, consumption_origin, origin
from entitlements.app.operations.refusals import refused
from entitlements.app.operations.request import Request, UseCases, done
from entitlements.app.ports import OperationsQuery
from entitlements.contracts import http
from entitlements.contracts.errors import invalid
from entitlements.core.commands import Consume, Reverse
from entitlements.core.model import JobKey, Operation
from entitlements.core.outcomes import AnyOutcome, Consumed, Part, Refusal, Reversed
from entitlements.core.reasons import RefusalCode

GROUP_MAX: Final = 1000
"""More wallets than any consumption has."""

A = TypeVar("A", http.ConsumeResponse, http.ConsumeResult)


async def consume(request: Request, body: http.ConsumeRequest) -> http.ConsumeResponse:
    command = _command(request, body, Counter(), key=request.key)
    answer = await request.committer.submit(command)
    await _note_conflict(request, command, answer)
    return _answer(http.ConsumeResponse, done(answer, Consumed), request.correlation_id)


def _command(
    request: Request,
    body: http.ConsumeRequest,
    unnamed: Counter[Words],
    *,
    key: str | None,
    number: int | None = None,
) -> Consume:
    """Return the command of a body, or of the item with this number.

    ``unnamed`` counts the items of the request that have neither key nor job.
    """
    correlation_id = body.correlation_id or request.correlation_header
    if not correlation_id:
        raise invalid(
            f"{bulk.where(number)}correlation_id",
            "is required, in the body or as X-Correlation-ID",
        )
    user_id, org_id = request.subjects(body)
    job = _job(body, user_id)
    words = (user_id, org_id, body.metric, body.amount, body.batch_id, correlation_id)
    if key is None and job is None:
        unnamed[words] += 1
    return Consume(
        id=request.engine.new_id(),
        origin=consumption_origin(
            request,
            bulk.given(request, number),
            key=key,
            subjects=(user_id, org_id),
            words=words,
            nth=unnamed[words],
            job=job,
            units=body.amount,
            correlation_id=correlation_id,
        ),
        user_id=user_id,
        org_id=org_id,
        metric=body.metric,
        units=body.amount,
        batch_id=body.batch_id,
        job=job,
    )


def _job(body: http.ConsumeRequest, user_id: str) -> JobKey | None:
    if body.service_name is None or body.processing_id is None:
        return None
    return JobKey(user_id, body.service_name, body.processing_id, body.metric, body.batch_id or "")


async def consume_all(request: Request, body: http.BulkConsumeRequest) -> http.BulkConsumeResponse:
    """Consume the items, separately or atomically."""
    commands = _commands(request, body.items)
    outcomes = await bulk.submit(request, commands, Consumed, atomic=body.atomic)
    if isinstance(outcomes, Refusal):
        await _note_conflict(request, commands[outcomes.data.get("item", 0)], outcomes)
        raise refused(outcomes)
    for command, outcome in zip(commands, outcomes, strict=True):
        await _note_conflict(request, command, outcome)
    results = [
        _result(outcome, command.origin.correlation_id)
        for command, outcome in zip(commands, outcomes, strict=True)
    ]
    return http.BulkConsumeResponse(
        success=all(result.success for result in results),
        results=results,
        correlation_id=request.correlation_id,
    )


def _commands(request: Request, items: list[http.ConsumeItem]) -> list[Consume]:
    """Return the commands, each with its own key or the request's key and its index."""
    commands = []
    unnamed: Counter[Words] = Counter()
    for number, item in enumerate(items):
        key = bulk.item_key(request, number, item.idempotency_key)
        commands.append(_command(request, item, unnamed, key=key, number=number))
    bulk.log_subjects(request, (one.user_id for one in commands), (one.org_id for one in commands))
    return commands


async def _note_conflict(request: Request, command: Consume, answer: AnyOutcome | Refusal) -> None:
    if isinstance(answer, Refusal) and answer.code is RefusalCode.JOB_CONFLICT:
        await request.engine.conflicts.note(command, answer)


def _result(outcome: Consumed | Refusal, correlation_id: str) -> http.ConsumeResult:
    if isinstance(outcome, Refusal):
        return http.ConsumeResult(
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
    return _answer(http.ConsumeResult, outcome, correlation_id)


def _answer(contract: type[A], outcome: Consumed, correlation_id: str) -> A:
    return contract(
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
        candidates=candidates_item(outcome.candidates),
        allowance_units=outcome.allowance_units or UNSET,
        parts=[_part(one) for one in outcome.parts] or UNSET,
    )


def _part(part: Part) -> http.ConsumedPart:
    return http.ConsumedPart(
        operation_id=part.operation_id,
        subject_type=part.subject_type,
        subject_id=part.subject_id,
        credits=part.credits,
        new_balance=part.new_balance,
    )


async def reverse(request: Request, body: http.ReverseRequest) -> http.ReverseResponse:
    operation = await found_operation(request)
    command = Reverse(
        id=request.engine.new_id(),
        origin=origin(request, ()),
        operation=operation,
        group=await _group(request, operation),
        amount=body.amount,
        reason=body.reason,
    )
    outcome = await request.submitted(command, Reversed)
    return http.ReverseResponse(
        success=True,
        operation_id=outcome.operation_id,
        reverses=outcome.reverses,
        credits=outcome.credits,
        total_reversed=outcome.total,
        lapsed=outcome.lapsed,
        new_balance=outcome.new_balance,
        allowance_units=outcome.allowance_units or UNSET,
        correlation_id=request.correlation_id,
        replayed=outcome.replayed,
    )


async def _group(request: Request, operation: Operation) -> tuple[Operation, ...]:
    """Return the operations of the group that this one is the first of, if it is."""
    if operation.group_id is None or operation.is_part:
        return ()
    query = OperationsQuery(group_id=operation.id, limit=GROUP_MAX)
    page = await request.engine.store.reads.operations(query)
    others = sorted((one for one in page.rows if one.is_part), key=lambda one: one.id)
    return (operation, *others)


USE_CASES: Final[UseCases] = {
    http.CONSUME: consume,
    http.CONSUME_ALL: consume_all,
    http.REVERSE: reverse,
}
