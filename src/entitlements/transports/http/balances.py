"""The route for the balances of a user and an org."""

from typing import Final

from msgspec.structs import replace

from entitlements.app.access.keys import Role
from entitlements.app.operations import balances
from entitlements.contracts import http, names
from entitlements.transports.http.request import HttpRequest, Reply
from entitlements.transports.http.routes import Content, Route, roles


async def balance(request: HttpRequest, _: None) -> Reply:
    """Return balances. The org is from the query, the header X-Org-ID or the only membership."""
    wanted = request.query(http.BalanceQuery)
    if wanted.org_id is None:
        org_id = request.text_header(b"x-org-id", "X-Org-ID", names.optional_stored_id)
        wanted = replace(wanted, org_id=org_id)
    return Reply(await balances.balance(request, wanted))


ROUTES: Final = (
    Route(
        method="GET",
        path=http.BALANCE.path,
        handler=balance,
        rule=roles(Role.SERVICE, Role.READER, Role.OPERATOR),
        tag="balances",
        summary="Get the balances of a user and of an org: the one in the request, else the org of"
        " the user's only membership.",
        query=http.BalanceQuery,
        takes_org=True,
        responses={
            200: Content(
                http.BalanceResponse,
                {
                    "user_id": "teacher-7",
                    "user_balance": 50,
                    "org_balance": 500,
                    "org_id": "school-1",
                    "user_held": 0,
                    "user_available": 50,
                    "org_held": 50,
                    "org_available": 450,
                    "by_credit_type": {
                        "credits": {
                            "user": {
                                "balance": 50,
                                "held": 0,
                                "available": 50,
                                "soonest_expiry": {"at": "2026-12-31T23:00:00Z", "credits": 50},
                            },
                            "org": {
                                "balance": 500,
                                "held": 50,
                                "available": 450,
                                "soonest_expiry": None,
                            },
                        }
                    },
                },
            )
        },
    ),
)
