"""Routes that open accounts and grant their signup bonus."""

from typing import Final

from entitlements.app.access.keys import Role
from entitlements.app.operations import administration
from entitlements.contracts import verbs
from entitlements.contracts.http import (
    AccountRequest,
    AccountResponse,
    BulkAccountRequest,
    BulkAccountResponse,
)
from entitlements.transports.http.request import (
    HttpRequest,
    Reply,
    bulk_replay_headers,
    replay_headers,
)
from entitlements.transports.http.routes import BODY_MAX, Content, Route, roles


async def open_account(request: HttpRequest, body: AccountRequest) -> Reply:
    answer = await administration.open_account(request, body)
    return Reply(answer, 201 if answer.created else 200, headers=replay_headers(answer))


async def open_accounts(request: HttpRequest, body: BulkAccountRequest) -> Reply:
    answer = await administration.open_accounts(request, body)
    return Reply(answer, headers=bulk_replay_headers(answer.results))


def _account(*, created: bool) -> dict[str, object]:
    return {
        "success": True,
        "created": created,
        "bonus": 50 if created else 0,
        "new_balance": 50,
        "subject_type": "user",
        "subject_id": "teacher-7",
        "operation_id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90" if created else None,
        "correlation_id": "signup-7",
        "replayed": False,
    }


ROUTES: Final = (
    Route(
        method="POST",
        path=verbs.OPEN_ACCOUNT.path,
        handler=open_account,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Open an account; its signup bonus is granted exactly once, ever.",
        request=Content(AccountRequest, {"subject_type": "user", "subject_id": "teacher-7"}),
        responses={
            201: Content(AccountResponse, _account(created=True)),
            200: Content(AccountResponse, _account(created=False)),
        },
    ),
    Route(
        method="POST",
        path=verbs.OPEN_ACCOUNTS.path,
        handler=open_accounts,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Open up to 1,000 accounts, each once; atomic: all or none.",
        request=Content(
            BulkAccountRequest,
            {"items": [{"subject_type": "user", "subject_id": "teacher-7"}]},
        ),
        responses={
            200: Content(
                BulkAccountResponse,
                {
                    "success": True,
                    "results": [_account(created=True)],
                    "correlation_id": "signup-7",
                },
            )
        },
        body_max=4 * BODY_MAX,
    ),
)
