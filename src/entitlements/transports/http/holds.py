"""Routes that take, settle, extend, release and list holds."""

from time import perf_counter
from typing import Final

from entitlements.app.access.keys import Role
from entitlements.app.credits.checks import Checked
from entitlements.app.operations import checks, holds
from entitlements.contracts import http
from entitlements.transports.http import limit_headers
from entitlements.transports.http.answering import CREATED, route
from entitlements.transports.http.checks import BULK_LIMITED, BULK_UNPAID, STATUS
from entitlements.transports.http.request import HttpRequest, Reply, replay_headers
from entitlements.transports.http.routes import Content, Route, roles


async def take_hold(request: HttpRequest, body: http.HoldRequest) -> Reply:
    started = perf_counter()
    answer = await holds.decide(request, body)
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
    return Reply(answer, CREATED, replay_headers(answer))


def _note_settlement(
    request: HttpRequest,
    body: http.SettleHoldRequest,
    answer: http.HoldChangeResponse,
    seconds: float,
) -> None:
    if not answer.replayed:
        request.metrics.hold("settled" if answer.status == "settled" else "settled_in_part")
        source = answer.consumed_from if answer.charged else "none"
        for metric in body.requirements or {}:
            request.metrics.consumption(metric, source, seconds)


def _note_extension(
    request: HttpRequest, _: http.ExtendHoldRequest, answer: http.HoldChangeResponse, __: float
) -> None:
    if not answer.replayed:
        request.metrics.hold("extended")


def _note_release(
    request: HttpRequest, _: http.ReleaseHoldRequest, answer: http.HoldChangeResponse, __: float
) -> None:
    if answer.operation_id is not None and not answer.replayed:
        request.metrics.hold("released")


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
        path=http.HOLD.path,
        handler=take_hold,
        rule=_SERVICE,
        tag="holds",
        summary="Hold credits before work of unknown cost.",
        request=Content(
            http.HoldRequest,
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
                http.HoldResponse,
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
            402: Content(http.BulkCheckResponse, BULK_UNPAID),
            429: Content(http.BulkCheckResponse, BULK_LIMITED),
        },
    ),
    route(
        http.SHOW_HOLD,
        rule=roles(Role.SERVICE, Role.READER, Role.OPERATOR),
        tag="holds",
        summary="Get the current state of a hold.",
        answer=_HELD,
        problems=(404,),
    ),
    route(
        http.SETTLE_HOLD,
        rule=_SERVICE,
        tag="holds",
        summary="Settle a hold: charge actual usage and release the rest.",
        example={"requirements": {"ai_feedback_generation": 7}},
        answer=_SETTLED,
        problems=(404, 409),
        note=_note_settlement,
    ),
    route(
        http.EXTEND_HOLD,
        rule=_SERVICE,
        tag="holds",
        summary="Extend an open hold.",
        example={"ttl_seconds": 300},
        answer={
            **_SETTLED,
            "status": "open",
            "charged": 0,
            "returned": 0,
            "held": 50,
            "consumed_from": "none",
            "new_balance": 500,
            "expires_at": "2026-09-01T08:07:00Z",
            "by_credit_type": {"credits": {"charged": 0, "returned": 0, "held": 50, "owed": 0}},
        },
        problems=(404, 409),
        note=_note_extension,
    ),
    route(
        http.RELEASE_HOLD,
        rule=roles(Role.SERVICE, Role.OPERATOR),
        tag="holds",
        summary="Release everything that a hold still holds.",
        example={"reason": "the stream broke off"},
        answer={
            **_SETTLED,
            "status": "released",
            "charged": 0,
            "returned": 50,
            "consumed_from": "none",
            "new_balance": 500,
            "by_credit_type": {"credits": {"charged": 0, "returned": 50, "held": 0, "owed": 0}},
        },
        problems=(404, 409),
        note=_note_release,
    ),
    route(
        http.HOLDS,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="List holds, newest first; by default the open ones.",
        answer={"holds": [_HELD], "count": 1, "next_cursor": None, "correlation_id": "support-12"},
    ),
)
