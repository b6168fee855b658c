"""What a user has, and what the org has that they named."""

from typing import Final

from entitlements.app.access import Role
from entitlements.app.requests import balances
from entitlements.contracts import verbs
from entitlements.contracts.http import BalanceQuery, BalanceResponse
from entitlements.transports.http.request import Reply, Request
from entitlements.transports.http.routes import Route, roles


async def balance(request: Request, _: None) -> Reply:
    """The org is the query's, else that of the header X-Org-ID."""
    named = request.optional_text("org_id", request.query(BalanceQuery).org_id)
    org_id = named or request.text_header(b"x-org-id", "X-Org-ID")
    return Reply(await balances.balance(request, request.params["user_id"], org_id))


ROUTES: Final = (
    Route(
        method="GET",
        path=verbs.BALANCE.path,
        handler=balance,
        rule=roles(Role.SERVICE, Role.READER, Role.OPERATOR),
        tag="balances",
        summary="What a user has, and what the org has that the request names.",
        query=BalanceQuery,
        responses={200: BalanceResponse},
    ),
)
