"""Work nobody could pay: listed, priced, settled, written off."""

from typing import Final

from entitlements.app.access import Role
from entitlements.app.requests import debts
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
from entitlements.transports.http.request import Reply, Request, replay_headers
from entitlements.transports.http.routes import Handler, Route, roles


async def list_debts(request: Request, _: None) -> Reply:
    return Reply(await debts.debts(request, request.query(DebtsQuery)))


async def settle(request: Request, body: SettleDebtRequest) -> Reply:
    answer = await debts.settle(request, request.params["operation_id"], body)
    return Reply(answer, headers=replay_headers(answer))


async def write_off(request: Request, body: DebtRequest) -> Reply:
    answer = await debts.write_off(request, request.params["operation_id"], body)
    return Reply(answer, headers=replay_headers(answer))


async def price(request: Request, body: DebtRequest) -> Reply:
    answer = await debts.price(request, request.params["operation_id"], body)
    return Reply(answer, headers=replay_headers(answer))


def _about_one(
    verb: Verb[DebtResponse | DebtPricedResponse],
    handler: Handler,
    summary: str,
    *problems: int,
    body: type[DebtRequest] = DebtRequest,
    **example: int,
) -> Route:
    return Route(
        method="POST",
        path=verb.path,
        handler=handler,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary=summary,
        request=body,
        responses={200: verb.answer},
        problems=problems,
        example={"reason": "agreed with the school", **example},
    )


ROUTES: Final = (
    Route(
        method="GET",
        path=verbs.DEBTS.path,
        handler=list_debts,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="Work nobody could pay, oldest first.",
        query=DebtsQuery,
        responses={200: DebtsResponse},
    ),
    _about_one(
        verbs.SETTLE_DEBT,
        settle,
        "Pay a debt, or a part of it, from the debtor's wallet.",
        402,
        404,
        409,
        422,
        body=SettleDebtRequest,
        amount=60,
    ),
    _about_one(verbs.WRITE_OFF_DEBT, write_off, "Forgive a debt.", 404, 409, 422),
    _about_one(
        verbs.PRICE_DEBT,
        price,
        "Charge work that had no price by the active policy.",
        404,
        409,
        422,
    ),
)
