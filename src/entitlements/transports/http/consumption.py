"""Routes that charge finished work, and that reverse operations."""

from typing import Any, Final

from entitlements.app.access.keys import Role
from entitlements.contracts import http
from entitlements.transports.http.answering import BULK_MAX, each, route
from entitlements.transports.http.request import HttpRequest
from entitlements.transports.http.routes import roles


def _note(request: HttpRequest, body: Any, answer: Any, seconds: float) -> None:
    """Count a consumption in the metrics, unless it was refused or is a replay."""
    if not answer.replayed and answer.status != "refused":
        source = answer.consumed_from if answer.success else "none"
        request.metrics.consumption(body.metric, source, seconds)


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
    route(
        http.CONSUME,
        rule=roles(Role.SERVICE),
        tag="consumption",
        summary="Charge finished work, once.",
        example={
            "user_id": "teacher-7",
            "org_id": "school-1",
            "metric": "cj_comparison",
            "amount": 45,
            "batch_id": "batch-4711",
            "correlation_id": "batch-4711",
        },
        answer=_CONSUMED,
        problems=(409,),
        note=_note,
    ),
    route(
        http.REVERSE,
        rule=roles(Role.OPERATOR),
        tag="consumption",
        summary="Reverse an operation, in full or in part; credits return to the grants that paid.",
        example={"reason": "the feedback was empty", "amount": 5},
        answer={
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
        problems=(404, 409),
    ),
    route(
        http.CONSUME_ALL,
        rule=roles(Role.SERVICE),
        tag="consumption",
        summary="Charge up to 1,000 items of finished work, each once; with `atomic`, all or none.",
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
        answer={"success": True, "results": [_CONSUMED], "correlation_id": "batch-4711"},
        problems=(409,),
        note=each(_note),
        body_max=BULK_MAX,
    ),
)
