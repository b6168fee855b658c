"""Work that is done: what it costs is taken, or filed as a debt; and its reversal."""

from time import perf_counter
from typing import Final

from entitlements.app.access import Role
from entitlements.contracts.http import (
    ConsumeRequest,
    ConsumeResponse,
    ReverseRequest,
    ReverseResponse,
)
from entitlements.core.commands import Consume, Reverse
from entitlements.core.model import JobKey
from entitlements.core.outcomes import Consumed, Reversed
from entitlements.transports.http.idempotency import (
    CONSUME_PATH,
    consumption_origin,
    header_key,
    origin,
)
from entitlements.transports.http.problems import Rejected, invalid
from entitlements.transports.http.request import Reply, Request
from entitlements.transports.http.routes import Route, roles
from entitlements.transports.http.submit import replay_headers, submitted


async def consume(request: Request, body: ConsumeRequest) -> Reply:
    started = perf_counter()
    request.correlate(body.correlation_id)
    command = consume_command(request, body, key=header_key(request))
    outcome = await submitted(request, command, Consumed)

    count(request, command, outcome, started)
    return Reply(
        ConsumeResponse(
            success=outcome.success,
            new_balance=outcome.new_balance,
            consumed_from=outcome.consumed_from,
            operation_id=outcome.operation_id,
            credits=outcome.credits,
            status=outcome.status,
            owed=outcome.owed,
            reason=outcome.reason,
            correlation_id=request.correlation_id,
            replayed=outcome.replayed,
        ),
        headers=replay_headers(outcome),
    )


def count(request: Request, command: Consume, outcome: Consumed, started: float) -> None:
    """Into the metrics, unless it was counted when it was first answered."""
    if not outcome.replayed:
        source = outcome.consumed_from if outcome.success else "none"
        request.metrics.consumption(command.metric, source, perf_counter() - started)


def consume_command(
    request: Request, body: ConsumeRequest, *, key: str | None, where: str = ""
) -> Consume:
    """What is asked; errors name the fields behind ``where``."""
    correlation_id = request.optional_text(f"{where}correlation_id", body.correlation_id)
    correlation_id = correlation_id or request.correlation_header
    if not correlation_id:
        raise invalid(f"{where}correlation_id", "is required, in the body or as X-Correlation-ID")
    user_id, org_id = request.subjects(body.user_id, body.org_id, where=where)
    metric = request.metric(f"{where}metric", body.metric)
    batch_id = request.optional_text(f"{where}batch_id", body.batch_id)
    job = _job(request, body, user_id, where)
    return Consume(
        id=request.service.new_id(),
        origin=consumption_origin(
            request,
            body,
            key=key,
            subjects=(user_id, org_id),
            words=(user_id, org_id, metric, body.amount, batch_id, correlation_id),
            job=job,
            units=body.amount,
            correlation_id=correlation_id,
        ),
        user_id=user_id,
        org_id=org_id,
        metric=metric,
        units=body.amount,
        batch_id=batch_id,
        job=job,
    )


def _job(request: Request, body: ConsumeRequest, user_id: str, where: str) -> JobKey | None:
    service_name = request.optional_text(f"{where}service_name", body.service_name)
    processing_id = request.optional_text(f"{where}processing_id", body.processing_id)
    if service_name is None or processing_id is None:
        return None
    return JobKey(user_id, service_name, processing_id, body.metric)


async def reverse(request: Request, body: ReverseRequest) -> Reply:
    reason = request.text("reason", body.reason, at_most=1_000)
    operation_id = request.text("operation_id", request.params["operation_id"])
    operation = await request.service.records.operation(operation_id)
    if operation is None:
        raise Rejected("not_found", "there is no such operation")

    request.ids = (operation.user_id, operation.org_id)
    command = Reverse(
        id=request.service.new_id(),
        origin=origin(request, (), body),
        operation=operation,
        amount=body.amount,
        reason=reason,
    )
    outcome = await submitted(request, command, Reversed)
    return Reply(
        ReverseResponse(
            success=True,
            operation_id=outcome.operation_id,
            reverses=outcome.reverses,
            credits=outcome.credits,
            total_reversed=outcome.total,
            lapsed=outcome.lapsed,
            new_balance=outcome.new_balance,
            correlation_id=request.correlation_id,
            replayed=outcome.replayed,
        ),
        headers=replay_headers(outcome),
    )


ROUTES: Final = (
    Route(
        method="POST",
        path=CONSUME_PATH,
        handler=consume,
        rule=roles(Role.SERVICE),
        tag="consumption",
        summary="Charge finished work, once.",
        request=ConsumeRequest,
        responses={200: ConsumeResponse},
        problems=(409, 422),
        example={
            "user_id": "teacher-7",
            "org_id": "school-1",
            "metric": "cj_comparison",
            "amount": 45,
            "batch_id": "batch-4711",
            "correlation_id": "batch-4711",
        },
        answer={
            "success": True,
            "new_balance": 455,
            "consumed_from": "org",
            "operation_id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90",
            "credits": 45,
            "status": "completed",
            "owed": 0,
            "reason": None,
            "correlation_id": "batch-4711",
            "replayed": False,
        },
    ),
    Route(
        method="POST",
        path="/v1/entitlements/operations/{operation_id}/reverse",
        handler=reverse,
        rule=roles(Role.OPERATOR),
        tag="consumption",
        summary="Give back what a consumption took, whole or in part, to the grants that paid.",
        request=ReverseRequest,
        responses={200: ReverseResponse},
        problems=(404, 409, 422),
        example={"reason": "the feedback was empty", "amount": 5},
    ),
)
