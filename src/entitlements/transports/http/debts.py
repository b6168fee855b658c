"""Work nobody could pay: listed, settled, written off."""

from typing import Final

from entitlements.app.access import Role
from entitlements.app.requests import debts
from entitlements.contracts import verbs
from entitlements.contracts.http import DebtRequest, DebtResponse, DebtsQuery, DebtsResponse
from entitlements.contracts.verbs import Verb
from entitlements.transports.http.request import Reply, Request, replay_headers
from entitlements.transports.http.routes import Handler, Route, roles


async def list_debts(request: Request, _: None) -> Reply:
    return Reply(await debts.debts(request, request.query(DebtsQuery)))


async def settle(request: Request, body: DebtRequest) -> Reply:
    answer = await debts.settle(request, request.params["operation_id"], body)
    return Reply(answer, headers=replay_headers(answer))


async def write_off(request: Request, body: DebtRequest) -> Reply:
    answer = await debts.write_off(request, request.params["operation_id"], body)
    return Reply(answer, headers=replay_headers(answer))


def _closing(verb: Verb[DebtResponse], handler: Handler, summary: str, *problems: int) -> Route:
    return Route(
        method="POST",
        path=verb.path,
        handler=handler,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary=summary,
        request=DebtRequest,
        responses={200: DebtResponse},
        problems=problems,
        example={"reason": "agreed with the school"},
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
    _closing(verbs.SETTLE_DEBT, settle, "Pay a debt from the debtor's wallet.", 402, 404, 409, 422),
    _closing(verbs.WRITE_OFF_DEBT, write_off, "Forgive a debt.", 404, 409, 422),
)
