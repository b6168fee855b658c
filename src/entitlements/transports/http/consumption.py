"""Routes that charge finished work, and that reverse operations."""

from time import perf_counter
from typing import Final

from entitlements.app.access.keys import Role
from entitlements.app.operations import consumption
from entitlements.contracts import verbs
from entitlements.contracts.http import (
    BulkConsumeRequest,
    BulkConsumeResponse,
    ConsumeRequest,
    ConsumeResponse,
    ConsumeResult,
    ReverseRequest,
    ReverseResponse,
)
from entitlements.transports.http.request import (
    HttpRequest,
    Reply,
    bulk_replay_headers,
    replay_headers,
)
from entitlements.transports.http.routes import BODY_MAX, Content, Route, roles


async def consume(request: HttpRequest, body: ConsumeRequest) -> Reply:
    started = perf_counter()
    answer = await consumption.consume(request, body)
    _count(request, body, answer, started)
    return Reply(answer, headers=replay_headers(answer))


async def consume_bulk(request: HttpRequest, body: BulkConsumeRequest) -> Reply:
    started = perf_counter()
    answer = await consumption.consume_all(request, body)
    for item, result in zip(body.items, answer.results, strict=True):
        if result.status != "refused":
            _count(request, item, result, started)
    return Reply(answer, headers=bulk_replay_headers(answer.results))


def _count(
    request: HttpRequest,
    body: ConsumeRequest,
    answer: ConsumeResponse | ConsumeResult,
    started: float,
) -> None:
    """Count a consumption in the metrics, unless it is a replay."""
    if not answer.replayed:
        source = answer.consumed_from if answer.success else "none"
        request.metrics.consumption(body.metric, source, perf_counter() - started)


async def reverse(request: HttpRequest, body: ReverseRequest) -> Reply:
    answer = await consumption.reverse(request, request.params["operation_id"], body)
    return Reply(answer, headers=replay_headers(answer))


_CONSUMED: Final = {
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
}
ROUTES: Final = (
    Route(
        method="POST",
        path=verbs.CONSUME.path,
        handler=consume,
        rule=roles(Role.SERVICE),
        tag="consumption",
        summary="Charge finished work, once.",
        request=Content(
            ConsumeRequest,
            {
                "user_id": "teacher-7",
                "org_id": "school-1",
                "metric": "cj_comparison",
                "amount": 45,
                "batch_id": "batch-4711",
                "correlation_id": "batch-4711",
            },
        ),
        responses={
            200: Content(
                ConsumeResponse,
                _CONSUMED,
            )
        },
        problems=(409,),
    ),
    Route(
        method="POST",
        path=verbs.REVERSE.path,
        handler=reverse,
        rule=roles(Role.OPERATOR),
        tag="consumption",
        summary="Reverse an operation, in full or in part; credits return to the grants that paid.",
        request=Content(ReverseRequest, {"reason": "the feedback was empty", "amount": 5}),
        responses={
            200: Content(
                ReverseResponse,
                {
                    "success": True,
                    "operation_id": "0198c1f2-9b07-7d3a-8c55-0d0f6f0b1c2d",
                    "reverses": _CONSUMED["operation_id"],
                    "credits": 5,
                    "total_reversed": 5,
                    "lapsed": 0,
                    "new_balance": 460,
                    "correlation_id": "support-12",
                    "replayed": False,
                },
            )
        },
        problems=(404, 409),
    ),
    Route(
        method="POST",
        path=verbs.CONSUME_ALL.path,
        handler=consume_bulk,
        rule=roles(Role.SERVICE),
        tag="consumption",
        summary="Charge up to 1,000 items of finished work, each once; atomic: all or none.",
        request=Content(
            BulkConsumeRequest,
            {
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
        responses={
            200: Content(
                BulkConsumeResponse,
                {"success": True, "results": [_CONSUMED], "correlation_id": "batch-4711"},
            )
        },
        problems=(409,),
        body_max=4 * BODY_MAX,
    ),
)
