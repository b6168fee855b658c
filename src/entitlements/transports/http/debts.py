"""Routes that list, price, settle and write off debts."""

from collections.abc import Mapping
from typing import Any, Final

from entitlements.app.access.keys import Role
from entitlements.app.operations import debts
from entitlements.contracts import verbs
from entitlements.contracts.http import (
    DebtPricedResponse,
    DebtRequest,
    DebtResponse,
    DebtsQuery,
    DebtsResponse,
    SettleDebtRequest,
)
from entitlements.contracts.verbs import Verb
from entitlements.transports.http.request import HttpRequest, Reply, replay_headers
from entitlements.transports.http.routes import Content, Handler, Route, roles


async def list_debts(request: HttpRequest, _: None) -> Reply:
    return Reply(await debts.debts(request, request.query(DebtsQuery)))


async def settle_debt(request: HttpRequest, body: SettleDebtRequest) -> Reply:
    answer = await debts.settle(request, request.params["operation_id"], body)
    return Reply(answer, headers=replay_headers(answer))


async def write_off_debt(request: HttpRequest, body: DebtRequest) -> Reply:
    answer = await debts.write_off(request, request.params["operation_id"], body)
    return Reply(answer, headers=replay_headers(answer))


async def price_debt(request: HttpRequest, body: DebtRequest) -> Reply:
    answer = await debts.price(request, request.params["operation_id"], body)
    return Reply(answer, headers=replay_headers(answer))


def _about_one(
    verb: Verb[DebtResponse | DebtPricedResponse],
    handler: Handler,
    summary: str,
    *problems: int,
    request: Content,
    answer: Mapping[str, Any],
) -> Route:
    return Route(
        method="POST",
        path=verb.path,
        handler=handler,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary=summary,
        request=request,
        responses={200: Content(verb.answer, answer)},
        problems=problems,
    )


_REASON: Final = {"reason": "agreed with the school"}
_SETTLED: Final = {
    "success": True,
    "operation_id": "0198c1f2-9b07-7d3a-8c55-0d0f6f0b1c2d",
    "debt_id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90",
    "how": "settled",
    "credits": 60,
    "owed": 0,
    "new_balance": 440,
    "correlation_id": "support-12",
    "replayed": False,
}
_WRITTEN_OFF: Final = {**_SETTLED, "how": "written_off", "new_balance": 0}
_PRICED: Final = {
    "success": True,
    "operation_id": "0198c1f2-9b07-7d3a-8c55-0d0f6f0b1c2d",
    "debt_id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90",
    "credit_type": "credits",
    "credits": 60,
    "owed": 0,
    "consumed_from": "org",
    "new_balance": 440,
    "correlation_id": "support-12",
    "replayed": False,
}
ROUTES: Final = (
    Route(
        method="GET",
        path=verbs.DEBTS.path,
        handler=list_debts,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="List debts of work that no payer covered, oldest first.",
        query=DebtsQuery,
        responses={
            200: Content(
                DebtsResponse,
                {
                    "debts": [
                        {
                            "operation_id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90",
                            "subject_type": "org",
                            "subject_id": "school-1",
                            "credit_type": "credits",
                            "metric": "cj_comparison",
                            "owed": 60,
                            "created_at": "2026-09-01T08:00:00Z",
                            "closed_by": None,
                        }
                    ],
                    "count": 1,
                    "next_cursor": None,
                    "correlation_id": "support-12",
                },
            )
        },
    ),
    _about_one(
        verbs.SETTLE_DEBT,
        settle_debt,
        "Settle a debt, or a part of it, from the debtor's wallet.",
        402,
        404,
        409,
        request=Content(SettleDebtRequest, {**_REASON, "amount": 60}),
        answer=_SETTLED,
    ),
    _about_one(
        verbs.WRITE_OFF_DEBT,
        write_off_debt,
        "Write off a debt.",
        404,
        409,
        request=Content(DebtRequest, _REASON),
        answer=_WRITTEN_OFF,
    ),
    _about_one(
        verbs.PRICE_DEBT,
        price_debt,
        "Charge unpriced work by the active policy.",
        404,
        409,
        request=Content(DebtRequest, _REASON),
        answer=_PRICED,
    ),
)
