"""Routes that take, settle, extend, release and list holds."""

from time import perf_counter
from typing import Final

from entitlements.app.access.keys import Role
from entitlements.app.credits.checks import Checked
from entitlements.app.operations import checks, holds
from entitlements.contracts import verbs
from entitlements.contracts.http import (
    BulkCheckResponse,
    ExtendHoldRequest,
    HoldChangeResponse,
    HoldItem,
    HoldRequest,
    HoldResponse,
    HoldsFilter,
    HoldsResponse,
    ReleaseHoldRequest,
    SettleHoldRequest,
)
from entitlements.transports.http import limit_headers
from entitlements.transports.http.checks import BULK_LIMITED, BULK_UNPAID, STATUS
from entitlements.transports.http.request import HttpRequest, Reply, replay_headers
from entitlements.transports.http.routes import Content, Route, roles


async def take_hold(request: HttpRequest, body: HoldRequest) -> Reply:
    started = perf_counter()
    answer = await holds.take(request, body)
    if isinstance(answer, Checked):
        request.metrics.check(answer, perf_counter() - started)
        decision = answer.decision
        request.metrics.hold(decision.reason or "denied")
        return Reply(
            checks.answer_all(answer, request.correlation_id),
            STATUS[decision.reason],
            limit_headers.headers_of_check(answer),
        )
    if not answer.replayed:
        request.metrics.hold("taken")
    return Reply(answer, status=201, headers=replay_headers(answer))


async def settle_hold(request: HttpRequest, body: SettleHoldRequest) -> Reply:
    started = perf_counter()
    answer = await holds.settle(request, request.params["hold_id"], body)
    if not answer.replayed:
        request.metrics.hold("settled" if answer.status == "settled" else "settled_in_part")
        source = answer.consumed_from if answer.charged else "none"
        for metric in body.requirements or {}:
            request.metrics.consumption(metric, source, perf_counter() - started)
    return Reply(answer, headers=replay_headers(answer))


async def extend_hold(request: HttpRequest, body: ExtendHoldRequest) -> Reply:
    answer = await holds.extend(request, request.params["hold_id"], body)
    if not answer.replayed:
        request.metrics.hold("extended")
    return Reply(answer, headers=replay_headers(answer))


async def release_hold(request: HttpRequest, body: ReleaseHoldRequest) -> Reply:
    answer = await holds.release(request, request.params["hold_id"], body)
    if answer.operation_id is not None and not answer.replayed:
        request.metrics.hold("released")
    return Reply(answer, headers=replay_headers(answer))


async def show_hold(request: HttpRequest, _: None) -> Reply:
    return Reply(await holds.show(request, request.params["hold_id"]))


async def list_holds(request: HttpRequest, _: None) -> Reply:
    return Reply(await holds.holds(request, request.query(HoldsFilter)))


_HOLD_ID: Final = "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90"
_SERVICE: Final = roles(Role.SERVICE)
_SETTLED: Final = {
    "hold_id": _HOLD_ID,
    "status": "settled",
    "credit_type": "credits",
    "charged": 35,
    "returned": 15,
    "held": 0,
    "owed": 0,
    "consumed_from": "org",
    "new_balance": 465,
    "operation_id": "0198c1f2-9b07-7d3a-8c55-0d0f6f0b1c2d",
    "expires_at": "2026-09-01T08:02:00Z",
    "lapsed": False,
    "by_credit_type": {"credits": {"charged": 35, "returned": 15, "held": 0, "owed": 0}},
    "correlation_id": "batch-4711",
    "replayed": False,
}
_HELD: Final = {
    "hold_id": _HOLD_ID,
    "status": "open",
    "subject_type": "org",
    "subject_id": "school-1",
    "user_id": "teacher-7",
    "org_id": "school-1",
    "requirements": {"ai_feedback_generation": 10},
    "settled": {},
    "by_credit_type": {
        "credits": {
            "taken": 50,
            "held": 50,
            "charged": 0,
            "returned": 0,
            "backing": [{"grant_id": "0198c1f0-0d11-7a6b-8f2e-7d9c4b5a6e31", "quantity": 50}],
        }
    },
    "settlement": None,
    "expires_at": "2026-09-01T08:02:00Z",
    "correlation_id": "batch-4711",
    "policy_version": "5f0c6b2d9a3e4f7081c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e",
    "actor": "0197f0c2-5d2e-7d5c-9a53-0c8f6f1c2b7a",
    "client": "grading",
    "created_at": "2026-09-01T08:00:00Z",
    "closed_at": None,
}
ROUTES: Final = (
    Route(
        method="POST",
        path=verbs.HOLD.path,
        handler=take_hold,
        rule=_SERVICE,
        tag="holds",
        summary="Hold credits before work of unknown cost.",
        request=Content(
            HoldRequest,
            {
                "user_id": "teacher-7",
                "org_id": "school-1",
                "requirements": {"ai_feedback_generation": 10},
                "ttl_seconds": 120,
                "correlation_id": "batch-4711",
            },
        ),
        responses={
            201: Content(
                HoldResponse,
                {
                    "hold_id": _HOLD_ID,
                    "credits": 50,
                    "credit_type": "credits",
                    "source": "org",
                    "expires_at": "2026-09-01T08:02:00Z",
                    "by_credit_type": {"credits": 50},
                    "correlation_id": "batch-4711",
                    "replayed": False,
                },
            ),
            402: Content(BulkCheckResponse, BULK_UNPAID),
            429: Content(BulkCheckResponse, BULK_LIMITED),
        },
    ),
    Route(
        method="GET",
        path=verbs.SHOW_HOLD.path,
        handler=show_hold,
        rule=roles(Role.SERVICE, Role.READER, Role.OPERATOR),
        tag="holds",
        summary="Get the current state of a hold.",
        responses={200: Content(HoldItem, _HELD)},
        problems=(404,),
    ),
    Route(
        method="POST",
        path=verbs.SETTLE_HOLD.path,
        handler=settle_hold,
        rule=_SERVICE,
        tag="holds",
        summary="Settle a hold: charge actual usage and release the rest.",
        request=Content(SettleHoldRequest, {"requirements": {"ai_feedback_generation": 7}}),
        responses={
            200: Content(
                HoldChangeResponse,
                _SETTLED,
            )
        },
        problems=(404, 409),
    ),
    Route(
        method="POST",
        path=verbs.EXTEND_HOLD.path,
        handler=extend_hold,
        rule=_SERVICE,
        tag="holds",
        summary="Extend an open hold.",
        request=Content(ExtendHoldRequest, {"ttl_seconds": 300}),
        responses={
            200: Content(
                HoldChangeResponse,
                {
                    **_SETTLED,
                    "status": "open",
                    "charged": 0,
                    "returned": 0,
                    "held": 50,
                    "consumed_from": "none",
                    "new_balance": 500,
                    "expires_at": "2026-09-01T08:07:00Z",
                    "by_credit_type": {
                        "credits": {"charged": 0, "returned": 0, "held": 50, "owed": 0}
                    },
                },
            )
        },
        problems=(404, 409),
    ),
    Route(
        method="POST",
        path=verbs.RELEASE_HOLD.path,
        handler=release_hold,
        rule=roles(Role.SERVICE, Role.OPERATOR),
        tag="holds",
        summary="Release everything that a hold still holds.",
        request=Content(ReleaseHoldRequest, {"reason": "the stream broke off"}),
        responses={
            200: Content(
                HoldChangeResponse,
                {
                    **_SETTLED,
                    "status": "released",
                    "charged": 0,
                    "returned": 50,
                    "consumed_from": "none",
                    "new_balance": 500,
                    "by_credit_type": {
                        "credits": {"charged": 0, "returned": 50, "held": 0, "owed": 0}
                    },
                },
            )
        },
        problems=(404, 409),
    ),
    Route(
        method="GET",
        path=verbs.HOLDS.path,
        handler=list_holds,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="List holds, newest first; by default the open ones.",
        query=HoldsFilter,
        responses={
            200: Content(
                HoldsResponse,
                {"holds": [_HELD], "count": 1, "next_cursor": None, "correlation_id": "support-12"},
            )
        },
    ),
)
