"""Opening an account gives the signup bonus, once for ever."""

from typing import Final

from entitlements.app.access import Role
from entitlements.app.requests import administration
from entitlements.contracts import verbs
from entitlements.contracts.http import AccountRequest, AccountResponse
from entitlements.transports.http.request import Reply, Request, replay_headers
from entitlements.transports.http.routes import Route, roles


async def open_account(request: Request, body: AccountRequest) -> Reply:
    answer = await administration.open_account(request, body)
    return Reply(answer, 201 if answer.created else 200, headers=replay_headers(answer))


ROUTES: Final = (
    Route(
        method="POST",
        path=verbs.OPEN_ACCOUNT.path,
        handler=open_account,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Open an account; its signup bonus is given exactly once, ever.",
        request=AccountRequest,
        responses={201: AccountResponse, 200: AccountResponse},
        problems=(422,),
        example={"subject_type": "user", "subject_id": "teacher-7"},
    ),
)
